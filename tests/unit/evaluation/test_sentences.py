"""Sentence-level figures: ranks by hand, and halves where the answer is known."""

from __future__ import annotations

import random
import tracemalloc

import numpy as np
import pytest

from mt.evaluation.sentences import confident_half, expected_quality, sentence_level, spearman
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
        records(hypotheses, [0.5 + 0.4 * good for good in right]),
        [references],
        quality_statistics(hypotheses, [references]),
        seed=12345,
    )
    assert found is not None
    half = found["half"]
    assert half["chrf"] == pytest.approx(100) and half["random_mean"] < 90
    assert half["p"] == pytest.approx(1 / 10_001)
    assert found["correlation"]["chrf"] > 0.8 and found["correlation"]["ter"] < -0.8
    rows = {row["coverage"]: row for row in found["selective"]}
    assert rows[0.5]["chrf"] == pytest.approx(100) and rows[0.5]["lines"] == 60
    assert rows[1.0]["chrf"] < 90 and rows[0.5]["ter"] == 0
    assert found["nbest"] is None


def test_confidence_that_only_knows_the_length_is_no_better_than_chance() -> None:
    hypotheses, references, _ = corpus(400)
    lengths = np.array([len(line.split()) for line in hypotheses])
    statistics = quality_statistics(hypotheses, [references], ter=False)
    found = confident_half(1.0 / lengths, lengths, statistics["chrf"], halves=300, seed=1)
    assert found["p"] > 0.01


def test_random_halves_have_the_lengths_of_the_confident_one() -> None:
    # two lengths, the confident half is all of the first: every random half is the same one
    hypotheses = ["a b c"] * 6 + ["a b c d e"] * 6
    statistics = quality_statistics(hypotheses, [["a b c"] * 6 + ["x y z v w"] * 6], ter=False)
    found = confident_half(
        np.array([0.9] * 6 + [0.1] * 6), np.array([3] * 6 + [5] * 6), statistics["chrf"], halves=50, seed=1
    )
    assert found["random_mean"] == pytest.approx(found["chrf"]) and found["p"] == 1


def test_expected_quality_weighs_outputs_by_their_probability() -> None:
    outputs = [{"log_probs": [np.log(0.3), np.log(0.5)], "chrf": 80.0}, {"log_probs": [np.log(0.05)], "chrf": 40.0}]
    found = expected_quality([{"nbest": outputs}, {}])
    assert found is not None
    assert found["expected_chrf"] == pytest.approx(0.75 * 80 + 0.25 * 40)
    assert (found["achieved_chrf"], found["oracle_chrf"], found["lines"], found["size"]) == (80, 80, 1, 2)


def test_without_confidence_there_are_only_the_scores_of_each_line() -> None:
    texts = ["a dog", "a cat"]
    records = [{"translation": text, "nbest": [{"translation": "a dog", "log_probs": [-1.0]}]} for text in texts]
    assert sentence_level(records, [texts], quality_statistics(texts, [texts]), seed=1) is None
    assert records[0]["chrf"] == records[1]["bleu"] == 100 and records[1]["ter"] == 0
    assert records[0]["nbest"][0]["chrf"] == 100 and records[1]["nbest"][0]["chrf"] < 60


def test_random_halves_take_as_many_of_each_length_as_the_confident_one() -> None:
    # 5 of the 6 short lines, which are all right, and 1 of the 6 long ones, all wrong: so has every random half
    hypotheses = ["a b c"] * 6 + ["a b c d e"] * 6
    statistics = quality_statistics(hypotheses, [["a b c"] * 6 + ["x y z v w"] * 6], ter=False)
    confidence = np.array([0.9] * 5 + [0.1, 0.8] + [0.2] * 5)
    found = confident_half(confidence, np.array([3] * 6 + [5] * 6), statistics["chrf"], halves=50, seed=1)
    assert found["random_mean"] == pytest.approx(found["chrf"]) and found["random_high"] == pytest.approx(found["chrf"])


def test_many_lines_of_one_length_take_little_memory_and_the_same_halves() -> None:
    lines, halves = 800, 4000
    generator = np.random.default_rng(2)
    hypotheses = [" ".join(random.Random(line).choices(WORDS, k=6)) for line in range(lines)]
    chrf = quality_statistics(hypotheses, [hypotheses[::-1]], ter=False)["chrf"]
    confidence = generator.random(lines)
    tracemalloc.start()
    found = confident_half(confidence, np.full(lines, 6), chrf, halves=halves, seed=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40e6  # all random numbers at once, and what is made of them, take 80 MB
    ranks = np.argsort(np.random.default_rng(1).random((halves, lines)), axis=1)
    all_at_once = [chrf.score_of_sums(sums) for sums in (ranks < lines // 2).astype(float) @ chrf.counts]
    assert found["random_mean"] == float(np.mean(all_at_once)) and found["random_high"] == max(all_at_once)
