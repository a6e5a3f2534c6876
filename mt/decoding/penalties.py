"""Length penalties: what the sum of log-probabilities is divided by when a hypothesis ends."""

from __future__ import annotations


def length_penalty(name: str, length: int, alpha: float) -> float:
    """The divisor of a finished hypothesis.

    Args:
        name: "none"; "average", length ** alpha (alpha 1: the mean log-probability of a token); "gnmt",
            ((5 + length) / 6) ** alpha (Wu et al. 2016, section 7).
        length: tokens, end of sentence counted.
        alpha: exponent, 0 or more; without effect on "none".

    Returns:
        A positive number that never falls as the length grows: the search's stopping rule relies on it.

    Raises:
        ValueError: unknown name.
    """
    if name == "none":
        return 1.0
    if name == "average":
        return float(length**alpha)
    if name == "gnmt":
        return float(((5 + length) / 6) ** alpha)
    raise ValueError(f"length penalty {name!r}; it must be none, average or gnmt")


def normalised_score(total: float, name: str, length: int, alpha: float) -> float:
    """What hypotheses are ranked by: the sum of log-probabilities (nats) over the length penalty."""
    return total / length_penalty(name, length, alpha)
