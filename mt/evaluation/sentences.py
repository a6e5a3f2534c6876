"""Whole translations: does the confidence in a sentence tell how good it is, which ones to keep, which to trust?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mt.evaluation.records import Record
from mt.metrics.noise import wilson_interval
from mt.metrics.quality import Statistics, sentence_chrf

FEWEST = 20
"""lines above a threshold; fewer say too little"""
_HALVES = 10_000  # random halves that the most confident one is held against
_DRAWN = 1 << 20  # random numbers that exist at a time


def sentence_level(
    records: Sequence[Record], references: Sequence[Sequence[str]], statistics: dict[str, Statistics], seed: int
) -> dict[str, Any] | None:
    """Adds chrF2, sentence BLEU and TER to the records, each of the line alone, 0..100, and chrF2 to further outputs;
    `statistics` are those of `quality_statistics`, TER included.

    Returns the `sequence` block of results.json. `correlation`: Spearman's, of confidence with the quality of each
    sentence (TER: the lower the better); `selective`: corpus quality of the k % most confident lines; `half`: see
    `confident_half`; `nbest`: see `expected_quality`. None where a record has no confidence, or there are fewer than 2.
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
    nbest = [
        (output, line)
        for line, record in enumerate(records)
        for output in record.get("nbest") or ()
        if output.get("translation") is not None and output.get("log_probs")
    ]
    streams = [[stream[line] for _, line in nbest] for stream in references]
    for (output, _), value in zip(nbest, sentence_chrf([output["translation"] for output, _ in nbest], streams)):
        output["chrf"] = round(value, 2)
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
    lengths = np.array([len(record.get("source", "").split()) for record in records])
    return {
        "correlation": {name: spearman(confidence, np.array(values)) for name, values in scores.items()},
        "selective": selective,
        "half": confident_half(confidence, lengths, statistics["chrf"], seed),
        "nbest": expected_quality(records),
    }


def confident_half(
    confidence: NDArray[np.float64], lengths: NDArray[np.int64], chrf: Statistics, seed: int, halves: int = _HALVES
) -> dict[str, Any]:
    """Whether the most confident half is better than chance, its sentences' lengths apart.

    A random half has, of each source length, as many lines as the most confident half: short sentences are both
    surer and easier, and that alone shall not count. Returns {"chrf": of the most confident half, "random_mean",
    "random_high": mean and highest of the random halves, "p": (1 + random halves at least as good) / (1 + halves),
    "halves"}.
    """
    chosen = np.zeros(len(confidence), dtype=bool)
    chosen[np.argsort(-confidence, kind="stable")[: len(confidence) // 2]] = True
    generator = np.random.default_rng(seed)
    sums = np.zeros((halves, chrf.counts.shape[1]))
    for length in np.unique(lengths):
        lines = np.flatnonzero(lengths == length)
        taken = int(chosen[lines].sum())
        if taken in (0, len(lines)):
            sums += chrf.counts[lines].sum(axis=0) if taken else 0.0
            continue
        # a few halves at a time, since halves x lines take gigabytes where many lines are of one length
        for part in np.array_split(sums, math.ceil(sums.shape[0] * len(lines) / _DRAWN)):
            ranks = np.argsort(generator.random((len(part), len(lines))), axis=1)
            part += (ranks < taken).astype(np.float64) @ chrf.counts[lines]
    achieved = chrf.score(chosen)
    random = np.array([chrf.score_of_sums(each) for each in sums])
    return {
        "chrf": achieved,
        "random_mean": float(random.mean()),
        "random_high": float(random.max()),
        "p": float((1 + (random >= achieved).sum()) / (1 + halves)),
        "halves": halves,
    }


def expected_quality(records: Sequence[Record]) -> dict[str, Any] | None:
    """What the model expects of its n-best lists, and what it gets: chrF of each output under the model's
    renormalised probabilities, the mean over lines, beside that of the best output and of the best possible choice.
    Needs `nbest` outputs that bring their `chrf` and `log_probs`; None without them."""
    rows = []
    for outputs in ([each for each in record.get("nbest") or () if "chrf" in each] for record in records):
        if not outputs:
            continue
        total = np.array([sum(output["log_probs"]) for output in outputs])
        weights = np.exp(total - total.max())  # long outputs alone would underflow
        quality = np.array([output["chrf"] for output in outputs])
        rows.append((weights @ quality / weights.sum(), quality[0], quality.max(), len(outputs)))
    if not rows:
        return None
    names = "expected_chrf", "achieved_chrf", "oracle_chrf", "size"
    return {"lines": len(rows), **dict(zip(names, np.array(rows).mean(axis=0).tolist()))}


def spearman(*sides: NDArray[np.float64]) -> float | None:
    """Correlation of the ranks of two sides, equal values sharing their mean rank; None where one is all equal."""
    ranks = []
    for values in sides:
        _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[where])
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1]) if all(each.std() for each in ranks) else None


def find_threshold(
    confidence: NDArray[np.float64], good: NDArray[np.bool_], precision: float, fold: NDArray[np.intp]
) -> dict[str, Any] | None:
    """The lowest confidence such that of the lines at or above it the share `precision`, 0..1, is good; the other
    arguments are those of each line. None where no confidence reaches the precision on at least FEWEST lines.

    Returns `confidence`; `coverage` and `lines`: share and number of lines above; `reached`: their share of good ones,
    with `low` and `high`, its 95 % Wilson interval if the threshold had been given beforehand; `held_out`: `precision`
    and `lines` of thresholds sought without the lines they are tried on, the honest figure.
    """
    found = _lowest(confidence, good, precision)
    if found is None:
        return None
    above = confidence >= found
    right, lines = int(good[above].sum()), int(above.sum())
    low, high = wilson_interval(right, lines)
    tried = np.zeros(len(confidence), dtype=bool)
    for held_out in np.unique(fold):
        inside = fold == held_out
        threshold = _lowest(confidence[~inside], good[~inside], precision)
        if threshold is not None:
            tried |= inside & (confidence >= threshold)
    count = int(tried.sum())
    return {
        "confidence": found,
        "coverage": lines / len(confidence),
        "lines": lines,
        "reached": right / lines,
        "low": low,
        "high": high,
        "held_out": {"precision": int(good[tried].sum()) / count if count else None, "lines": count},
    }


def _lowest(confidence: NDArray[np.float64], good: NDArray[np.bool_], precision: float) -> float | None:
    order = np.argsort(-confidence, kind="stable")
    ranked, lines = confidence[order], np.arange(1, len(order) + 1)
    last_of_equals = np.append(ranked[1:] != ranked[:-1], True)  # a threshold cannot part equals
    enough = ranked[last_of_equals & (np.cumsum(good[order]) / lines >= precision) & (lines >= FEWEST)]
    return float(enough[-1]) if len(enough) else None
