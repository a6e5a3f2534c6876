"""Three made-up systems whose calibration is known, for the worked readings of docs/calibration.md."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mt.metrics.measures import Measures
from mt.metrics.tokens import Floats

TOKENS = 15_000
"""about what a test set of a thousand sentences has"""


class Example(NamedTuple):
    """A figure: file name, title, and the calibration block that is drawn."""

    name: str
    title: str
    block: dict[str, Any]


def examples(seed: int = 1) -> list[Example]:
    """The true probability r of each token is drawn from Beta(2.5, 1), and whether it is right from r; the systems
    differ in the confidence that they state. The last one is true but for the end of sentence, one token in 14."""
    generator = np.random.default_rng(seed)
    true = generator.beta(2.5, 1, TOKENS)
    correct = generator.random(TOKENS) < true
    end = np.arange(TOKENS) % 14 == 13
    sharp = _with_odds_to_the(true, 1.8)
    smoothed = 0.9 * true + 0.1 / 6000
    early = np.where(end, _with_odds_to_the(true, 3.0), true)
    return [
        Example("calibration-over", "over-confident: odds to the power 1.8", _block(sharp, correct)),
        Example("calibration-under", "under-confident: label smoothing 0.1", _block(smoothed, correct)),
        Example("calibration-end-all", "all tokens: little to see", _block(early, correct)),
        Example("calibration-end-only", "ends of sentence alone", _block(early[end], correct[end], eos="only")),
    ]


def _with_odds_to_the(probability: Floats, power: float) -> Floats:
    """What a temperature of 1 / power makes of two classes."""
    yes, no = probability**power, (1 - probability) ** power
    return np.asarray(yes / (yes + no), dtype=np.float64)


def _block(confidence: Floats, correct: np.ndarray, eos: str = "yes") -> dict[str, Any]:
    measures = Measures(eos=eos, split="made-up")
    measures.update(confidence, correct)
    return measures.block()
