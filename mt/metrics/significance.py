"""Are two systems really different? Paired bootstrap over the sentences of one test set (Koehn 2004)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mt.metrics.measures import Measures, paired_difference
from mt.report.rows import Record

Floats = NDArray[np.float64]
Difference = dict[str, float]

RESAMPLES, SEED = 1000, 12345


def paired_bootstrap(
    statistics: Sequence[Floats], score: Callable[[Floats], float], *, resamples: int = RESAMPLES, seed: int = SEED
) -> list[Difference]:
    """Differences of corpus scores from that of the first system, over the same resamples of sentences.

    Args:
        statistics: of each system, (sentences, figures): sums over sentences determine the score.
        score: of such sums (figures,).
        resamples: how often as many sentences are drawn, with replacement.
        seed: of the draws.

    Returns:
        For every system but the first `difference`; `low`, `high`: its 95 % percentile interval; `p`: two-sided, the
        share of resamples whose difference is as far from their mean as the measured one is from 0, one added to
        both counts. sacreBLEU's paired bootstrap counts one side only: its p is about half of this one.
    """
    generator = np.random.default_rng(seed)
    sentences = len(statistics[0])
    resampled = np.empty((resamples, len(statistics)))
    for row in resampled:
        counts = np.bincount(generator.integers(sentences, size=sentences), minlength=sentences)
        row[:] = [score(counts @ each) for each in statistics]
    measured = np.array([score(each.sum(axis=0)) for each in statistics])
    found = []
    for system in range(1, len(statistics)):
        difference = float(measured[system] - measured[0])
        drawn = resampled[:, system] - resampled[:, 0]
        beyond = np.abs(drawn - drawn.mean()) >= abs(difference)
        low, high = np.quantile(drawn, [0.025, 0.975])
        p = float((1 + beyond.sum()) / (1 + resamples))
        found.append({"difference": difference, "low": float(low), "high": float(high), "p": p})
    return found


def quality_differences(systems: Sequence[Sequence[Record]]) -> dict[str, list[Difference]]:
    """`bleu`, `chrf` and `ter`: the differences of every system but the first, from the texts of the records."""
    from sacrebleu.metrics import BLEU, CHRF, TER

    references = [list(stream) for stream in zip(*(references_of(record) for record in systems[0]))]
    found = {}
    for key, metric in (("bleu", BLEU(force=True)), ("chrf", CHRF()), ("ter", TER())):
        # sacreBLEU's own significance tests rest on the same two methods
        statistics = [
            np.array(
                metric._extract_corpus_statistics([record["translation"] for record in records], references),
                dtype=np.float64,
            )
            for records in systems
        ]

        def score(sums: Floats, metric: Any = metric) -> float:
            return float(metric._compute_score_from_stats(sums.tolist()).score)

        found[key] = paired_bootstrap(statistics, score, resamples=RESAMPLES)
    return found


def calibration_differences(
    systems: Sequence[Sequence[Record]], *, recalibrated: bool = False
) -> list[Difference | None]:
    """Differences of the inference ECE (20 bins [l, r), 0..1) of every system but the first; None where the tokens of
    either are not known for the same lines. `recalibrated`: of `token_confidence`, else of the system's own
    probabilities, `exp(log_probs)`, where it tells them."""
    measured = [_measure(records, recalibrated) for records in systems]
    first, first_lines = measured[0]
    found: list[Difference | None] = []
    for other, lines in measured[1:]:
        found.append(paired_difference(other, first) if lines and lines == first_lines else None)
    return found


def references_of(record: Record) -> list[str]:
    """The references of a record, first one first."""
    return list(record.get("references") or [record.get("reference", "")])


def _measure(records: Sequence[Record], recalibrated: bool) -> tuple[Measures, list[int]]:
    """The calibration of the output, and which lines have tokens."""
    measures = Measures(bins=20, edges="[l,r)", resamples=RESAMPLES, seed=SEED)
    lines = []
    for number, record in enumerate(records):
        confidence = record.get("token_confidence")
        if not confidence or not record.get("correct"):
            continue
        if record.get("log_probs") and not recalibrated:
            confidence = np.exp(np.minimum(record["log_probs"], 0.0))
        measures.update(confidence, record["correct"], lines=number)
        lines.append(number)
    return measures, lines
