"""Sentence-level figures, by hand."""

from __future__ import annotations

import random

import numpy as np
import pytest

from mt.evaluation.sentences import expected_against_reached, kept_promise, rejection_ratio, sentence_level, spearman
from mt.metrics.quality import quality_statistics

WORDS = ["a", "the", "dog", "cat", "man", "woman", "runs", "sleeps", "in", "on", "park", "house"]


def corpus(lines: int) -> tuple[list[str], list[str], list[int]]:
    """References, hypotheses of which every second is right, and whether each is."""
    chooser = random.Random(1)
    references = [" ".join(chooser.choices(WORDS, k=chooser.randint(4, 9))) for _ in range(lines)]
    right = [line % 2 for line in range(lines)]
    hypotheses = [reference if good else reference[::-1] for reference, good in zip(references, right)]
    return hypotheses, references, right


def records(hypotheses: list[str], confidence: list[float]) -> list[dict[str, object]]:
    return [{"translation": text, "source": text, "confidence": value} for text, value in zip(hypotheses, confidence)]


def test_spearman_shares_the_ranks_of_equal_values() -> None:
    # ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4: covariance 4.5 over sqrt(4.5 * 5)
    assert spearman(np.array([1.0, 2, 2, 9]), np.array([0.1, 0.3, 0.2, 0.4])) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    assert spearman(np.ones(4), np.arange(4.0)) is None


def test_confidence_that_knows_the_right_lines_is_found_useful() -> None:
    hypotheses, references, right = corpus(120)
    found = sentence_level(
        records(hypotheses, [0.5 + 0.4 * good for good in right]), quality_statistics(hypotheses, [references])
    )
    assert found is not None
    assert found["prr"] > 0.8
    assert found["correlation"]["chrf"] > 0.8 and found["correlation"]["ter"] < -0.8
    rows = {row["coverage"]: row for row in found["selective"]}
    assert rows[0.5]["chrf"] == pytest.approx(100) and rows[0.5]["lines"] == 60
    assert rows[1.0]["chrf"] < 90 and rows[0.5]["ter"] == 0


def test_without_confidence_there_are_only_the_scores_of_each_line() -> None:
    texts = ["a dog", "a cat"]
    records: list[dict[str, object]] = [{"translation": text} for text in texts]
    assert sentence_level(records, quality_statistics(texts, [texts])) is None
    assert records[0]["chrf"] == records[1]["bleu"] == 100 and records[1]["ter"] == 0


def test_the_rejection_ratio_is_1_for_the_best_order_and_the_share_of_the_gain_for_others() -> None:
    quality = np.array([10.0, 20, 60])
    assert rejection_ratio(quality, quality) == pytest.approx(1)
    # best order: means 60, 40, 30; by chance 30; this one: 20, 40, 30
    assert rejection_ratio(np.array([0.1, 0.9, 0.5]), quality) == pytest.approx(0 / (130 / 3 - 30))
    assert rejection_ratio(-quality, quality) < 0 and rejection_ratio(quality, np.ones(3)) is None


def stated(quality: list[float], chrf: list[float]) -> list[dict[str, float]]:
    return [{"quality": q, "quality_low": q - 10, "quality_high": q + 10, "chrf": c} for q, c in zip(quality, chrf)]


def test_stated_quality_is_held_against_what_was_reached() -> None:
    found = expected_against_reached(stated([50, 60, 70, 80], [45.0, 70.01, 90, 85]))
    assert found is not None
    assert (found["coverage"], found["width"]) == (0.75, 20)  # 70.01 is 70 but for rounding, 90 is too far
    assert (found["mean"], found["chrf"], found["spearman"]) == (65, pytest.approx(72.5025), pytest.approx(0.8))
    assert expected_against_reached([{"chrf": 1.0}]) is None


def test_a_promise_is_broken_where_even_the_interval_lies_below_it() -> None:
    promise = {"by": "quality", "chrf": 60.0, "precision": 0.9, "threshold": 50.0}
    reached = kept_promise(promise, stated([55.0] * 40 + [40] * 10, [70.0] * 37 + [10] * 13))
    assert reached["lines"] == 40 and reached["reached"] == pytest.approx(37 / 40) and reached["kept"]
    assert not kept_promise(promise, stated([55.0] * 40, [70.0] * 20 + [10] * 20))["kept"]
    assert kept_promise(promise, stated([10.0], [10.0]))["kept"] is None
