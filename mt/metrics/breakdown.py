"""Calibration of groups of tokens: by how frequent their types are, by position, by source length."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from mt.metrics.arrays import as_floats, checked
from mt.metrics.bins import bin_of
from mt.metrics.noise import noise_floor

BORDERS = {
    "frequency": (0, (1, 10, 100, 1000)),
    "position": (1, (2, 3, 6, 11, 21)),
    "source_length": (1, (6, 11, 21, 41)),
}
"""for each breakdown of results.json the lowest number that a token can have, and the borders of its groups: times that
a token's type occurs in the references, place in the sentence from 1, tokens of the source sentence"""


class Breakdown:
    """Calibration by a whole number that each token has: how frequent its type is, its position, ...

    Args:
        borders: rising; (1, 10) makes the groups "0", "1-9" and "10+".
        bins, edges: as in CalibrationBins.
        lowest: the lowest number that there is.
    """

    def __init__(self, borders: Sequence[int], *, bins: int = 15, edges: str = "(l,r]", lowest: int = 0) -> None:
        if sorted(set(borders)) != list(borders):
            raise ValueError(f"borders {list(borders)} must rise")
        starts = [lowest, *borders]
        inner = [f"{low}-{after - 1}" if after - low > 1 else f"{low}" for low, after in pairwise(starts)]
        self.names = [*inner, f"{starts[-1]}+"]
        self.borders, self.bins, self.edges = list(borders), bins, edges
        self.sums = np.zeros((4, len(self.names), bins))
        """count, confidence, correct and variance, by group and bin"""

    def update(self, values: Any, confidence: Any, correct: Any) -> None:
        """Counts tokens, all (n,): a token with value v falls in the group numbered by how many borders are <= v."""
        certain, right = checked(confidence, correct)
        group_of_token = np.searchsorted(self.borders, as_floats(values), side="right")
        if group_of_token.shape != certain.shape:
            raise ValueError(f"{len(certain)} confidences and {len(group_of_token)} values; as many are needed")
        cell = group_of_token * self.bins + bin_of(certain, self.bins, self.edges)
        for sums, weights in zip(self.sums, (np.ones_like(certain), certain, right, certain * (1 - certain))):
            sums += np.bincount(cell, weights=weights, minlength=sums.size).reshape(sums.shape)

    def result(self) -> list[dict[str, Any]]:
        """name, tokens, confidence, accuracy, ece and noise_floor of the groups that have tokens."""
        return [
            {
                "name": name,
                "tokens": int(count.sum()),
                "confidence": float(confidence.sum() / count.sum()),
                "accuracy": float(correct.sum() / count.sum()),
                "ece": float(np.abs(correct - confidence).sum() / count.sum()),
                "noise_floor": noise_floor(variance) / int(count.sum()),
            }
            for name, count, confidence, correct, variance in zip(self.names, *self.sums)
            if count.any()
        ]
