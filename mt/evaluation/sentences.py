"""Whole translations: does the confidence in a sentence tell how good it is, which ones to keep, which to trust?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mt.evaluation.records import Record
from mt.metrics.promise import reached
from mt.metrics.quality import Statistics

_ROUNDED = 0.011  # qualities and chrF in records have two decimals


def sentence_level(records: Sequence[Record], statistics: dict[str, Statistics]) -> dict[str, Any] | None:
    """Adds chrF2, sentence BLEU and TER to the records, each of the line alone, 0..100; `statistics` are those of
    `quality_statistics`, TER included.

    Returns the `sequence` block of results.json. `correlation`: Spearman's, of confidence with the quality of each
    sentence (TER: the lower the better); `prr`: see `rejection_ratio`, of chrF; `selective`: corpus quality of the k %
    most confident lines. None where a record has no confidence, or there are fewer than 2.
    """
    from sacrebleu.metrics import BLEU

    scores = {
        "chrf": statistics["chrf"].sentence_scores(),
        "bleu": statistics["bleu"].sentence_scores(BLEU(effective_order=True)),  # of the orders that the line has
        "ter": statistics["ter"].sentence_scores(),
    }
    for name, values in scores.items():
        for record, value in zip(records, values):
            record[name] = round(value, 2)
    if len(records) < 2 or any("confidence" not in record for record in records):
        return None
    confidence = np.array([record["confidence"] for record in records])
    order = np.argsort(-confidence, kind="stable")
    selective = []
    for coverage in (percent / 100 for percent in range(10, 101, 10)):
        kept = order[: max(1, round(coverage * len(order)))]
        quality = {name: each.score(kept) for name, each in statistics.items()}
        lowest = float(confidence[kept[-1]])
        selective.append({"coverage": coverage, "lines": len(kept), "confidence": lowest, **quality})
    return {
        "correlation": {name: spearman(confidence, np.array(values)) for name, values in scores.items()},
        "prr": rejection_ratio(confidence, np.array(scores["chrf"])),
        "selective": selective,
    }


def expected_against_reached(records: Sequence[Record]) -> dict[str, Any] | None:
    """What the stated quality of lines is worth: `spearman`: correlation of ranks with chrF; `coverage`: share of lines
    whose chrF lies in their interval, nine in ten if the text is like the one that was fitted on; `width`: mean width
    of the intervals; `mean`: mean quality, and `chrf`: mean chrF; `prr`: see `rejection_ratio`. None where
    a record has no quality."""
    if any("quality" not in record for record in records):
        return None
    names = "quality", "quality_low", "quality_high", "chrf"
    quality, low, high, chrf = np.array([[record[name] for name in names] for record in records]).T
    inside = (low - _ROUNDED <= chrf) & (chrf <= high + _ROUNDED)
    return {
        "spearman": spearman(quality, chrf),
        "coverage": float(inside.mean()),
        "width": float((high - low).mean()),
        "mean": float(quality.mean()),
        "chrf": float(chrf.mean()),
        "prr": rejection_ratio(quality, chrf),
    }


def kept_promise(promise: dict[str, Any], records: Sequence[Record]) -> dict[str, Any]:
    """What a stored promise reached on lines with their chrF: the promise's own fields, `threshold` and those of
    `mt.metrics.promise.reached`, and `kept`: False where the interval of what was reached lies below it, None where no
    line is above the threshold."""
    quality, chrf = (np.array([record[name] for record in records]) for name in ("quality", "chrf"))
    found = reached(quality, chrf >= promise["chrf"], promise["threshold"])
    kept = None if found["high"] is None else found["high"] >= promise["precision"]
    return {name: promise[name] for name in ("by", "chrf", "precision")} | found | {"kept": kept}


def rejection_ratio(confidence: NDArray[np.float64], quality: NDArray[np.float64]) -> float | None:
    """Prediction rejection ratio (Malinin and Gales 2021, section 5; for quality Fadeeva et al. 2023): how much of what
    rejecting the worst lines first would gain in mean quality is gained by rejecting the least confident first, 1: all,
    0: no more than by chance. Over all shares of rejected lines. None where all lines are equally good."""

    def area(order: NDArray[np.intp]) -> float:
        return float((np.cumsum(quality[order]) / np.arange(1, len(order) + 1)).mean())

    best, chance = area(np.argsort(-quality, kind="stable")), float(quality.mean())
    gained = area(np.argsort(-confidence, kind="stable")) - chance
    return gained / (best - chance) if best > chance else None


def spearman(*sides: NDArray[np.float64]) -> float | None:
    """Correlation of the ranks of two sides, equal values sharing their mean rank; None where one is all equal."""
    ranks = []
    for values in sides:
        _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[where])
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1]) if all(each.std() for each in ranks) else None
