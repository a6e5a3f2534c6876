"""Figures of the order of confidences, and the bin-free parts of the Brier score: against sorted tokens and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mt.metrics.ranks import FIGURES, ConfidenceHistogram, pool_adjacent_violators

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
        assert histogram.figures()["auroc"] is None
        return
    wins = sum((r > w) + (r == w) / 2 for r in right for w in wrong)
    assert histogram.figures()["auroc"] == pytest.approx(wins / (len(right) * len(wrong)))


def brier_parts(histogram: ConfidenceHistogram) -> list[float]:
    found = [histogram.figures()[name] for name in ("miscalibration", "discrimination", "uncertainty")]
    return [value for value in found if value is not None]


def kept_right(correct: np.ndarray) -> np.ndarray:
    """Share of right tokens among the k first, for each k."""
    return np.cumsum(correct) / np.arange(1, len(correct) + 1)


def expected_ratio(correct: np.ndarray) -> float:
    """Prediction rejection ratio of tokens of falling confidence."""
    best, chance = kept_right(np.sort(correct)[::-1]).mean(), correct.mean()
    return float((kept_right(correct).mean() - chance) / (best - chance))


def expected_augrc(correct: np.ndarray) -> float:
    """Area under the curve of the share of all tokens that are kept and wrong, tokens of falling confidence."""
    risks = np.append(0.0, np.cumsum(1 - correct)) / len(correct)
    return float(((risks[1:] + risks[:-1]) / 2).mean())


def test_cells_come_near_to_sorted_tokens() -> None:
    confidence, correct = simulated(1)
    histogram = streamed(confidence, correct)
    by_rank = np.argsort(np.argsort(confidence)) + 1.0
    right = correct == 1
    exact_auroc = (by_rank[right].sum() - right.sum() * (right.sum() + 1) / 2) / (right.sum() * (~right).sum())
    assert histogram.figures()["auroc"] == pytest.approx(exact_auroc, abs=1e-4)
    falling = correct[np.argsort(-confidence)]
    assert histogram.figures()["augrc"] == pytest.approx(expected_augrc(falling), abs=1e-5)
    assert histogram.figures()["prr"] == pytest.approx(expected_ratio(falling), abs=1e-4)
    miscalibration, discrimination, uncertainty = brier_parts(histogram)
    assert miscalibration - discrimination + uncertainty == pytest.approx(
        ((confidence - correct) ** 2).mean(), abs=1e-6
    )
    assert uncertainty == pytest.approx(correct.var())
    order = np.argsort(confidence)
    steps = pool_adjacent_violators(np.ones(len(order)), correct[order])
    pooled = np.repeat([total / count for _, count, total in steps], [int(count) for _, count, _ in steps])
    assert discrimination == pytest.approx(correct.var() - ((pooled - correct[order]) ** 2).mean(), abs=3e-4)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), min_size=2, max_size=40))
def test_few_tokens_in_cells_of_their_own_are_sorted(correct: list[bool]) -> None:
    right = np.array(correct, dtype=float)
    histogram = ConfidenceHistogram()
    histogram.update(np.linspace(0.95, 0.05, len(correct)), right)
    assert histogram.figures()["augrc"] == pytest.approx(expected_augrc(right))
    if right.all() or not right.any():
        assert histogram.figures()["prr"] is None and histogram.figures()["auroc"] is None
        return
    assert histogram.figures()["prr"] == pytest.approx(expected_ratio(right), abs=0.02)


def test_four_tokens_by_hand() -> None:
    histogram = ConfidenceHistogram()
    histogram.update(np.array([0.9, 0.8, 0.6, 0.2]), np.array([1.0, 0, 1, 0]))
    assert histogram.figures()["auroc"] == 0.75
    # kept and wrong, of four: 0, 0, 1, 1, 2 at 0 to 4 kept
    assert histogram.figures()["augrc"] == pytest.approx((0 + 0.5 + 1 + 1.5) / 4 / 4)
    # the best rising map gives 0, 1/2, 1/2 and 1; the rate of right ones is 1/2
    assert brier_parts(histogram) == pytest.approx([(0.01 + 0.64 + 0.16 + 0.04) / 4 - 0.125, 0.125, 0.25])
    # kept and right: 1, 1/2, 2/3, 1/2; at best 1, 1, 2/3, 1/2; a logarithm stands for the sum of each cell
    assert histogram.figures()["prr"] == pytest.approx((2 / 3 - 0.5) / (19 / 24 - 0.5), abs=0.01)


@pytest.mark.parametrize(("confidence", "ratio"), [([0.9, 0.8, 0.3], 1.0), ([0.3, 0.4, 0.9], -1.0), ([0.5] * 3, 0.0)])
def test_the_rejection_ratio_is_one_at_best_and_zero_by_chance(confidence: list[float], ratio: float) -> None:
    histogram = ConfidenceHistogram()
    histogram.update(np.array(confidence), np.array([1.0, 1, 0]))
    found = histogram.figures()["prr"]
    assert found is not None and (found < 0 if ratio < 0 else found == pytest.approx(ratio))


def test_a_map_that_keeps_the_order_alters_miscalibration_alone() -> None:
    confidence, correct = simulated(2)
    plain, mapped = (brier_parts(streamed(each, correct)) for each in (confidence, confidence**1.3))
    assert mapped[1:] == pytest.approx(plain[1:], abs=2e-4)
    # tokens are right with probability confidence ** 1.3
    assert plain[0] - mapped[0] == pytest.approx(((confidence - confidence**1.3) ** 2).mean(), rel=0.2)
    assert mapped[0] < plain[0] / 3


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)), min_size=1, max_size=8))
def test_pooled_steps_are_the_nearest_rising_ones(entries: list[tuple[int, int]]) -> None:
    counts, sums = (np.array(column, dtype=float) for column in zip(*entries))
    steps = pool_adjacent_violators(counts, sums)
    firsts = [first for first, _, _ in steps]
    assert firsts[0] == 0 and firsts == sorted(set(firsts))
    ends = [*firsts[1:], len(counts)]
    heights = [total / count for _, count, total in steps]
    assert heights == sorted(set(heights))
    fitted = np.repeat(heights, np.diff([*firsts, len(counts)]))
    for first, end in zip(firsts, ends):
        for cut in range(first + 1, end):  # within a step no later part is higher than an earlier one
            assert sums[first:cut].sum() * counts[cut:end].sum() >= sums[cut:end].sum() * counts[first:cut].sum() - 1e-9
    # min-max formula of the isotonic regression
    for index in range(len(counts)):
        highest = max(
            min(sums[low : high + 1].sum() / counts[low : high + 1].sum() for high in range(index, len(counts)))
            for low in range(index + 1)
        )
        assert fitted[index] == pytest.approx(highest)


def test_confidences_of_zero_one_and_next_to_one_have_their_place() -> None:
    histogram = ConfidenceHistogram()
    histogram.update(np.array([0.0, 1e-300, 0.5, 1 - 1e-9, 1 - 1e-12, 1.0]), np.array([0.0, 0, 0, 0, 1, 1]))
    filled = np.flatnonzero(histogram.sums[0])
    assert filled[0] == 0 and len(filled) == 5  # 0 and 1e-300 share the first cell
    assert histogram.figures()["auroc"] == 1.0


def test_no_tokens_have_no_order() -> None:
    histogram = ConfidenceHistogram()
    assert histogram.figures() == dict.fromkeys(FIGURES)


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
