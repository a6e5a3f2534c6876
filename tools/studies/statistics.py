"""Differences of two losses over seeds and sentences: effect, interval, p value, and the verdict on a claim.

Both sources of chance count: another seed, and another text. A replicate draws seeds, and sentences once for all of
them, since all are measured on the same text. With fewer than five seeds their own spread is hardly known: Student's t
over them is computed, too, and the wider interval and the larger p value count. "No difference" is never said because
none was found: it takes two one-sided tests against a margin (Schuirmann 1987). p values of one question are adjusted
by Holm's method (mt.metrics.noise.holm).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from mt.metrics.noise import Floats

MARGINS = {"bleu": 0.5, "chrf": 0.5, "nll": 0.01, "kl": 0.01}
"""differences that are none, by outcome"""
OTHER_MARGIN = 0.005
_SEEDS_THAT_TELL = 5
_LEVEL, _POWER = 0.05, 0.8


class Difference(NamedTuple):
    """Mean over seeds of one measure's difference between two groups of cells."""

    effect: float
    low: float
    high: float
    """95 % interval"""
    p: float
    """two-sided, that there is a difference; 1 with one seed"""
    p_same: float
    """that it is within the margin: the larger of two one-sided tests; 1 with one seed"""
    seeds: int
    detectable: float
    """the difference that would have been seen in 80 of 100 such studies"""
    margin: float


def student_cdf(t: float, freedom: int) -> float:
    """Distribution function of Student's t for 1, 2 or 3 degrees of freedom, in closed form."""
    if freedom == 1:
        return 0.5 + math.atan(t) / math.pi
    if freedom == 2:
        return 0.5 + t / (2 * math.sqrt(2 + t * t))
    if freedom == 3:
        x = t / math.sqrt(3)
        return 0.5 + (x / (1 + x * x) + math.atan(x)) / math.pi
    raise ValueError(f"freedom is {freedom}; it must be 1, 2 or 3")


def student_quantile(share: float, freedom: int) -> float:
    """The t below which that share of the distribution lies, 0.5 < share < 1."""
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if student_cdf(middle, freedom) < share else (low, middle)
    return (low + high) / 2


def two_level_difference(measured: Floats, replicates: Floats, margin: float, seed: int = 1) -> Difference:
    """From the differences of each seed, (seeds,), and the same on resampled sentences, (seeds, resamples), where a
    column is the same draw of sentences for all. The standard error of the mean over drawn seeds is the bootstrap's."""
    seeds, resamples = replicates.shape
    generator = np.random.default_rng(seed)
    drawn = generator.integers(seeds, size=(seeds, resamples))
    error = float(np.std(np.take_along_axis(replicates, drawn, 0).mean(0), ddof=1))
    effect, normal = float(measured.mean()), NormalDist()
    ways: list[tuple[float, Callable[[float], float], Callable[[float], float]]]
    ways = [(max(error, 1e-12), normal.cdf, normal.inv_cdf)]
    if 1 < seeds < _SEEDS_THAT_TELL:
        spread = max(float(np.std(measured, ddof=1)) / math.sqrt(seeds), 1e-12)
        freedom = seeds - 1
        ways.append((spread, lambda t: student_cdf(t, freedom), lambda share: student_quantile(share, freedom)))
    half = max(scale * quantile(1 - _LEVEL / 2) for scale, _, quantile in ways)
    detectable = max(scale * (quantile(1 - _LEVEL / 2) + quantile(_POWER)) for scale, _, quantile in ways)
    p = max(2 * (1 - cdf(abs(effect) / scale)) for scale, cdf, _ in ways)
    p_same = max(1 - cdf((margin - abs(effect)) / scale) for scale, cdf, _ in ways)
    if seeds == 1:  # nothing is known of other seeds
        p = p_same = 1.0
    return Difference(effect, effect - half, effect + half, p, p_same, seeds, detectable, margin)


def decision(difference: Difference, claim: str, adjusted: float, adjusted_same: float) -> str:
    """What a comparison says of its claim (higher, lower, same): supported, refuted or open."""
    exists, same = adjusted < _LEVEL, adjusted_same < _LEVEL
    if claim == "same":
        beyond = exists and (difference.low > difference.margin or difference.high < -difference.margin)
        return "supported" if same else "refuted" if beyond else "open"
    as_claimed = (difference.effect > 0) == (claim == "higher")
    if exists:
        return "supported" if as_claimed else "refuted"
    return "refuted" if same else "open"


def verdict(decisions: Sequence[str]) -> str:
    """Of a whole question, from the comparisons that were run: supported, refuted or open where all of them are, else
    mixed."""
    found = set(decisions)
    return found.pop() if len(found) == 1 else "mixed" if found else "not run"
