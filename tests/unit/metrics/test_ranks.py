"""Figures of the order of confidences: against sorted tokens, plain loops and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mt.metrics.bins import expected_calibration_error
from mt.metrics.ranks import ConfidenceHistogram

TICK = st.integers(0, 20).map(lambda tick: tick / 20)
TOKENS = st.lists(st.tuples(TICK, st.booleans()), min_size=1, max_size=40)


def simulated(seed: int, tokens: int = 20_000) -> tuple[np.ndarray, np.ndarray]:
    """Over-confident tokens, crowded at 1 as a model's are."""
    generator = np.random.default_rng(seed)
    confidence = 1 / (1 + np.exp(-generator.normal(2, 2.5, tokens)))
    return confidence, (generator.random(tokens) < confidence**1.3).astype(float)


def streamed(confidence: np.ndarray, correct: np.ndarray) -> ConfidenceHistogram:
    histogram = ConfidenceHistogram()
    for c, a in zip(np.array_split(confidence, 7), np.array_split(correct, 7)):
        part = ConfidenceHistogram()
        part.update(c, a)
        histogram.sums += part.sums
    return histogram


@settings(max_examples=60, deadline=None)
@given(TOKENS)
def test_auroc_is_the_share_of_pairs_in_order(tokens: list[tuple[float, bool]]) -> None:
    right = [c for c, a in tokens if a]
    wrong = [c for c, a in tokens if not a]
    histogram = ConfidenceHistogram()
    histogram.update(*(np.array(column, dtype=float) for column in zip(*tokens)))
    if not right or not wrong:
        assert histogram.auroc() is None
        return
    wins = sum((r > w) + (r == w) / 2 for r in right for w in wrong)
    assert histogram.auroc() == pytest.approx(wins / (len(right) * len(wrong)))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_risk_and_its_area_are_those_of_the_tokens_one_by_one(correct: list[bool]) -> None:
    confidence = np.linspace(0.05, 0.95, len(correct))  # each in a cell of its own
    histogram = ConfidenceHistogram()
    histogram.update(confidence, np.array(correct, dtype=float))
    curve = histogram.risk_coverage()
    assert curve is not None
    mistakes = np.cumsum([not each for each in reversed(correct)])
    risks = mistakes / np.arange(1, len(correct) + 1)
    assert curve["aurc"] == pytest.approx(risks.mean(), abs=1e-9)
    assert curve["risk"][-1] == pytest.approx(risks[-1]) and curve["coverage"][-1] == 1
    if 50 % len(correct) == 0:  # then a whole number of tokens lies at some points of the curve
        step = 50 // len(correct)
        assert curve["risk"][step - 1 :: step] == pytest.approx(risks.tolist())


def test_the_cells_come_as_near_to_sorted_tokens_as_they_state() -> None:
    confidence, correct = simulated(1)
    histogram = streamed(confidence, correct)
    largest = histogram.sums[0].max() / histogram.sums[0].sum()
    for bins in (5, 15, 50):
        exact = expected_calibration_error(confidence, correct, bins=bins, scheme="mass")
        assert abs(histogram.equal_mass_error(bins) - exact) <= 2 * (bins - 1) * largest
        assert histogram.equal_mass_error(bins) == pytest.approx(exact, abs=3e-4)
    by_rank = np.argsort(np.argsort(confidence)) + 1.0
    right = correct == 1
    exact_auroc = (by_rank[right].sum() - right.sum() * (right.sum() + 1) / 2) / (right.sum() * (~right).sum())
    assert histogram.auroc() == pytest.approx(exact_auroc, abs=1e-4)
    wrong = 1 - correct[np.argsort(-confidence)]
    curve = histogram.risk_coverage()
    assert curve is not None
    risks = np.cumsum(wrong) / np.arange(1, len(wrong) + 1)
    assert curve["aurc"] == pytest.approx(risks.mean(), abs=1e-4)
    assert curve["risk"] == pytest.approx(risks[np.arange(1, 51) * 400 - 1].tolist(), abs=2e-3)


def test_confidences_of_zero_one_and_next_to_one_have_their_place() -> None:
    histogram = ConfidenceHistogram()
    histogram.update(np.array([0.0, 1e-300, 0.5, 1 - 1e-9, 1 - 1e-12, 1.0]), np.array([0.0, 0, 0, 0, 1, 1]))
    filled = np.flatnonzero(histogram.sums[0])
    assert filled[0] == 0 and len(filled) == 5  # 0 and 1e-300 share the first cell
    assert histogram.auroc() == 1.0


def test_no_tokens_have_no_order() -> None:
    histogram = ConfidenceHistogram()
    assert histogram.auroc() is None and histogram.risk_coverage() is None and histogram.equal_mass_error(15) == 0


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=12, unique_by=lambda each: each[0]))
def test_few_tokens_in_cells_of_their_own_are_sorted_exactly(tokens: list[tuple[int, bool]]) -> None:
    confidence = np.array([tick / 40 for tick, _ in tokens])
    correct = np.array([right for _, right in tokens], dtype=float)
    histogram = ConfidenceHistogram()
    histogram.update(confidence, correct)
    for bins in (1, 2, 5, 15):
        exact = expected_calibration_error(confidence, correct, bins=bins, scheme="mass")
        assert histogram.equal_mass_error(bins) == pytest.approx(exact, abs=1e-12)
    curve = histogram.risk_coverage()
    if not tokens:
        assert curve is None
        return
    assert curve is not None
    mistakes = [0.0, *np.cumsum(1 - correct[np.argsort(-confidence)])]
    share = np.arange(1, 51) / 50
    expected = np.interp(share * len(tokens), range(len(tokens) + 1), mistakes) / (share * len(tokens))
    assert curve["coverage"] == pytest.approx(share.tolist())
    assert curve["risk"] == pytest.approx(expected.tolist())


@pytest.mark.parametrize("sign", [1, -1])
def test_cells_are_a_two_hundredth_of_a_logit_wide_from_minus_thirty_to_thirty(sign: int) -> None:
    def cell(logit: float) -> int:
        histogram = ConfidenceHistogram()
        confidence = 1 / (1 + np.exp(-sign * np.array([logit])))
        histogram.update(confidence, np.ones(1))
        assert histogram.sums.shape == (3, 12_000)
        return int(histogram.sums[0].argmax())

    middle = 6000 if sign > 0 else 5999
    for logit, number in ((0.001, 0), (0.0049, 0), (0.0051, 1), (5.3001, 1060), (5.3049, 1060), (5.3051, 1061)):
        assert cell(logit) == middle + sign * number
    if sign < 0:  # near 1 float64 does not tell such probabilities apart
        assert cell(29.996) == 0 and cell(29.994) == 1
    assert cell(31) == cell(600) == (11_999 if sign > 0 else 0)
