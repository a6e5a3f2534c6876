"""Expected calibration error from bins of confidence, as a stream: any number of tokens in constant memory.

Bin m of M covers (m / M, (m + 1) / M], the first one 0 too (Guo et al. 2017), or [m / M, (m + 1) / M), the last
one 1 too (Wang et al. 2020, for inference). The edge rule is part of the result: on ten tokens it can move the
error from 0.26 to 0.18. Edges are m / M by division, so 0.3 is 0.3 and not 0.30000000000000004; confidences are
compared in float64, whatever they come in.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mt.metrics.noise import debiased_error, noise_floor, noise_quantile, squared_error, wilson_interval
from mt.metrics.ranks import ConfidenceOrder
from mt.metrics.tokens import ROUNDING, Floats, as_floats, checked


class CalibrationBins:
    """Counts and sums of confidence and correctness in bins of equal width; parts may be merged.

    bins: how many. edges: which end a bin includes. level, eos, split: stand in the signature only: whether
    tokens are subwords or words, whether ends of sentence are among them, and what was measured
    (teacher_forced, inference).
    """

    def __init__(
        self, *, bins: int = 15, edges: str = "(l,r]", level: str = "subword", eos: str = "yes", split: str = ""
    ) -> None:
        if bins < 1:
            raise ValueError(f"bins is {bins}; it must be at least 1")
        if edges not in ("(l,r]", "[l,r)"):
            raise ValueError(f"edges is {edges!r}; it must be '(l,r]' or '[l,r)'")
        self.bins = bins
        self.edges = edges
        self.signature = f"ece|bins:{bins}|edges:{edges}|level:{level}|eos:{eos}"
        self.signature += f"|split:{split}" if split else ""
        self.borders = np.array([m / bins for m in range(bins + 1)])
        self.count = np.zeros(bins, dtype=np.int64)
        self.confidence = np.zeros(bins)
        self.correct = np.zeros(bins)
        self.variance = np.zeros(bins)
        """sum of c (1 - c)"""
        self.nll: float | None = 0.0
        self.brier: float | None = 0.0

    def update(self, confidence: Any, correct: Any, *, nll: Any = None, brier: Any = None) -> None:
        """Counts tokens.

        confidence: array-like or tensor of probabilities. correct: as many booleans, or 0 and 1. nll: each
        token's -log p in nats, and brier its Brier score in 0..1, the multi-class one halved:
        (1 - 2 p_y + sum_k p_k^2) / 2; left out in one call, their means are unknown for the whole. Raises
        ValueError for a confidence that is not in 0..1 and for lengths that differ.
        """
        certain, right = checked(confidence, correct)
        index = self.bin_of(certain)
        self.count += np.bincount(index, minlength=self.bins)
        self.confidence += np.bincount(index, weights=certain, minlength=self.bins)
        self.correct += np.bincount(index, weights=right, minlength=self.bins)
        self.variance += np.bincount(index, weights=certain * (1 - certain), minlength=self.bins)
        self.nll = _added(self.nll, nll, "nll", len(certain), highest=np.inf)
        self.brier = _added(self.brier, brier, "brier", len(certain), highest=1.0 + ROUNDING)

    def bin_of(self, probabilities: Floats) -> NDArray[np.intp]:
        """Index of the bin that each of probabilities (n,) in 0..1 falls into."""
        side: Literal["left", "right"] = "left" if self.edges == "(l,r]" else "right"
        return np.searchsorted(self.borders[1:-1], probabilities, side=side)

    def merge(self, other: CalibrationBins) -> None:
        """Adds another part. Raises ValueError if its bins differ."""
        if (self.bins, self.edges) != (other.bins, other.edges):
            raise ValueError(f"bins differ: {self.signature} and {other.signature}")
        self.count += other.count
        self.confidence += other.confidence
        self.correct += other.correct
        self.variance += other.variance
        self.nll = None if self.nll is None or other.nll is None else self.nll + other.nll
        self.brier = None if self.brier is None or other.brier is None else self.brier + other.brier

    def ece(self) -> float:
        """Sum over bins of their share of tokens times |accuracy - mean confidence|; 0 without tokens."""
        return float(np.abs(self.correct - self.confidence).sum() / max(1, self.count.sum()))

    def result(self) -> dict[str, Any]:
        """The figures of bins in the calibration block of results.json.

        `ece`: sum over bins of their share of tokens times |accuracy - mean confidence|; `mce`: the largest such
        difference; `signed_gap`: mean confidence - accuracy; `ece_debiased`, `ce2_debiased`: less what chance adds,
        the latter of root mean square (Kumar et al. 2019); `noise_floor`, `noise_floor_high`: the ECE that a
        perfectly calibrated model of the same confidences would show, mean and 95 % quantile; `nll` in nats; `brier`
        in 0..1. What is unknown, or has no tokens, is None; the ece of no tokens is 0.
        """
        tokens = int(self.count.sum())
        gap = np.abs(self.correct - self.confidence)
        filled = self.count > 0
        confidence, accuracy = _mean(self.confidence.sum(), tokens), _mean(self.correct.sum(), tokens)
        sums = self.count.astype(np.float64), self.confidence, self.correct
        return {
            "tokens": tokens,
            "ece": self.ece(),
            "mce": float((gap[filled] / self.count[filled]).max()) if tokens else None,
            "nll": None if self.nll is None else _mean(self.nll, tokens),
            "brier": None if self.brier is None else _mean(self.brier, tokens),
            "accuracy": accuracy,
            "confidence": confidence,
            "signed_gap": None if confidence is None or accuracy is None else confidence - accuracy,
            "ece_debiased": debiased_error(*sums) if tokens else None,
            "ce2_debiased": math.sqrt(max(0.0, squared_error(*sums)[1])) if tokens else None,
            "noise_floor": _mean(noise_floor(self.variance), tokens),
            "noise_floor_high": _mean(noise_quantile(self.variance), tokens) if tokens else None,
            "bins": [self._bin(index) for index in range(self.bins)],
            "signature": self.signature,
        }

    def _bin(self, index: int) -> dict[str, Any]:
        """A bin of the block; its band is the 95 % Wilson interval of its accuracy."""
        count = int(self.count[index])
        band = wilson_interval(float(self.correct[index]), count) if count else (None, None)
        return {
            "low": float(self.borders[index]),
            "high": float(self.borders[index + 1]),
            "count": count,
            "confidence": _mean(self.confidence[index], count),
            "accuracy": _mean(self.correct[index], count),
            "band_low": band[0],
            "band_high": band[1],
        }


def expected_calibration_error(
    confidence: Any, correct: Any, *, bins: int = 15, scheme: str = "width", edges: str = "(l,r]"
) -> float:
    """Sum over bins of their share of tokens times |accuracy - mean confidence|, in 0..1; 0 without tokens.

    confidence: array-like of probabilities, correct: as many booleans, or 0 and 1. scheme `width`: bins of equal
    width, `edges` says which end belongs to a bin. scheme `mass`: bins of equally many tokens, by a stable sort,
    bin = floor(rank * bins / n). Raises ValueError.
    """
    if scheme == "width":
        counted = CalibrationBins(bins=bins, edges=edges)
        counted.update(confidence, correct)
        return counted.ece()
    if scheme != "mass":
        raise ValueError(f"scheme is {scheme!r}; it must be 'width' or 'mass'")
    if bins < 1:
        raise ValueError(f"bins is {bins}; it must be at least 1")
    return _sorted(confidence, correct).equal_mass_error(bins)


def sweep_calibration_error(confidence: Any, correct: Any) -> dict[str, Any]:
    """ECE_sweep (Roelofs et al. 2022): equal-mass bins, as many as leave their accuracies in rising order.

    confidence, correct: as in expected_calibration_error. {"ece", "bins"}. Raises ValueError.
    """
    return _sorted(confidence, correct).sweep()


def _sorted(confidence: Any, correct: Any) -> ConfidenceOrder:
    certain, right = checked(confidence, correct)
    order = np.argsort(certain, kind="stable")
    return ConfidenceOrder.of_sorted(certain[order], right[order])


def _added(total: float | None, values: Any, name: str, tokens: int, highest: float) -> float | None:
    """total plus the sum of values; None if either is unknown."""
    if values is None:
        return total if not tokens else None
    array = as_floats(values)
    if len(array) != tokens:
        raise ValueError(f"{tokens} confidences and {len(array)} values of {name}; they must be equally many")
    if not np.all((array >= -ROUNDING) & (array <= highest)):
        raise ValueError(f"a value of {name} lies outside of 0 to {highest:g}")
    return None if total is None else total + float(array.sum())


def _mean(total: float, count: int) -> float | None:
    return float(total) / count if count else None
