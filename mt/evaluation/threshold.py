"""Which translations to trust: the confidence above which a stated share of them is good enough."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mt.metrics.noise import wilson_interval

FEWEST = 20
"""lines above a threshold; fewer say too little"""


def find_threshold(
    confidence: NDArray[np.float64], good: NDArray[np.bool_], precision: float, fold: NDArray[np.intp]
) -> dict[str, Any] | None:
    """The lowest confidence such that of the lines at or above it the share `precision` is good.

    Args:
        confidence, good, fold: of each line; thresholds are also sought without each fold and tried on it.
        precision: 0..1.

    Returns:
        `confidence`; `coverage` and `lines`: share and number of lines above; `reached`: their share of good ones,
        with `low` and `high`, its 95 % Wilson interval if the threshold had been given beforehand; `held_out`:
        {"precision", "lines"} of thresholds sought without the lines they are tried on, the honest figure. None where
        no confidence reaches the precision on at least FEWEST lines.
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
    ranked = confidence[order]
    lines = np.arange(1, len(order) + 1)
    last_of_equals = np.append(ranked[1:] != ranked[:-1], True)
    enough = last_of_equals & (np.cumsum(good[order]) / lines >= precision) & (lines >= FEWEST)
    places = np.flatnonzero(enough)
    return float(ranked[places[-1]]) if len(places) else None
