"""Resampling of sentences, as a stream: tokens of one sentence depend on each other, so sentences are drawn.

Each sentence gets a Poisson(1) weight in each resample instead of a place in a drawn list (Chamandy et al. 2012,
"Estimating Uncertainty for Massive Data Streams"). The weight depends only on the seed and the sentence's number:
sums of bins are kept for each resample, not sentences, parts add up, and two systems see the same resamples.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mt.metrics.tokens import Floats


class SentenceBootstrap:
    """Resampled sums of bins.

    bins: how many. resamples: how many. seed: of the weights.
    """

    def __init__(self, bins: int, resamples: int, seed: int) -> None:
        self.bins = bins
        self.resamples = resamples
        self.seed = seed
        self.gap = np.zeros((resamples, bins))
        self.tokens = np.zeros(resamples)
        self.last_line = -1

    def update(self, bin_of_token: NDArray[np.intp], gap: Floats, lines: NDArray[np.int64]) -> None:
        """Adds tokens, all (n,): their bins, correct less confidence, and the numbers of their sentences."""
        numbers, sentence = np.unique(lines, return_inverse=True)
        if not len(numbers):
            return
        sums = np.zeros((len(numbers), self.bins))
        np.add.at(sums, (sentence, bin_of_token), gap)
        weights = np.stack([_weights(self.seed, int(line), self.resamples) for line in numbers]).astype(np.float64)
        self.gap += weights.T @ sums
        self.tokens += np.bincount(sentence) @ weights
        self.last_line = max(self.last_line, int(numbers[-1]))

    def merge(self, other: SentenceBootstrap) -> None:
        """Adds another part. Raises ValueError if it was resampled otherwise."""
        self._check(other)
        self.gap += other.gap
        self.tokens += other.tokens
        self.last_line = max(self.last_line, other.last_line)

    def errors(self) -> Floats:
        """ECE of each resample, (resamples,)."""
        return np.asarray(np.abs(self.gap).sum(1) / np.maximum(self.tokens, 1.0))

    def interval(self, estimate: float) -> tuple[float, float]:
        """95 % basic interval of the ECE within 0..1: 2 estimate - quantile. Resampled ECE is biased upward as the
        ECE itself is; the percentile interval would inherit that, this one takes it off. It need not hold the
        estimate."""
        low, high = _basic(estimate, self.errors())
        return min(1.0, max(0.0, low)), min(1.0, max(0.0, high))

    def difference(self, other: SentenceBootstrap, estimate: float) -> tuple[float, float, float]:
        """Low, high (95 % basic interval) and two-sided p of the difference of two ECEs over the same sentences.
        p: share of resamples whose difference is as far from the estimate as the estimate is from 0."""
        self._check(other)
        if self.last_line != other.last_line:
            raise ValueError(f"sentences end at {self.last_line} and {other.last_line}; pairs need the same ones")
        differences = self.errors() - other.errors()
        beyond = np.abs(differences - differences.mean()) >= abs(estimate)
        return *_basic(estimate, differences), float((1 + beyond.sum()) / (1 + self.resamples))

    def _check(self, other: SentenceBootstrap) -> None:
        ours, theirs = (self.bins, self.resamples, self.seed), (other.bins, other.resamples, other.seed)
        if ours != theirs:
            raise ValueError(f"bins, resamples and seed differ: {ours} and {theirs}")


def _basic(estimate: float, resampled: Floats) -> tuple[float, float]:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(2 * estimate - high), float(2 * estimate - low)


@lru_cache(maxsize=4096)
def _weights(seed: int, line: int, resamples: int) -> NDArray[np.uint8]:
    """A sentence's weight in each resample; kept for a while, since parts of a sentence are counted apart."""
    return np.random.default_rng((seed, line)).poisson(1.0, resamples).astype(np.uint8)
