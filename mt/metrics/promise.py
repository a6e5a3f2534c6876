"""Promises of the kind "of the lines at or above this threshold, 90 % are good", at a stated risk of breaking them.

Learn then test (Angelopoulos, Bates, Candès, Jordan and Lei 2021, arXiv:2110.01052), with fixed-sequence testing: the
thresholds were fixed on other lines; from the one that keeps fewest lines down, each is tested by the exact binomial
tail at the whole risk, and the first that fails ends it. So with a probability of at least 1 - RISK, over the lines
tried, the promise holds on all text of this kind.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mt.metrics.noise import Floats, wilson_interval

RISK = 0.05
_STEPS = 20  # thresholds that are tried
_ROOM = 2  # times the fewest lines with which anything can be promised, at the first threshold


def find_threshold(
    score: Floats, good: NDArray[np.bool_], precision: float, fitted: NDArray[np.bool_]
) -> dict[str, Any] | None:
    """The lowest threshold such that, of the lines at or above it, the share `precision` (0..1) is good; score and good
    are those of each line. `fitted` (lines,): lines whose scores set the thresholds; the others test them. None where
    none passes.

    Returns `threshold`; `lines` and `coverage`: number and share of tested lines at or above it; `reached`: the share
    of good ones among them, with its 95 % Wilson interval `low`, `high`.
    """
    tested, right = score[~fitted], good[~fitted]
    fewest = _ROOM * math.ceil(math.log(RISK) / math.log(precision)) if precision < 1 else math.inf
    found = None
    for threshold in np.quantile(score[fitted], np.arange(_STEPS - 1, -1, -1) / _STEPS, method="lower"):
        above = tested >= threshold
        lines = int(above.sum())
        if lines < min(fewest, len(tested)):
            continue
        if binomial_tail(int(right[above].sum()), lines, precision) > RISK:
            break
        found = float(threshold)
    return None if found is None else reached(score[~fitted], right, found)


def reached(score: Floats, good: NDArray[np.bool_], threshold: float) -> dict[str, Any]:
    """What a threshold keeps of a text and reaches there; as `find_threshold`. Without lines above it None."""
    above = score >= threshold
    lines, right = int(above.sum()), int(good[above].sum())
    low, high = wilson_interval(right, lines) if lines else (None, None)
    share = right / lines if lines else None
    coverage = lines / len(score)
    return {"threshold": threshold, "lines": lines, "coverage": coverage, "reached": share, "low": low, "high": high}


def binomial_tail(successes: int, trials: int, chance: float) -> float:
    """Probability of at least so many successes."""
    if chance >= 1 or successes <= 0:
        return 1.0
    counts = np.arange(successes, trials + 1)
    logs = np.array(
        [math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1) for k in counts.tolist()]
    )
    return float(min(1.0, np.exp(logs + counts * math.log(chance) + (trials - counts) * math.log1p(-chance)).sum()))
