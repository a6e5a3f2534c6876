"""Figures that depend on the order of confidences, as a stream: AUROC and its kin, bin-free parts of the Brier score.

Confidences are counted in 12,000 fine cells of equal width in log(c / (1 - c)), 1/200 each, so that the many near 1
are told apart; a cell is at most 0.00125 wide in c, and narrower towards 0 and 1. Within a cell tokens count as
ties: the AUROC is within half the share of pairs, right and wrong, that lie in one cell, of that of the sorted tokens.
"""

from __future__ import annotations

import numpy as np

from mt.metrics.noise import Floats

CELLS = 12_000
CELLS_PER_UNIT = 200
FIGURES = ("miscalibration", "discrimination", "uncertainty", "auroc", "augrc", "prr")


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

    def figures(self) -> dict[str, float | None]:
        """Of right or wrong: those of FIGURES, None without tokens; `auroc` and `prr` also if all are alike.

        miscalibration, discrimination, uncertainty: the mean squared error of confidence against right (1) or wrong (0)
        is the first less the second plus the third (CORP: Dimitriadis, Gneiting and Jordan 2021, arXiv:2008.03033). The
        first is what the best rising map of the confidences would take off; no bins are chosen.
        auroc: chance that a right token is more confident than a wrong one, ties half.
        augrc: over all shares of tokens that may be kept, the most confident ones, the mean share of all tokens that
        are kept and wrong (Traub et al. 2024, arXiv:2407.01032; by its closed form in the AUROC); 0 is best.
        prr: how much of what rejecting the wrong tokens first would gain in accuracy, on average over all shares of
        rejected ones, is gained by rejecting the least confident first; see mt.evaluation.sentences.rejection_ratio.
        """
        count, confidence, correct = self.sums[:, self.sums[0] > 0]
        tokens, right = count.sum(), correct.sum()
        if not tokens:
            return dict.fromkeys(FIGURES)
        _, sizes, hits = np.array(pool_adjacent_violators(count, correct)).T
        pooled = (hits * (1 - hits / sizes)).sum() / tokens
        error = (confidence**2 / count - 2 * confidence * correct / count + correct).sum() / tokens
        risk, auroc, prr = 1 - right / tokens, None, None
        uncertainty = risk * (1 - risk)
        if uncertainty:
            pairs = ((count - correct) * (right - np.cumsum(correct) + correct / 2)).sum()
            auroc = pairs / (right * (tokens - right))
            best = _gain(np.array([right, tokens - right]), np.array([right, 0.0]))
            prr = _gain(count[::-1], correct[::-1]) / best
        augrc = (1 - (auroc or 0.0)) * uncertainty + risk**2 / 2
        found = (max(0.0, error - pooled), max(0.0, uncertainty - pooled), uncertainty, auroc, augrc, prr)
        return {name: None if value is None else float(value) for name, value in zip(FIGURES, found)}


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


def _gain(count: Floats, correct: Floats) -> float:
    """Accuracy of the k surest tokens less that of all, summed over k, from cells of falling confidence."""
    kept, right = np.cumsum(count), np.cumsum(correct)
    before, rate = kept - count, correct / count
    # behind N others, R of them right, the k-th of a cell has rate + (R - rate N) / (N + k); the mean of rates is that
    # of all, and the sum of 1 / (N + k) is a logarithm to within 1 / (24 N^2); the first cell gains nothing
    return float(((right - correct - rate * before) * np.log((kept + 0.5) / (before + 0.5))).sum())
