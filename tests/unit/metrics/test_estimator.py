"""Estimators of right tokens and good lines, in worlds whose truth is known."""

from __future__ import annotations

from dataclasses import asdict

import msgspec
import numpy as np
import pytest

from mt.metrics.estimator import MISSED, Linear, Logistic, Quality, clusters

NAMES = ("log_odds", "rare")


def world(tokens: int, seed: int, level: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    values = generator.normal([1.0, 3.0], [2.0, 1.5], (tokens, 2))
    chance = 1 / (1 + np.exp(-(level + 0.8 * values[:, 0] - 0.4 * values[:, 1])))
    return values, chance, generator.random(tokens) < chance


def test_the_fit_finds_the_chances_of_a_logistic_world() -> None:
    values, chance, right = world(20_000, 1)
    fitted = Logistic.fit(NAMES, values, right)
    assert np.abs(fitted.apply(values) - chance).max() < 0.03
    assert fitted == msgspec.convert(asdict(fitted), Logistic), "JSON brings it back"


def test_an_input_that_never_varies_counts_for_nothing_and_hurts_nothing() -> None:
    values, chance, right = world(5_000, 2)
    still = np.column_stack([values, np.full(5_000, 7.0)])
    fitted = Logistic.fit((*NAMES, "still"), still, right)
    assert fitted.weights[2] == pytest.approx(0, abs=1e-9)
    assert np.abs(fitted.apply(still) - chance).mean() < 0.02


def test_identity_states_the_token_s_own_probability() -> None:
    probability = np.array([0.01, 0.5, 0.93])
    values = np.column_stack([np.log(probability / (1 - probability)), [5.0, -2.0, 9.0]])
    assert Logistic.identity(NAMES).apply(values) == pytest.approx(probability)


def test_a_fit_on_few_tokens_of_another_world_keeps_close_to_the_stored_one_and_is_better_than_either() -> None:
    stored = Logistic.fit(NAMES, *world(20_000, 3)[::2])
    values, chance, _ = world(20_000, 4, level=-1.0)
    few, _, right = world(150, 5, level=-1.0)
    errors = {
        name: float(np.abs(each.apply(values) - chance).mean())
        for name, each in {
            "stored": stored,
            "fitted to few": Logistic.fit(NAMES, few, right),
            "towards": Logistic.fit(NAMES, few, right, towards=stored),
        }.items()
    }
    assert errors["towards"] < 0.5 * errors["stored"] and errors["towards"] < errors["fitted to few"]


def test_the_same_sum_with_other_scales() -> None:
    first = Linear(NAMES, (1.0, 2.0), (3.0, 4.0), (0.5, -0.25), 7.0)
    bias, *weights = first.rescaled(np.array([0.5, -1.0]), np.array([2.0, 0.1])).tolist()
    second = Linear(NAMES, (0.5, -1.0), (2.0, 0.1), tuple(weights), bias)
    values = np.random.default_rng(0).normal(size=(5, 2))
    assert second.apply(values) == pytest.approx(first.apply(values))


def lines(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and chrF, whose noise grows with the second input and is skewed."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(count, 2))
    noise = (generator.exponential(size=count) - 1) * np.exp(0.5 * values[:, 1])
    return values, (60 + 10 * values[:, 0] + 8 * noise).clip(0, 100)


def test_quality_ranks_lines_and_its_interval_holds_nine_in_ten() -> None:
    values, chrf = lines(1000, 1)
    fitted = Quality.fit(NAMES, values, chrf, np.arange(1000) % 2 == 0)
    expected, low, high = fitted.apply(lines(20_000, 2)[0]).T
    truth = lines(20_000, 2)[1]
    assert np.corrcoef(expected, truth)[0, 1] > 0.6
    assert np.mean((low <= truth) & (truth <= high)) == pytest.approx(1 - MISSED, abs=0.025)
    assert np.all(low <= high) and expected.min() >= 0 and expected.max() <= 100
    assert fitted == msgspec.convert(asdict(fitted), Quality)


def test_intervals_hold_over_draws_of_the_development_set() -> None:
    held = []
    for seed in range(40):
        values, chrf = lines(300, seed)
        _, low, high = Quality.fit(NAMES, values, chrf, np.arange(300) % 2 == 0).apply(lines(2000, 1000 + seed)[0]).T
        truth = lines(2000, 1000 + seed)[1]
        held.append(np.mean((low <= truth) & (truth <= high)))
    assert np.mean(held) == pytest.approx(1 - MISSED, abs=0.015)


def test_distances_are_in_standard_deviations_of_the_lines_fitted_on() -> None:
    values, chrf = lines(500, 3)
    fitted = Quality.fit(NAMES, values, chrf, np.arange(500) % 2 == 0)
    assert fitted.distances(values.mean(0)) == pytest.approx(dict.fromkeys(NAMES, 0), abs=1e-9)
    assert fitted.distances(values.mean(0) + np.array([0, 2 * values[:, 1].std()]))["rare"] == pytest.approx(2)


def test_clusters_are_of_equal_size_and_part_the_lines_by_what_they_differ_in_most() -> None:
    generator = np.random.default_rng(1)
    length = generator.normal(size=100)
    values = np.column_stack([length, length + 0.1 * generator.normal(size=100), generator.normal(size=100)])
    found = clusters(values, 5)
    assert np.bincount(found).tolist() == [20] * 5
    means = [length[found == each].mean() for each in range(5)]
    assert sorted(means) in (means, means[::-1])
