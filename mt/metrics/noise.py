"""What chance alone does to a figure: noise floor and interval of a calibration error, differences of two systems.

Tokens of one sentence depend on each other, so sentences are what is drawn. Scores of a corpus are sums over its
sentences, drawn with replacement (Koehn 2004). A calibration error is the sum over bins of |gap|, a bin's gap being its
sum of correct - confidence. Gaps are sums over sentences, so their noise is normal, with the covariance of the
sentences' own gaps (Liang and Zeger 1986), and an error's interval is what a test with that noise does not reject.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_DRAWS = 4000
_NORMAL_95 = 1.959963984540054

Difference = dict[str, float]
"""how one system's figure differs from another's over the same sentences: `difference`; `low`, `high`: its 95 %
interval; `p`, two-sided, from the same resamples: below 0.05 exactly where the interval leaves out 0"""


def error_noise(gap: Floats, covariance: Floats) -> tuple[float, float, float, float]:
    """Of a calibration error times the number of tokens, sum |gap| over bins; gap (bins,) has covariance (bins, bins):
    the mean and the 95 % quantile of what a perfectly calibrated model shows by chance, and the 95 % interval of the
    true error, which holds 0 exactly where the measured error is at most that quantile. By simulation, seed fixed.

    The interval holds the errors for which the measured one lies between the 2.5 and 97.5 % quantiles of |true gaps +
    noise|. These depend on how the true error is spread over bins: noise adds most to bins without a gap of their own.
    So the low end is sought with the error in the bins whose gap exceeds two standard errors, the high end with it in
    all bins, in proportion to their standard errors and in one direction. (The shape of the measured gaps, taken for
    both, covered a fault in one bin of 15 in 70 % of simulations.)
    """
    ridge = 1e-12 * np.trace(covariance) + 1e-20  # empty bins have no noise; the factors need some
    factors = np.linalg.cholesky(covariance + ridge * np.eye(len(gap)))
    noise = np.random.default_rng(0).standard_normal((_DRAWS, len(gap))) @ factors.T
    chance, deviation = np.abs(noise).sum(1), np.sqrt(np.diag(covariance) + ridge)
    measured, floor_high = float(np.abs(gap).sum()), float(np.quantile(chance, 0.95))

    def end(shape: Floats, level: float) -> float:
        """The true error of this shape for which the measured one is the quantile `level`."""
        low, high = 0.0, measured + float(chance.max())
        for _ in range(20):  # quantiles rise with the error (Anderson 1955)
            middle = (low + high) / 2
            drawn = np.abs(middle * shape / np.abs(shape).sum() + noise).sum(1)
            low, high = (middle, high) if np.quantile(drawn, level) < measured else (low, middle)
        return (low + high) / 2

    sure = gap * (np.abs(gap) > 2 * deviation)
    low = end(sure if sure.any() else gap, 0.975) if measured > floor_high else 0.0
    return math.sqrt(2 / math.pi) * float(deviation.sum()), floor_high, low, end(deviation, 0.025)


def wilson_interval(correct: float, count: float) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927): `correct` of `count`."""
    share, square = correct / count, _NORMAL_95 * _NORMAL_95
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = _NORMAL_95 / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def resampled_counts(sentences: int, resamples: int, seed: int) -> Iterator[NDArray[np.intp]]:
    """How often each of the sentences is drawn, (sentences,), for each resample."""
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(generator.integers(sentences, size=sentences), minlength=sentences)


def paired_bootstrap(
    statistics: Sequence[Floats], score: Callable[[Floats], float], *, resamples: int, seed: int, biased: bool = False
) -> list[Difference]:
    """Differences of every system's corpus score from that of the first one, over the same resamples of sentences.

    `statistics` are those of each system, (sentences, figures), whose sums over sentences (figures,) make its `score`.
    The interval is the percentile interval; with `biased`, for scores that resampling raises, as it does calibration
    errors, the basic one, 2 difference - quantile, widened to hold where it would lie without its correction of the
    bias, which overshoots. It takes 40 `resamples` or more. sacreBLEU's paired bootstrap counts one side only: its p is
    about half of this one.
    """
    counts = resampled_counts(len(statistics[0]), resamples, seed)
    resampled = np.array([[score(each @ system) for system in statistics] for each in counts])
    measured = [score(each.sum(axis=0)) for each in statistics]
    cut = max(0, math.ceil(0.025 * (resamples + 1)) - 2)  # as many beyond 0 make p < 0.05, and one more does not
    found = []
    for score_of_system, drawn in zip(measured[1:], resampled.T[1:] - resampled[:, 0]):
        difference = float(score_of_system - measured[0])
        shift = drawn.mean() - difference if biased else 0.0
        drawn = np.sort(2 * difference - drawn if biased else drawn)
        lower, upper = drawn + min(0.0, shift), drawn + max(0.0, shift)
        low, high, beyond = lower[cut], upper[-cut - 1], min((lower <= 0).sum(), (upper >= 0).sum())
        p = min(1.0, 2 * (1 + int(beyond)) / (1 + resamples))
        found.append({"difference": difference, "low": float(low), "high": float(high), "p": p})
    return found


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for their number (Holm 1979): where those below 0.05 are taken for real, all of them are, with
    probability 0.95 at least."""
    order = np.argsort(p_values, kind="stable")
    steps = np.array(p_values)[order] * np.arange(len(order), 0, -1)
    return np.maximum.accumulate(steps.clip(max=1.0))[np.argsort(order)].tolist()
