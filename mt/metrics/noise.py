"""What chance alone does to a binned calibration error: the noise floor, and the interval of a share."""

from __future__ import annotations

import math

import numpy as np

from mt.metrics.arrays import Floats

_DRAWS = 4000
_NORMAL_95 = 1.959963984540054


def noise_floor(variance: Floats) -> float:
    """Mean ECE of a perfectly calibrated model, times the number of tokens.

    Args:
        variance: (bins,), of each bin's number of right tokens. It is the sum of c (1 - c) over the tokens'
            confidences c, exactly, if every c is the probability of being right given what came before; n A (1 - A)
            is the usual stand-in. Each bin adds the mean of |normal|, sqrt(2 variance / pi).
    """
    return float(np.sqrt(2 * variance / math.pi).sum())


def noise_quantile(variance: Floats, share: float = 0.95) -> float:
    """What the ECE of a perfectly calibrated model, times the number of tokens, stays below with probability
    `share`: by simulation with a fixed seed, about 1 % of itself exact. For `variance` see noise_floor."""
    draws = np.random.default_rng(0).standard_normal((_DRAWS, len(variance)))
    return float(np.quantile(np.abs(draws) @ np.sqrt(variance), share))


def wilson_interval(correct: float, count: float, deviations: float = _NORMAL_95) -> tuple[float, float]:
    """Interval of a proportion (Wilson 1927): `correct` of `count`, 95 % unless told otherwise."""
    share, square = correct / count, deviations * deviations
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = deviations / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)
