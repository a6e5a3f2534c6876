"""What hypotheses are ranked by when they end: their log-probability, corrected for length."""

from __future__ import annotations


def length_penalty(name: str, length: int, alpha: float) -> float:
    """The divisor of a finished hypothesis, a positive number.

    It never falls as the length grows: the search's stopping rule relies on that.

    Args:
        name: "none" and "reward": 1; "average", length ** alpha (alpha 1: the mean log-probability of a token);
            "gnmt", ((5 + length) / 6) ** alpha (Wu et al. 2016, section 7).
        length: tokens, end of sentence counted.
        alpha: exponent, 0 or more.
    """
    if name == "average":
        return float(length**alpha)
    return float(((5 + length) / 6) ** alpha) if name == "gnmt" else 1.0


def length_reward(name: str, length: int, alpha: float) -> float:
    """What is added to the score: with "reward" `alpha` nats a token (He et al. 2016; Murray & Chiang 2018,
    section 3), else 0."""
    return alpha * length if name == "reward" else 0.0


def normalised_score(total: float, name: str, length: int, alpha: float) -> float:
    """The sum of log-probabilities `total` (nats) over the length penalty, plus the reward."""
    return total / length_penalty(name, length, alpha) + length_reward(name, length, alpha)
