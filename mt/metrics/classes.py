"""Calibration of all classes of a distribution, not only the likeliest: weighted and class-wise ECE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mt.metrics.bins import CalibrationBins
from mt.metrics.tokens import Floats

if TYPE_CHECKING:
    from torch import Tensor


class ClassMeasures:
    """Weighted ECE over the vocabulary and class-wise ECE of chosen classes, as a stream; parts may be merged.

    Weighted (Kumar and Sarawagi 2019, arXiv:1903.00802): every class of every token, weighted by its probability:
    sum over bins of |sum of p ([it is the target] - p)| / tokens. Class-wise (Nixon et al. 2019): the ECE of one
    class's probability for its being the target, mean over classes; for frequent types only, since with thousands
    of classes nearly all lie at 0.

    bins, edges: as in CalibrationBins. classes: ids of the chosen classes.
    """

    def __init__(self, *, bins: int = 15, edges: str = "(l,r]", classes: Sequence[int] = ()) -> None:
        self.rule = CalibrationBins(bins=bins, edges=edges)
        self.classes = [int(each) for each in classes]
        self.tokens = 0
        self.weighted = np.zeros(bins)
        """sum of p ([target] - p)"""
        self.gap = np.zeros((len(self.classes), bins))
        """sum of [target] - p, by class"""

    def update(self, log_probs: Tensor, targets: Tensor) -> None:
        """Counts tokens: log_probs (n, vocabulary), normalised, any float type and device; targets (n,) int64."""
        import torch

        log_probs = log_probs.detach()
        probabilities = (log_probs if log_probs.dtype == torch.float64 else log_probs.float()).exp()
        gold = probabilities.gather(1, targets[:, None])[:, 0]
        self.tokens += len(targets)
        # at most `bins` classes of a token lie above the first bin: the rest is what they leave of the whole
        large = probabilities[probabilities >= 1 / self.rule.bins]
        self.weighted[0] -= float((probabilities * probabilities).sum(1).double().sum())
        self.weighted[0] += float((large * large).double().sum())
        for each, weights in ((large, -large * large), (gold, gold)):
            self.weighted += _sums(self.rule.bin_of(_floats(each)), weights, self.rule.bins)
        if self.classes:
            ids = torch.tensor(self.classes, device=targets.device)
            chosen = probabilities[:, ids]
            offset = np.arange(len(self.classes)) * self.rule.bins
            cell = self.rule.bin_of(_floats(chosen)).reshape(len(targets), -1) + offset
            gap = (targets[:, None] == ids).double() - chosen.double()
            self.gap += _sums(cell.reshape(-1), gap, self.gap.size).reshape(self.gap.shape)

    def merge(self, other: ClassMeasures) -> None:
        """Adds another part. Raises ValueError if its bins or classes differ."""
        ours, theirs = (self.rule.signature, self.classes), (other.rule.signature, other.classes)
        if ours != theirs:
            raise ValueError("bins or classes differ")
        self.tokens += other.tokens
        self.weighted += other.weighted
        self.gap += other.gap

    def result(self) -> dict[str, Any]:
        """{"weighted_ece", "classwise_ece": mean over the chosen classes, "classwise": of each}; None where nothing
        was counted."""
        if not self.tokens:
            return {"weighted_ece": None, "classwise_ece": None, "classwise": []}
        classwise = np.abs(self.gap).sum(1) / self.tokens
        return {
            "weighted_ece": float(np.abs(self.weighted).sum() / self.tokens),
            "classwise_ece": float(classwise.mean()) if self.classes else None,
            "classwise": classwise.tolist(),
        }


def _floats(values: Tensor) -> Floats:
    return values.double().cpu().numpy().reshape(-1)


def _sums(cells: NDArray[np.intp], weights: Tensor, length: int) -> Floats:
    """Sums of weights (n, ...) by cell (n,)."""
    return np.bincount(cells, weights=_floats(weights), minlength=length).astype(np.float64)
