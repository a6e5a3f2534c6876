"""Expected calibration error from bins of confidence, as a stream: any number of tokens in constant memory.

Bin m of M covers (m / M, (m + 1) / M], the first one 0 too (Guo et al. 2017), or [m / M, (m + 1) / M), the last
one 1 too (Wang et al. 2020, for inference). The edge rule is part of the result: on ten tokens it can move the
error from 0.26 to 0.18. Edges are m / M by division, so 0.3 is 0.3 and not 0.30000000000000004; confidences are
compared in float64, whatever type they come in.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, TypeAlias, TypedDict, cast

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from mt.metrics.noise import Floats, error_noise, wilson_interval
from mt.metrics.ranks import ConfidenceHistogram

ROUNDING = 1e-6
"""a float32 softmax may exceed 1 by so much; it is taken as 1"""
Probability: TypeAlias = Annotated[float, Meta(ge=0, le=1 + ROUNDING)]
PROTOCOLS: dict[str, dict[str, Any]] = {
    "teacher_forced": {"bins": 15, "edges": "(l,r]"},
    "inference": {"bins": 20, "edges": "[l,r)"},
}
"""the bins of each protocol, as published"""


class CalibrationBlock(TypedDict, total=False):
    """A calibration block of results.json. What is unknown, or has no tokens, is None; the ece of no tokens is 0."""

    tokens: Annotated[int, Meta(ge=0)]
    ece: Probability
    """sum over bins of their share of tokens times |accuracy - mean confidence|; `mce`: the largest such difference"""
    ece_low: float | None
    ece_high: float | None
    """95 % interval; `noise_floor`, `…_high`: what a perfectly calibrated model would show; see `error_noise`"""
    noise_floor: Probability | None
    noise_floor_high: Probability | None
    mce: Probability | None
    nll: float | None
    """nats per token; `brier` in 0..1"""
    brier: Probability | None
    accuracy: Probability | None
    confidence: Probability | None
    signed_gap: float | None
    """mean confidence - accuracy"""
    miscalibration: Probability | None
    """from here to `prr` see ConfidenceHistogram.figures"""
    discrimination: Probability | None
    uncertainty: Probability | None
    auroc: Probability | None
    augrc: Probability | None
    prr: float | None
    bins: list[dict[str, Probability | int | None]]
    """low, high, count, confidence, accuracy, and band_low, band_high: the 95 % Wilson interval of the accuracy"""
    signature: str
    without_eos: CalibrationBlock
    """the same of tokens that end no sentence; `eos`: of those that end one"""
    eos: CalibrationBlock
    breakdown: dict[str, list[dict[str, Any]]]
    """`frequency`: groups of tokens, see mt.evaluation.tokens.SplitBins"""


class CalibrationBins:
    """Counts and sums of confidence and correctness in bins of equal width; parts may be merged, and pickled.

    Args:
        bins, edges: how many, and which end a bin includes.
        level, eos, split: stand in the signature only: whether tokens are subwords or words, whether ends of sentence
            are among them, and what was measured (teacher_forced, inference).
    """

    def __init__(
        self, *, bins: int = 15, edges: str = "(l,r]", level: str = "subword", eos: str = "yes", split: str = ""
    ) -> None:
        if bins < 1:
            raise ValueError(f"bins is {bins}; it must be at least 1")
        if edges not in ("(l,r]", "[l,r)"):
            raise ValueError(f"edges is {edges!r}; it must be '(l,r]' or '[l,r)'")
        self.bins, self.edges = bins, edges
        self.signature = f"ece|bins:{bins}|edges:{edges}|level:{level}|eos:{eos}" + (f"|split:{split}" if split else "")
        self.sums = np.zeros((4, bins))
        """number of tokens, and sums of confidence c, correctness and variance c (1 - c), of each bin"""
        self.nll = self.brier = 0.0
        """sums over tokens; nan: unknown"""
        self.histogram = ConfidenceHistogram()
        self.squares, self.sentences = np.zeros((bins, bins)), 0
        """sum over sentences of the outer square of their bins' gaps, and number of sentences"""

    def update(self, confidence: Any, correct: Any, *, nll: Any = None, brier: Any = None, lines: Any = None) -> None:
        """Counts tokens: array-like or tensor of probabilities, and as many booleans, or 0 and 1.

        `nll` and `brier` are each token's -log p in nats, and its Brier score in 0..1, the multi-class one halved,
        (1 - 2 p_y + sum_k p_k^2) / 2; what is left out in one call is unknown for the whole. `lines`: number of the
        sentence, one for all or one for each token; all tokens of a sentence come in one call. None: each token is
        drawn on its own. Raises ValueError as `checked`.
        """
        certain, right = checked(confidence, correct)
        index = bin_of(certain, self.bins, self.edges)
        gap, size = right - certain, self.bins
        if lines is None:
            self.squares[np.diag_indices(size)] += np.bincount(index, weights=gap * gap, minlength=size)
            self.sentences += len(gap)
        else:
            numbers, sentence = np.unique(np.broadcast_to(lines, gap.shape), return_inverse=True)
            cell = sentence * size + index
            gaps = np.bincount(cell, weights=gap, minlength=len(numbers) * size).reshape(len(numbers), size)
            self.squares += gaps.T @ gaps
            self.sentences += len(numbers)
        for total, weights in zip(self.sums, (np.ones_like(certain), certain, right, certain * (1 - certain))):
            total += np.bincount(index, weights=weights, minlength=size)
        self.nll += _checked_sum(nll, "nll", len(certain), highest=np.inf)
        self.brier += _checked_sum(brier, "brier", len(certain), highest=1.0 + ROUNDING)
        self.histogram.update(certain, right)

    def merge(self, other: CalibrationBins) -> None:
        """Adds another part, of other sentences, with the same bins."""
        self.sums += other.sums
        self.squares += other.squares
        self.sentences += other.sentences
        self.nll += other.nll
        self.brier += other.brier
        self.histogram.sums += other.histogram.sums

    def ece(self) -> float:
        """Sum over bins of their share of tokens times |accuracy - mean confidence|; 0 without tokens."""
        count, confidence, correct, _ = self.sums
        return float(np.abs(correct - confidence).sum() / max(1, count.sum()))

    def covariance(self) -> Floats:
        """Of the bins' gaps, (bins, bins), as sentences vary; a bin's variance is at least that of independent tokens
        which are right with the probability stated, c (1 - c) each, since few sentences show too little of it."""
        _, confidence, correct, variance = self.sums
        gap, count = correct - confidence, self.sentences
        found = (self.squares - np.outer(gap, gap) / count) * count / (count - 1) if count > 1 else 0 * self.squares
        return np.asarray(found + np.diag((variance - np.diag(found)).clip(0)))

    def block(self) -> CalibrationBlock:
        """The calibration block of results.json."""
        counts, confidences, corrects, _ = self.sums
        tokens, filled = int(counts.sum()), counts > 0
        gap = np.abs(corrects - confidences)[filled] / counts[filled]
        confidence, accuracy = _mean(confidences.sum(), tokens), _mean(corrects.sum(), tokens)
        noise = error_noise(corrects - confidences, self.covariance())
        names = "noise_floor", "noise_floor_high", "ece_low", "ece_high"
        bins: list[Any] = []
        for index, (count, certain, right, _) in enumerate(self.sums.T.tolist()):
            edges = {"low": index / self.bins, "high": (index + 1) / self.bins, "count": int(count)}
            means = {"confidence": _mean(certain, count), "accuracy": _mean(right, count)}
            band = wilson_interval(right, count) if count else (None, None)
            bins.append({**edges, **means, "band_low": band[0], "band_high": band[1]})
        block: dict[str, Any] = {
            "tokens": tokens,
            "ece": self.ece(),
            **{name: min(value / tokens, 1.0) if tokens else None for name, value in zip(names, noise)},
            "mce": float(gap.max()) if tokens else None,
            "nll": _mean(self.nll, tokens),
            "brier": _mean(self.brier, tokens),
            "accuracy": accuracy,
            "confidence": confidence,
            "signed_gap": None if confidence is None or accuracy is None else confidence - accuracy,
            **self.histogram.figures(),
            "bins": bins,
            "signature": self.signature,
        }
        return cast(CalibrationBlock, block)


