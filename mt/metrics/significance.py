"""Are two systems really different? Paired bootstrap over the sentences of one test set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mt.metrics.bins import PROTOCOLS, CalibrationBins
from mt.metrics.bootstrap import Difference, paired_bootstrap
from mt.metrics.quality import quality_statistics

Record = dict[str, Any]

RESAMPLES, SEED = 1000, 12345


def quality_differences(systems: Sequence[Sequence[Record]]) -> dict[str, list[Difference]]:
    """`bleu`, `chrf` and `ter`: the differences of every system but the first, from the texts of the records."""
    references = [list(stream) for stream in zip(*(references_of(record) for record in systems[0]))]
    counted = [quality_statistics([record["translation"] for record in records], references) for records in systems]
    return {
        name: paired_bootstrap(
            [each[name].counts for each in counted], first.score_of_sums, resamples=RESAMPLES, seed=SEED
        )
        for name, first in counted[0].items()
    }


def calibration_differences(
    systems: Sequence[Sequence[Record]], *, recalibrated: bool = False
) -> list[Difference | None]:
    """Differences of the inference ECE (20 bins [l, r), 0..1) of every system but the first.

    Args:
        systems: records, line by line of the same test set.
        recalibrated: of `token_confidence`, else of the system's own `exp(log_probs)`, where it tells them.

    Returns:
        None where the tokens of either system are not known for the same lines.
    """
    (first, first_lines), *others = [_measured(records, recalibrated) for records in systems]
    return [other.difference(first) if lines and lines == first_lines else None for other, lines in others]


def references_of(record: Record) -> list[str]:
    """The references of a record, first one first."""
    return list(record.get("references") or [record.get("reference", "")])


def _measured(records: Sequence[Record], recalibrated: bool) -> tuple[CalibrationBins, list[int]]:
    """The calibration of the output, and which lines have tokens."""
    counted = CalibrationBins(**PROTOCOLS["inference"], resamples=RESAMPLES, seed=SEED)
    lines = []
    for number, record in enumerate(records):
        confidence = record.get("token_confidence")
        if not confidence or not record.get("correct"):
            continue
        if record.get("log_probs") and not recalibrated:
            confidence = np.exp(np.minimum(record["log_probs"], 0.0))
        counted.update(confidence, record["correct"], lines=number)
        lines.append(number)
    return counted, lines
