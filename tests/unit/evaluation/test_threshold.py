"""Thresholds by counting on fingers, the exact binomial interval against tables."""

from __future__ import annotations

import numpy as np
import pytest

from mt.evaluation.threshold import binomial_interval, find_threshold


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Clopper and Pearson; 0 of 10: 1 - 0.025 ** (1 / 10)
    [
        (0, 10, 0.0, 1 - 0.025**0.1),
        (10, 10, 0.025**0.1, 1.0),
        (5, 10, 0.187086, 0.812914),
        (95, 100, 0.887165, 0.983568),
    ],
)
def test_interval_of_a_share(successes: int, trials: int, low: float, high: float) -> None:
    assert binomial_interval(successes, trials) == pytest.approx((low, high), abs=2e-6)


def test_the_lowest_confidence_that_keeps_the_precision() -> None:
    confidence = np.linspace(0.99, 0.5, 50)
    good = np.ones(50, dtype=bool)
    good[[20, 30, 31, 32]] = False  # 24 of 25 = 0.96 at the 25th; 29 of 30 = 0.967 at the 30th; 29 of 33 after
    found = find_threshold(confidence, good, 0.95, np.arange(50) % 5)
    assert found is not None
    # from the 34th on: 30 of 34 = 0.88 up to 46 of 50 = 0.92, never 0.95 again
    assert found["confidence"] == pytest.approx(confidence[29]) and found["lines"] == 30
    assert found["reached"] == pytest.approx(29 / 30) and found["coverage"] == pytest.approx(0.6)
    assert found["low"] < 0.95 < found["high"]


def test_equal_confidences_fall_on_one_side() -> None:
    confidence = np.array([0.9] * 30 + [0.5] * 30)
    good = np.array([True] * 30 + [True] + [False] * 29)
    found = find_threshold(confidence, good, 1.0, np.zeros(60, dtype=int))
    assert found is not None and found["lines"] == 30


def test_noise_does_not_keep_its_promise_on_other_lines() -> None:
    generator = np.random.default_rng(3)
    confidence, good = generator.random(400), generator.random(400) < 0.8
    found = find_threshold(confidence, good, 0.9, np.arange(400) * 5 // 400)
    if found is not None and found["held_out"]["lines"]:
        assert found["held_out"]["precision"] < found["reached"]


def test_nothing_is_found_where_nothing_reaches_the_precision() -> None:
    confidence = np.linspace(0, 1, 100)
    assert find_threshold(confidence, np.arange(100) % 2 == 0, 0.95, np.zeros(100, dtype=int)) is None
    few = np.arange(100) >= 90  # right, but fewer lines than say something
    assert find_threshold(confidence, few, 0.95, np.zeros(100, dtype=int)) is None
