"""Thresholds by counting on fingers."""

from __future__ import annotations

import numpy as np
import pytest

from mt.evaluation.sentences import find_threshold


def test_the_lowest_confidence_that_keeps_the_precision() -> None:
    confidence = np.linspace(0.99, 0.5, 50)
    good = np.ones(50, dtype=bool)
    good[[20, 30, 31, 32]] = False  # 24 of 25 = 0.96 at the 25th; 29 of 30 = 0.967 at the 30th; 29 of 33 after
    found = find_threshold(confidence, good, 0.95, np.arange(50) % 5)
    assert found is not None
    # from the 34th on: 30 of 34 = 0.88 up to 46 of 50 = 0.92, never 0.95 again
    assert found["confidence"] == pytest.approx(confidence[29]) and found["lines"] == 30
    assert found["reached"] == pytest.approx(29 / 30) and found["coverage"] == pytest.approx(0.6)
    # Wilson (1927): the shares p with (29/30 - p)^2 = z^2 p (1 - p) / 30
    for share in (found["low"], found["high"]):
        assert (29 / 30 - share) ** 2 == pytest.approx(1.959964**2 * share * (1 - share) / 30)
    assert found["low"] < 29 / 30 < found["high"]


def test_equal_confidences_fall_on_one_side() -> None:
    confidence = np.array([0.9] * 30 + [0.5] * 30)
    good = np.array([True] * 30 + [True] + [False] * 29)
    found = find_threshold(confidence, good, 1.0, np.zeros(60, dtype=int))
    assert found is not None and found["lines"] == 30


def test_noise_does_not_keep_its_promise_on_other_lines() -> None:
    generator = np.random.default_rng(3)
    confidence, good = generator.random(400), generator.random(400) < 0.8
    found = find_threshold(confidence, good, 0.83, np.arange(400) * 5 // 400)
    assert found is not None and found["held_out"]["lines"]
    assert found["held_out"]["precision"] < 0.83 <= found["reached"]


def test_nothing_is_found_where_nothing_reaches_the_precision() -> None:
    confidence = np.linspace(0, 1, 100)
    assert find_threshold(confidence, np.arange(100) % 2 == 0, 0.95, np.zeros(100, dtype=int)) is None
    few = np.arange(100) >= 90  # right, but fewer lines than say something
    assert find_threshold(confidence, few, 0.95, np.zeros(100, dtype=int)) is None
