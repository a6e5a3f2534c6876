"""All calibration figures of a stream of tokens, and the same few of groups of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from mt.metrics.bins import CalibrationBins
from mt.metrics.bootstrap import SentenceBootstrap
from mt.metrics.ranks import ConfidenceOrder
from mt.metrics.tokens import as_floats, checked

FREQUENCY_BORDERS = (1, 10, 100, 1000)
"""times that a token's type occurs"""
POSITION_BORDERS = (2, 3, 6, 11, 21)
"""positions in the sentence, from 1"""
SOURCE_LENGTH_BORDERS = (6, 11, 21, 41)
"""tokens of the source sentence"""


class Measures:
    """Everything that a calibration block of results.json says; constant memory, and parts may be merged.

    bins, edges, level, eos, split: as in CalibrationBins. resamples: of sentences, for the interval of the ECE and
    for paired differences; 0: none. seed: of these. Objects can be pickled, so ranks and files can be merged.
    """

    def __init__(
        self,
        *,
        bins: int = 15,
        edges: str = "(l,r]",
        level: str = "subword",
        eos: str = "yes",
        split: str = "",
        resamples: int = 0,
        seed: int = 12345,
    ) -> None:
        self.bins = CalibrationBins(bins=bins, edges=edges, level=level, eos=eos, split=split)
        self.order = ConfidenceOrder()
        self.bootstrap = SentenceBootstrap(bins, resamples, seed) if resamples else None

    def update(self, confidence: Any, correct: Any, *, nll: Any = None, brier: Any = None, lines: Any = None) -> None:
        """Counts tokens.

        confidence, correct, nll, brier: as in CalibrationBins.update. lines: number of the sentence, one for all or
        one for each token; with resamples it must be there. Raises ValueError.
        """
        certain, right = checked(confidence, correct)
        if self.bootstrap is not None:
            if lines is None:
                raise ValueError("lines is None; the resampling of sentences needs the number of each token's one")
            numbers = np.broadcast_to(np.asarray(lines, dtype=np.int64), certain.shape)
            self.bootstrap.update(self.bins.bin_of(certain), right - certain, numbers)
        self.bins.update(certain, right, nll=nll, brier=brier)
        self.order.update(certain, right)

    def merge(self, other: Measures) -> None:
        """Adds another part: of the same sentences or of others. Raises ValueError if bins or resamples differ."""
        if (self.bootstrap is None) != (other.bootstrap is None):
            raise ValueError("one part was resampled, the other not")
        self.bins.merge(other.bins)
        if self.bootstrap is not None and other.bootstrap is not None:
            self.bootstrap.merge(other.bootstrap)
        self.order.merge(other.order)

    def block(self) -> dict[str, Any]:
        """The calibration block of results.json: the keys of CalibrationBins.result and

        `ece_mass`: with as many bins of equally many tokens; `ece_sweep`: {"ece", "bins"}; `ece_low`, `ece_high`:
        95 % interval of the ece over resampled sentences (see SentenceBootstrap.interval); `auroc`: of confidence
        for being right; `risk_coverage`: {"coverage", "risk", "aurc"}. What is unknown is None.
        """
        result = self.bins.result()
        bins, signature = result.pop("bins"), result.pop("signature")
        tokens = result["tokens"]
        interval: tuple[float | None, float | None] = None, None
        if self.bootstrap is not None and tokens:
            interval = self.bootstrap.interval(result["ece"])
        return {
            **result,
            "ece_mass": self.order.equal_mass_error(self.bins.bins) if tokens else None,
            "ece_sweep": self.order.sweep() if tokens else None,
            "ece_low": interval[0],
            "ece_high": interval[1],
            "auroc": self.order.auroc(),
            "risk_coverage": self.order.risk_coverage(),
            "bins": bins,
            "signature": signature,
        }


def paired_difference(first: Measures, second: Measures) -> dict[str, float]:
    """ECE of the first less that of the second over the same sentences: {"difference", "low", "high", "p"}.

    low, high: 95 % basic interval, p: two-sided, from the same resamples of sentences in both. Raises ValueError
    if they were not resampled, or not alike.
    """
    if first.bootstrap is None or second.bootstrap is None:
        raise ValueError("a paired difference needs resamples of sentences in both")
    estimate = first.bins.ece() - second.bins.ece()
    low, high, p = first.bootstrap.difference(second.bootstrap, estimate)
    return {"difference": estimate, "low": low, "high": high, "p": p}


class Breakdown:
    """Calibration by a whole number that each token has: how frequent its type is, its position, ...

    borders: rising; (1, 10) makes the groups "0", "1-9" and "10+", the lowest one from `lowest`. names: others,
    one more than borders. bins, edges: as in CalibrationBins.
    """

    def __init__(
        self,
        borders: Sequence[int],
        *,
        bins: int = 15,
        edges: str = "(l,r]",
        names: Sequence[str] | None = None,
        lowest: int = 0,
    ) -> None:
        self.borders = list(borders)
        self.names = list(names) if names is not None else _ranges([lowest, *borders])
        if len(self.names) != len(self.borders) + 1 or sorted(set(self.borders)) != self.borders:
            raise ValueError(f"borders {self.borders} must rise, and take {len(self.borders) + 1} names")
        self.groups = [CalibrationBins(bins=bins, edges=edges) for _ in self.names]

    def update(self, values: Any, confidence: Any, correct: Any) -> None:
        """Counts tokens, all (n,): a token with value v falls in the group numbered by how many borders are <= v."""
        certain, right = checked(confidence, correct)
        group_of_token = np.searchsorted(self.borders, as_floats(values), side="right")
        if group_of_token.shape != certain.shape:
            raise ValueError(f"{len(certain)} confidences and {len(group_of_token)} values; as many are needed")
        for index in np.unique(group_of_token):
            chosen = group_of_token == index
            self.groups[index].update(certain[chosen], right[chosen])

    def merge(self, other: Breakdown) -> None:
        """Adds another part. Raises ValueError if its groups differ."""
        if (self.borders, self.names) != (other.borders, other.names):
            raise ValueError(f"groups differ: {self.names} and {other.names}")
        for group, others in zip(self.groups, other.groups, strict=True):
            group.merge(others)

    def result(self) -> list[dict[str, Any]]:
        """[{"name", "tokens", "confidence", "accuracy", "ece", "noise_floor"}] of the groups that have tokens."""
        figures = ("tokens", "confidence", "accuracy", "ece", "noise_floor")
        results = [(name, group.result()) for name, group in zip(self.names, self.groups, strict=True)]
        return [
            {"name": name, **{figure: result[figure] for figure in figures}}
            for name, result in results
            if result["tokens"]
        ]


def _ranges(starts: list[int]) -> list[str]:
    """[0, 1, 10] -> "0", "1-9", "10+"."""
    inner = [f"{low}-{after - 1}" if after - low > 1 else f"{low}" for low, after in pairwise(starts)]
    return [*inner, f"{starts[-1]}+"]
