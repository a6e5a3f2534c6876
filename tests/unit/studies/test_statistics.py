"""Verdicts on differences over seeds and sentences."""

from __future__ import annotations

import numpy as np
import pytest

from tools.studies.statistics import Difference, decision, student_cdf, student_quantile, two_level_difference, verdict


@pytest.mark.parametrize(("freedom", "quantile"), [(1, 12.7062047), (2, 4.3026527), (3, 3.1824463)])
def test_students_t_is_that_of_the_tables(freedom: int, quantile: float) -> None:
    assert student_quantile(0.975, freedom) == pytest.approx(quantile, abs=1e-6)
    assert student_cdf(quantile, freedom) == pytest.approx(0.975, abs=1e-8)
    assert student_cdf(-quantile, freedom) == pytest.approx(0.025, abs=1e-8)


def drawn_study(
    generator: np.random.Generator, effect: float, seeds: int, spread: float = 1.0, noise: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Differences as they come out where seeds differ by `spread` and the text adds `noise`, the same for all seeds."""
    text = generator.normal(0, noise)
    measured = effect + generator.normal(0, spread, seeds) + text
    return measured, measured[:, None] + generator.normal(0, noise, 400)[None, :]


@pytest.mark.parametrize("seeds", [2, 3, 6])
def test_where_there_is_no_difference_one_is_seen_in_at_most_about_one_study_of_twenty(seeds: int) -> None:
    generator = np.random.default_rng(seeds)
    found = [two_level_difference(*drawn_study(generator, 0.0, seeds), margin=0.1).p < 0.05 for _ in range(600)]
    assert np.mean(found) < 0.09  # 0.05, and what the bootstrap of six seeds falls short by


@pytest.mark.parametrize("seeds", [3, 6])
def test_the_interval_holds_the_true_difference_in_about_19_studies_of_20(seeds: int) -> None:
    generator = np.random.default_rng(seeds)
    held = 0
    for _ in range(600):
        found = two_level_difference(*drawn_study(generator, 2.0, seeds), margin=0.1)
        held += found.low <= 2.0 <= found.high
    assert held / 600 > 0.9


def test_the_detectable_difference_is_seen_in_about_four_studies_of_five() -> None:
    generator = np.random.default_rng(0)
    typical = np.median(
        [two_level_difference(*drawn_study(generator, 0.0, 8), margin=0.1).detectable for _ in range(100)]
    )
    seen = [two_level_difference(*drawn_study(generator, typical, 8), margin=0.1).p < 0.05 for _ in range(400)]
    assert 0.7 < np.mean(seen) < 0.92


def test_equal_groups_are_called_the_same_only_where_the_data_can_tell() -> None:
    generator = np.random.default_rng(3)
    sure = [
        two_level_difference(*drawn_study(generator, 0.0, 6, spread=0.1, noise=0.05), margin=0.5) for _ in range(200)
    ]
    assert np.mean([each.p_same < 0.05 for each in sure]) > 0.95
    beyond = [
        two_level_difference(*drawn_study(generator, 0.5, 6, spread=0.1, noise=0.05), margin=0.5) for _ in range(600)
    ]
    assert np.mean([each.p_same < 0.05 for each in beyond]) < 0.09
    vague = two_level_difference(*drawn_study(generator, 0.0, 6, spread=2.0), margin=0.5)
    assert vague.p_same > 0.05


def test_one_seed_decides_nothing_however_sure_its_sentences_are() -> None:
    found = two_level_difference(np.array([5.0]), np.full((1, 100), 5.0) + np.linspace(-0.1, 0.1, 100), margin=0.5)
    assert (found.p, found.p_same, found.seeds) == (1.0, 1.0, 1)


def difference(effect: float, half: float, margin: float = 0.5) -> Difference:
    return Difference(effect, effect - half, effect + half, 0.0, 0.0, 3, 1.0, margin)


@pytest.mark.parametrize(
    ("claim", "effect", "p", "p_same", "said"),
    [
        ("higher", 1.0, 0.01, 1.0, "supported"),
        ("higher", -1.0, 0.01, 1.0, "refuted"),
        ("lower", -1.0, 0.01, 1.0, "supported"),
        ("lower", 1.0, 0.01, 1.0, "refuted"),
        ("higher", 0.1, 0.6, 0.01, "refuted"),  # shown to be no difference
        ("higher", 1.0, 0.06, 0.9, "open"),
        ("same", 0.1, 0.6, 0.01, "supported"),
        ("same", 1.0, 0.01, 1.0, "refuted"),
        ("same", 0.6, 0.01, 0.9, "open"),  # a difference, but perhaps within the margin
    ],
)
def test_decisions(claim: str, effect: float, p: float, p_same: float, said: str) -> None:
    assert decision(difference(effect, half=0.2), claim, p, p_same) == said


def test_a_verdict_needs_all_comparisons() -> None:
    assert verdict(["supported", "supported"]) == "supported"
    assert verdict(["supported", "open"]) == "mixed"
    assert verdict(["supported", "refuted"]) == "mixed"
    assert verdict(["open"]) == "open"
    assert verdict([]) == "not run"
