"""Figures that depend on the order of confidences, as a stream: equal-mass ECE, AUROC, risk and coverage.

Confidences are counted in 12,000 fine cells of equal width in log(c / (1 - c)), 1/200 each, so that the many near 1
are told apart; a cell is at most 0.00125 wide in c, and narrower towards 0 and 1. Within a cell tokens count as
ties. With s the largest share of tokens in one cell, the equal-mass ECE of M bins is within 2 (M - 1) s of the sorted
tokens' one, and the AUROC within half the share of pairs, right and wrong, that lie in one cell.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mt.metrics.noise import Floats

CELLS = 12_000
CELLS_PER_UNIT = 200
CURVE_POINTS = 50


class ConfidenceHistogram:
    """Counts, sums of confidence and numbers of right tokens, in cells of rising confidence; parts may be merged."""

    def __init__(self) -> None:
        self.sums = np.zeros((3, CELLS))
        """count, confidence and number of right tokens of each cell"""

    def update(self, confidence: Floats, correct: Floats) -> None:
        """Counts tokens: confidence in 0..1 and correct 0 or 1, both (n,)."""
        with np.errstate(divide="ignore"):  # 0 and 1 become infinite, and are clipped
            logit = np.log(confidence) - np.log1p(-confidence)
        cell = np.floor(logit.clip(-100, 100) * CELLS_PER_UNIT).astype(np.int64) + CELLS // 2
        cell = cell.clip(0, CELLS - 1)
        for sums, values in zip(self.sums, (np.ones_like(confidence), confidence, correct)):
            np.add.at(sums, cell, values)

    def equal_mass_error(self, bins: int) -> float:
        """ECE of bins with equally many tokens: bin = floor(rank bins / n), a cell on a border split in proportion;
        0 without tokens."""
        filled = self.sums[:, self.sums[0] > 0]
        tokens = round(filled[0].sum())
        starts = np.array([-(-m * tokens // bins) for m in range(bins + 1)], dtype=np.float64)
        ranks, *sums = (np.append(0.0, np.cumsum(each)) for each in filled)
        confidence, correct = (np.diff(np.interp(starts, ranks, each)) for each in sums)
        return float(np.abs(correct - confidence).sum() / max(1.0, np.diff(starts).sum()))

    def auroc(self) -> float | None:
        """Chance that a right token is more confident than a wrong one, ties half; None if all are alike."""
        count, _, correct = self.sums
        wrong = count - correct
        pairs = correct.sum() * wrong.sum()
        if not pairs:
            return None
        above = correct.sum() - np.cumsum(correct)
        return float((wrong * (above + correct / 2)).sum() / pairs)

    def risk_coverage(self) -> dict[str, Any] | None:
        """Share of wrong tokens among the most confident ones: {"coverage", "risk", "aurc"}; None without tokens.

        coverage: CURVE_POINTS shares from small to 1; risk: share of wrong ones among so many; aurc: mean risk over
        the numbers 1 to n of tokens kept (Geifman and El-Yaniv 2017).
        """
        count, _, correct = self.sums[:, self.sums[0] > 0][:, ::-1]
        wrong = count - correct
        tokens = count.sum()
        if not tokens:
            return None
        kept, mistakes = np.cumsum(count), np.cumsum(wrong)
        coverage = np.arange(1, CURVE_POINTS + 1) / CURVE_POINTS
        at = np.interp(coverage * tokens, np.append(0.0, kept), np.append(0.0, mistakes))
        rate = wrong / count
        # the k-th of n tokens of a cell after N others with W mistakes: risk (W + rate k) / (N + k)
        before, mistakes_before = kept - count, mistakes - wrong
        area = rate * count + (mistakes_before - rate * before) * (_harmonic(kept) - _harmonic(before))
        return {
            "coverage": coverage.tolist(),
            "risk": (at / (coverage * tokens)).tolist(),
            "aurc": float(area.sum() / tokens),
        }


def _harmonic(n: Floats) -> Floats:
    """1 + 1/2 + ... + 1/n less a constant, by the asymptotic series behind eight exact terms."""
    x = n + 9
    series = np.log(x) - 1 / (2 * x) - 1 / (12 * x**2) + 1 / (120 * x**4)
    return np.asarray(series - sum(1 / (n + k) for k in range(1, 9)))
