"""Paired bootstrap: against cases with known answers, and against sacreBLEU's own."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mt.metrics.noise import paired_bootstrap
from mt.metrics.quality import SEED, calibration_differences, quality_differences

WORDS = ["a", "man", "and", "woman", "walk", "with", "two", "dogs", "in", "the", "old", "park", "near", "river"]


def mean(sums: np.ndarray) -> float:
    return float(sums[0] / sums[1])


def statistics(values: np.ndarray) -> np.ndarray:
    return np.stack([values, np.ones_like(values)], axis=1)


def test_difference_of_means_has_the_interval_of_the_textbook() -> None:
    generator = np.random.default_rng(5)
    first = generator.normal(0, 1, 400)
    second = first + generator.normal(0.1, 0.5, 400)
    found = paired_bootstrap([statistics(first), statistics(second)], mean, resamples=4000, seed=SEED)[0]
    paired = second - first
    error = paired.std() / 20
    assert found["difference"] == pytest.approx(paired.mean())
    assert found["low"] == pytest.approx(paired.mean() - 1.96 * error, abs=0.1 * error)
    assert found["high"] == pytest.approx(paired.mean() + 1.96 * error, abs=0.1 * error)


def test_equal_systems_differ_by_nothing_and_distant_ones_surely() -> None:
    values = np.random.default_rng(1).normal(size=100)
    systems = [statistics(values), statistics(values), statistics(values + 9)]
    same, better = paired_bootstrap(systems, mean, resamples=99, seed=SEED)
    assert same == {"difference": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}
    assert better["difference"] == pytest.approx(9) and better["p"] == pytest.approx(0.01)


def test_p_is_rarely_small_where_there_is_no_difference() -> None:
    generator = np.random.default_rng(11)
    small = 0
    for _ in range(100):
        first, second = generator.normal(size=(2, 60))
        small += (
            paired_bootstrap([statistics(first), statistics(second)], mean, resamples=200, seed=SEED)[0]["p"] < 0.05
        )
    assert small <= 12  # 5 are expected; more than 12 happens once in a thousand times


def records(seed: int, changed: float) -> list[dict[str, object]]:
    """Lines whose words are changed with a probability, with token confidences that do not know it."""
    choice, change = np.random.default_rng(0), np.random.default_rng(seed)
    made = []
    for line in range(120):
        reference = list(choice.choice(WORDS, 10))
        right = change.random(10) > changed
        words = [word if good else "zebra" for word, good in zip(reference, right)]
        made.append(
            {
                "line": line,
                "translation": " ".join(words),
                "reference": " ".join(reference),
                "tokens": words,
                "token_confidence": [0.9] * 10,
                "correct": right.tolist(),
            }
        )
    return made


def test_bleu_and_chrf_agree_with_sacrebleu_s_paired_bootstrap() -> None:
    from sacrebleu.metrics import BLEU, CHRF
    from sacrebleu.significance import PairedTest

    systems = [records(1, 0.30), records(2, 0.33)]
    references = [[str(record["reference"]) for record in systems[0]]]
    named = [(f"s{number}", [str(record["translation"]) for record in each]) for number, each in enumerate(systems)]
    ours = quality_differences(systems)
    _, theirs = PairedTest(
        named,
        {"BLEU": BLEU(references=references), "chrF2": CHRF(references=references)},
        None,
        test_type="bs",
        n_samples=1000,
    )()
    for key, name in (("bleu", "BLEU"), ("chrf", "chrF2")):
        other = theirs[name]
        assert ours[key][0]["difference"] == pytest.approx(other[1].score - other[0].score)
        assert ours[key][0]["p"] / 2 == pytest.approx(other[1].p_value, abs=0.04)  # one side there, other draws


def test_calibration_differs_where_accuracy_does() -> None:
    good, bad = records(1, 0.10), records(2, 0.40)
    found = calibration_differences([good, bad, good])
    assert found[0] is not None and found[1] is not None
    shares = [np.mean([record["correct"] for record in each]) for each in (good, bad)]
    expected = abs(0.9 - shares[1]) - abs(0.9 - shares[0])  # all tokens lie in one bin
    assert found[0]["difference"] == pytest.approx(expected) and found[0]["p"] < 0.01
    assert found[0]["low"] < expected < found[0]["high"]
    assert found[1]["difference"] == 0 and found[1]["p"] == 1


def test_the_system_s_own_probabilities_are_compared_unless_the_recalibrated_ones_are_asked_for() -> None:
    plain = records(1, 0.10)
    mapped = [record | {"log_probs": [math.log(0.5)] * 10} for record in plain]
    own, after = calibration_differences([plain, mapped]), calibration_differences([plain, mapped], recalibrated=True)
    right = float(np.mean([record["correct"] for record in plain]))
    assert own[0] is not None and after[0] is not None
    assert own[0]["difference"] == pytest.approx(abs(0.5 - right) - abs(0.9 - right)) and after[0]["difference"] == 0


def test_without_token_probabilities_there_is_no_test_of_calibration() -> None:
    plain = [{"line": 0, "translation": "a", "reference": "a"}]
    assert calibration_differences([records(1, 0.1), plain]) == [None]
    assert calibration_differences([plain, plain]) == [None]


def test_one_system_alone_has_nothing_to_be_compared_with() -> None:
    assert paired_bootstrap([statistics(np.arange(5.0))], mean, resamples=5, seed=1) == []
