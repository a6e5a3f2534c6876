"""What chance alone does to a figure: noise floor of a binned calibration error, intervals, resampling of sentences.

Tokens of one sentence depend on each other, so whole sentences are drawn. Scores of a corpus are sums over its
sentences, drawn with replacement (Koehn 2004). For streams of tokens each sentence gets a Poisson(1) weight in each
resample instead of a place in a drawn list (Chamandy et al. 2012, "Estimating Uncertainty for Massive Data Streams").
The weight depends only on the seed and the sentence's number: sums of bins are kept for each resample, not sentences,
and two systems see the same resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_DRAWS = 4000
_NORMAL_95 = 1.959963984540054

Difference = dict[str, float]
"""how one system's figure differs from another's over the same sentences: `difference`; `low`, `high`: its 95 %
interval; `p`, two-sided: the share of resamples whose difference is as far from their mean as the measured one is from
0, one added to both counts"""


def noise_floor(variance: Floats) -> float:
    """Mean ECE of a perfectly calibrated model, times the number of tokens.

    `variance` (bins,) is that of each bin's number of right tokens: the sum of c (1 - c) over the tokens' confidences
    c, exactly, if every c is the probability of being right given what came before; n A (1 - A) is the usual stand-in.
    Each bin adds the mean of |normal|, sqrt(2 variance / pi).
    """
    return float(np.sqrt(2 * variance / math.pi).sum())


def noise_quantile(variance: Floats) -> float:
    """What the ECE of a perfectly calibrated model, times the number of tokens, stays below with probability 0.95: by
    simulation with a fixed seed, about 1 % of itself exact. For `variance` see noise_floor."""
    draws = np.random.default_rng(0).standard_normal((_DRAWS, len(variance)))
    return float(np.quantile(np.abs(draws) @ np.sqrt(variance), 0.95))


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
    statistics: Sequence[Floats], score: Callable[[Floats], float], *, resamples: int, seed: int
) -> list[Difference]:
    """Differences of every system's corpus score from that of the first one, over the same resamples of sentences.

    `statistics` are those of each system, (sentences, figures), whose sums over sentences (figures,) make its `score`.
    The interval is the percentile interval. sacreBLEU's paired bootstrap counts one side only: its p is about half of
    this one.
    """
    counts = resampled_counts(len(statistics[0]), resamples, seed)
    resampled = np.array([[score(each @ system) for system in statistics] for each in counts])
    measured = [score(each.sum(axis=0)) for each in statistics]
    found = []
    for score_of_system, drawn in zip(measured[1:], resampled.T[1:] - resampled[:, 0]):
        difference = float(score_of_system - measured[0])
        low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
        found.append({"difference": difference, "low": low, "high": high, "p": _p_value(difference, drawn)})
    return found


class SentenceBootstrap:
    """Resampled sums of bins, of a stream of tokens; `seed` is that of the sentences' weights."""

    def __init__(self, bins: int, resamples: int, seed: int) -> None:
        self.seed, self.gap, self.tokens = seed, np.zeros((resamples, bins)), np.zeros(resamples)

    def update(self, bin_of_token: NDArray[np.intp], gap: Floats, lines: NDArray[np.int64]) -> None:
        """Adds tokens, all (n,): their bins, correct less confidence, and the numbers of their sentences."""
        numbers, sentence = np.unique(lines, return_inverse=True)
        if not len(numbers):
            return
        resamples, bins = self.gap.shape
        sums = np.zeros((len(numbers), bins))
        np.add.at(sums, (sentence, bin_of_token), gap)
        weights = np.stack([_weights(self.seed, int(line), resamples) for line in numbers]).astype(np.float64)
        self.gap += weights.T @ sums
        self.tokens += np.bincount(sentence) @ weights

    def errors(self) -> Floats:
        """ECE of each resample, (resamples,)."""
        return np.asarray(np.abs(self.gap).sum(1) / np.maximum(self.tokens, 1.0))

    def interval(self, estimate: float) -> tuple[float, float]:
        """95 % basic interval of the ECE within 0..1: 2 estimate - quantile. Resampled ECE is biased upward as the
        ECE itself is; the percentile interval would inherit that, this one takes it off. It need not hold the
        estimate."""
        low, high = (2 * estimate - np.quantile(self.errors(), [0.975, 0.025])).clip(0.0, 1.0).tolist()
        return low, high

    def difference(self, other: SentenceBootstrap, estimate: float) -> Difference:
        """The difference of two ECEs, which is `estimate`, over the same sentences and with the same seed, with its
        basic interval."""
        drawn = self.errors() - other.errors()
        low, high = (2 * estimate - np.quantile(drawn, [0.975, 0.025])).tolist()
        return {"difference": estimate, "low": low, "high": high, "p": _p_value(estimate, drawn)}


def _p_value(difference: float, drawn: Floats) -> float:
    beyond = np.abs(drawn - drawn.mean()) >= abs(difference)
    return float((1 + beyond.sum()) / (1 + len(drawn)))


@lru_cache(maxsize=4096)
def _weights(seed: int, line: int, resamples: int) -> NDArray[np.uint8]:
    """A sentence's weight in each resample; kept for a while, since parts of a sentence are counted apart."""
    return np.random.default_rng((seed, line)).poisson(1.0, resamples).astype(np.uint8)