def sentence_sums(protocol: str, confidence: Any, correct: Any, nll: Any = 0.0) -> dict[str, Any]:
    """What the tokens of a sentence, n at least 1, add to the calibration of a text: `tokens`, `nll` (nats) and, for
    each bin of the protocol, `gaps`, the sum of correctness - confidence; arguments as of CalibrationBins.update."""
    bins, (certain, right) = PROTOCOLS[protocol], checked(confidence, correct)
    gaps = np.bincount(bin_of(certain, **bins), weights=right - certain, minlength=bins["bins"])
    return {"tokens": len(certain), "nll": round(float(as_floats(nll).sum()), 6), "gaps": gaps.round(6).tolist()}


def bin_of(probabilities: Floats, bins: int, edges: str) -> NDArray[np.intp]:
    """Index of the bin that each of probabilities (n,) in 0..1 falls into."""
    side: Literal["left", "right"] = "left" if edges == "(l,r]" else "right"
    return np.searchsorted([m / bins for m in range(1, bins)], probabilities, side=side)


def expected_calibration_error(
    confidence: Any, correct: Any, *, bins: int = 15, scheme: str = "width", edges: str = "(l,r]"
) -> float:
    """Sum over bins of their share of tokens times |accuracy - mean confidence|, in 0..1; 0 without tokens.

    `scheme` is `width`: bins of equal width, of which `edges` says the end that belongs to them; or `mass`: bins of
    equally many tokens, by a stable sort, bin = floor(rank * bins / n). For the others, and errors, see `checked`.
    """
    if scheme not in ("width", "mass"):
        raise ValueError(f"scheme is {scheme!r}; it must be 'width' or 'mass'")
    counted = CalibrationBins(bins=bins, edges=edges)
    if scheme == "width":
        counted.update(confidence, correct)
        return counted.ece()
    certain, right = checked(confidence, correct)
    by_rank = (right - certain)[np.argsort(certain, kind="stable")]
    gap = np.bincount(np.arange(len(by_rank)) * bins // max(1, len(by_rank)), weights=by_rank, minlength=bins)
    return float(np.abs(gap).sum() / max(1, len(by_rank)))


def checked(confidence: Any, correct: Any) -> tuple[Floats, Floats]:
    """Both as flat float64 arrays.

    Raises:
        ValueError: a confidence is not in 0..1, something in `correct` is no boolean nor 0 or 1, lengths differ.
    """
    certain, right = as_floats(confidence), as_floats(correct)
    if certain.shape != right.shape:
        raise ValueError(f"{certain.size} confidences and {right.size} labels; they must be equally many")
    valid = (certain >= 0) & (certain <= 1 + ROUNDING)  # false for nan
    if not np.all(valid):
        raise ValueError(f"a confidence is {certain[~valid][0]}; it must be 0 to 1")
    if not np.all((right == 0) | (right == 1)):
        raise ValueError("correct holds something else than booleans, or 0 and 1")
    return np.minimum(certain, 1.0), right


def as_floats(values: Any) -> Floats:
    """A flat float64 array."""
    if hasattr(values, "detach"):  # a tensor, perhaps on a device or in bfloat16
        values = values.detach().double().cpu().numpy()
    return np.asarray(values, dtype=np.float64).reshape(-1)


def _checked_sum(values: Any, name: str, tokens: int, highest: float) -> float:
    """The sum of values; where they are not given nan, which stays nan whatever is added."""
    if values is None:
        return math.nan if tokens else 0.0
    array = as_floats(values)
    if len(array) != tokens:
        raise ValueError(f"{tokens} confidences and {len(array)} values of {name}; they must be equally many")
    if not np.all((array >= -ROUNDING) & (array <= highest)):
        raise ValueError(f"a value of {name} lies outside of 0 to {highest:g}")
    return float(array.sum())


def _mean(total: float, count: float) -> float | None:
    return None if not count or math.isnan(total) else float(total) / count
