"""Promises about the lines above a threshold: kept in worlds whose truth is known."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from numpy.typing import NDArray

from mt.metrics.promise import RISK, binomial_tail, find_threshold, reached

Floats = NDArray[np.float64]


def halves(lines: int) -> NDArray[np.bool_]:
    return np.arange(lines) % 2 == 0


def test_the_tail_is_that_of_the_binomial_distribution() -> None:
    assert binomial_tail(2, 3, 0.5) == pytest.approx(0.5)
    assert binomial_tail(0, 3, 0.5) == 1 and binomial_tail(3, 3, 1.0) == 1
    exact = sum(comb(1000, k) * Fraction(9, 10) ** k * Fraction(1, 10) ** (1000 - k) for k in range(900, 1001))
    assert binomial_tail(900, 1000, 0.9) == pytest.approx(float(exact), rel=1e-9)


def test_what_a_threshold_reaches_is_counted() -> None:
    score, good = np.array([0.9, 0.8, 0.8, 0.1]), np.array([True, False, True, True])
    found = reached(score, good, 0.8)
    assert (found["lines"], found["coverage"], found["reached"]) == (3, 0.75, pytest.approx(2 / 3))
    assert found["low"] < 2 / 3 < found["high"]
    assert reached(score, good, 1.0)["reached"] is None


def test_a_threshold_is_found_where_the_score_tells_good_from_bad_and_none_where_too_few_lines_are_good() -> None:
    score = np.linspace(0, 1, 1000)
    found = find_threshold(score, score > 0.4, 0.9, halves(1000))
    # nine in ten of those at or above t are good where 0.9 (1 - t) = 0.6
    assert found is not None and 1 / 3 < found["threshold"] < 0.45 and found["reached"] >= 0.9
    assert find_threshold(score, np.arange(1000) % 2 == 0, 0.9, halves(1000)) is None
    assert find_threshold(score[:40], np.ones(40, dtype=bool), 0.95, halves(40)) is None, "20 lines cannot show 95 %"


def test_only_the_lines_that_were_not_fitted_on_test_the_promise() -> None:
    score, fitted = np.linspace(0, 1, 1000), halves(1000)
    assert find_threshold(score, fitted.copy(), 0.9, fitted) is None  # good are just those that were fitted on
    assert find_threshold(score, ~fitted, 0.9, fitted) is not None


def broken(lines: int, precision: float, draws: int, seed: int) -> tuple[int, int]:
    """Promises made, and broken, in a world where a line of score x is good with the chance sigmoid(1 + 1.5 x)."""
    generator, grid = np.random.default_rng(seed), np.linspace(-6, 6, 24_001)
    density, chance = np.exp(-grid * grid / 2), 1 / (1 + np.exp(-1 - 1.5 * grid))
    made = failed = 0
    for _ in range(draws):
        score = generator.normal(size=lines)
        good = generator.random(lines) < 1 / (1 + np.exp(-1 - 1.5 * score))
        if found := find_threshold(score, good, precision, halves(lines)):
            above = grid >= found["threshold"]
            made += 1
            failed += bool((density * chance)[above].sum() / density[above].sum() < precision)
    return made, failed


def test_promises_are_kept_and_made() -> None:
    made, failed = broken(1000, 0.7, 40, seed=1)
    assert made == 40 and failed <= 4


@pytest.mark.parametrize("lines", [200, 500, 1000, 5000])
def test_at_most_one_promise_in_twenty_is_broken(lines: int) -> None:
    for precision in (0.7, 0.8, 0.9):
        made, failed = broken(lines, precision, 300, seed=lines)
        print(f"{lines} lines, precision {precision}: {made} promises of 300 draws, {failed} broken")
        assert failed <= RISK * 300
