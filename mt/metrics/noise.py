"""What chance alone does to a binned calibration error: noise floor, debiased estimates, bands.

All take sums of each bin: count n, confidence and correct (how many are right), as arrays (bins,).
"""

from __future__ import annotations

import math

import numpy as np

from mt.metrics.tokens import Floats

_DRAWS = 4000
_NORMAL_95 = 1.959963984540054


def noise_floor(variance: Floats) -> float:
    """Mean ECE of a perfectly calibrated model, times the number of tokens.

    variance: of each bin's number of right tokens. It is the sum of c (1 - c) over the tokens' confidences c,
    exactly, if every c is the probability of being right given what came before; n A (1 - A) is the usual stand-in.
    Each bin adds the mean of |normal|, sqrt(2 variance / pi).
    """
    return float(np.sqrt(2 * variance / math.pi).sum())


def noise_quantile(variance: Floats, share: float = 0.95) -> float:
    """What the ECE of a perfectly calibrated model, times the number of tokens, stays below with probability
    `share`: by simulation with a fixed seed, about 1 % of itself exact. For `variance` see noise_floor."""
    draws = np.random.default_rng(0).standard_normal((_DRAWS, len(variance)))
    return float(np.quantile(np.abs(draws) @ np.sqrt(variance), share))


def squared_error(count: Floats, confidence: Floats, correct: Floats) -> tuple[float, float]:
    """Sum over bins of their share times (accuracy - confidence)^2: as it stands, and less its bias.

    The bias of a bin is A (1 - A) / (n - 1); bins of one token count only in the first. The second may be negative;
    the l2 calibration error is the root of what is left above 0. Kumar, Liang and Ma 2019, arXiv:1909.10155.
    """
    tokens = count.sum()
    if not tokens:
        return 0.0, 0.0
    several = count >= 2
    n = np.maximum(count, 1.0)
    accuracy = correct / n
    plain = count / tokens * (accuracy - confidence / n) ** 2
    bias = count / tokens * accuracy * (1 - accuracy) / np.maximum(n - 1, 1.0)
    return float(plain.sum()), float((plain - bias)[several].sum())


def debiased_error(count: Floats, confidence: Floats, correct: Floats) -> float:
    """2 ECE - E[ECE], the latter over accuracies drawn from N(A, A (1 - A) / n) around the measured ones, in closed
    form (mean of a folded normal); not below 0. Kumar, Liang and Ma 2019."""
    tokens = count.sum()
    if not tokens:
        return 0.0
    n = np.maximum(count, 1.0)
    gap = np.abs(correct - confidence)
    spread = np.sqrt(correct * (1 - correct / n))
    ratio = np.divide(gap, spread, out=np.full_like(gap, 40.0), where=spread > 0)
    inside = np.array([math.erf(each / math.sqrt(2)) for each in ratio])
    expected = spread * math.sqrt(2 / math.pi) * np.exp(-ratio * ratio / 2) + gap * inside
    return max(0.0, float((2 * gap - expected).sum() / tokens))


def wilson_interval(correct: float, count: float, deviations: float = _NORMAL_95) -> tuple[float, float]:
    """Interval of a proportion (Wilson 1927): `correct` of `count`, 95 % unless told otherwise."""
    share, square = correct / count, deviations * deviations
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = deviations / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)
