"""Figures that depend on the order of confidences, as a stream: AUROC and its kin, and the bin-free parts of the Brier
score.

Confidences are counted in 12,000 fine cells of equal width in log(c / (1 - c)), 1/200 each, so that the many near 1
are told apart; a cell is at most 0.00125 wide in c, and narrower towards 0 and 1. Within a cell tokens count as
ties: the AUROC is within half the share of pairs, right and wrong, that lie in one cell, of that of the sorted tokens.
"""

from __future__ import annotations

import numpy as np

from mt.metrics.noise import Floats

CELLS = 12_000
CELLS_PER_UNIT = 200


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

    def auroc(self) -> float | None:
        """Chance that a right token is more confident than a wrong one, ties half; None if all are alike."""
        count, _, correct = self.sums
        wrong = count - correct
        pairs = correct.sum() * wrong.sum()
        if not pairs:
            return None
        above = correct.sum() - np.cumsum(correct)
        return float((wrong * (above + correct / 2)).sum() / pairs)

    def augrc(self) -> float | None:
        """Area under the generalised risk-coverage curve (Traub et al. 2024, arXiv:2407.01032): over all shares of
        tokens that may be kept, the most confident ones, the mean share of all tokens that are kept and wrong; 0 is
        best, half the share of wrong ones is chance. In closed form, through the AUROC. None without tokens."""
        count, _, correct = self.sums.sum(1)
        if not count:
            return None
        accuracy = correct / count
        return float((1 - (self.auroc() or 0.0)) * accuracy * (1 - accuracy) + (1 - accuracy) ** 2 / 2)

    def rejection_ratio(self) -> float | None:
        """Prediction rejection ratio of right or wrong: how much of what rejecting the wrong tokens first would gain in
        accuracy, on average over all shares of rejected ones, is gained by rejecting the least confident first (1: all,
        0: no more than by chance); see `mt.evaluation.sentences.rejection_ratio`. None if all are alike."""
        count, _, correct = self.sums[:, self.sums[0] > 0][:, ::-1]
        right, wrong = correct.sum(), (count - correct).sum()
        if not right * wrong:
            return None
        chance = right / (right + wrong)
        best = _mean_of_kept(np.array([right, wrong]), np.array([right, 0.0]))
        return float((_mean_of_kept(count, correct) - chance) / (best - chance))

    def brier_parts(self) -> tuple[float, float, float] | None:
        """Miscalibration, discrimination and uncertainty, in 0..1: the mean squared error of confidence against right
        (1) or wrong (0) is the first less the second plus the third (CORP: Dimitriadis, Gneiting and Jordan 2021,
        arXiv:2008.03033). Miscalibration is what the best rising map of the confidences would take off; no bins are
        chosen. None without tokens."""
        count, confidence, correct = self.sums[:, self.sums[0] > 0]
        if not len(count):
            return None
        _, sizes, right = np.array(pool_adjacent_violators(count, correct)).T
        tokens, accuracy = count.sum(), correct.sum() / count.sum()
        error = (confidence**2 / count - 2 * confidence * correct / count + correct).sum() / tokens
        pooled = (right * (1 - right / sizes)).sum() / tokens
        uncertainty = accuracy * (1 - accuracy)
        return max(0.0, float(error - pooled)), max(0.0, float(uncertainty - pooled)), float(uncertainty)


def pool_adjacent_violators(counts: Floats, sums: Floats) -> list[tuple[int, float, float]]:
    """The rising step function nearest to the means sums / counts, (n,), in weighted squares: for each step the number
    of its first entry, its count and its sum (Ayer et al. 1955)."""
    steps: list[tuple[int, float, float]] = []
    for first, (count, total) in enumerate(zip(counts.tolist(), sums.tolist(), strict=True)):
        while steps and steps[-1][2] * count >= total * steps[-1][1]:  # products, as quotients round
            first, more, others = steps.pop()
            count, total = count + more, total + others
        steps.append((first, count, total))
    return steps


def _mean_of_kept(count: Floats, correct: Floats) -> float:
    """Accuracy of the k surest tokens, mean over k, from cells of falling confidence."""
    kept, right = np.cumsum(count), np.cumsum(correct)
    before, rate = kept - count, correct / count
    # behind N others, R of them right, the k-th of a cell adds (R + rate k) / (N + k), and the sum of 1 / (N + k) is
    # a logarithm to within 1 / (24 N^2); in the first cell it has no part
    area = rate * count + (right - correct - rate * before) * np.log((kept + 0.5) / (before + 0.5))
    return float(area.sum() / kept[-1])
