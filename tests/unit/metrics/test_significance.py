"""Paired bootstrap: against cases with known answers, and against sacreBLEU's own."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mt.metrics.bins import sentence_sums
from mt.metrics.noise import holm, paired_bootstrap, resampled_counts
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
    assert better["difference"] == pytest.approx(9) and better["p"] == pytest.approx(0.02)


def test_p_is_rarely_small_where_there_is_no_difference() -> None:
    generator = np.random.default_rng(11)
    small = 0
    for _ in range(100):
        first, second = generator.normal(size=(2, 60))
        small += (
            paired_bootstrap([statistics(first), statistics(second)], mean, resamples=200, seed=SEED)[0]["p"] < 0.05
        )
    assert small <= 12  # 5 are expected; more than 12 happens once in a thousand times


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("resamples", [40, 99, 100, 1000])
def test_p_is_below_a_twentieth_exactly_where_the_interval_leaves_out_zero(resamples: int, biased: bool) -> None:
    generator = np.random.default_rng(resamples)
    below = 0
    for shift in np.linspace(0, 1, 40):
        first = generator.normal(size=30)
        systems = [statistics(first), statistics(first + generator.normal(shift, 1.0, 30))]
        found = paired_bootstrap(systems, mean, resamples=resamples, seed=SEED, biased=biased)[0]
        assert (found["p"] < 0.05) == (not found["low"] <= 0 <= found["high"])
        below += found["p"] < 0.05
    assert 5 < below < 35


@pytest.mark.parametrize("order", [1, -1])
def test_the_interval_of_a_biased_score_is_turned_round_and_reaches_to_where_it_lies_without_that(order: int) -> None:
    generator = np.random.default_rng(3)
    systems = [np.column_stack([np.ones(50), generator.normal(gap, 1.0, 50)]) for gap in (0.05, 0.6)][::order]

    def error(sums: np.ndarray) -> float:
        return float(abs(sums[1]) / sums[0])

    found = paired_bootstrap(systems, error, resamples=999, seed=SEED, biased=True)[0]
    counts = list(resampled_counts(50, 999, SEED))
    first, second = (np.array([error(each @ system) for each in counts]) for system in systems)
    difference, drawn = found["difference"], second - first
    bias = drawn.mean() - difference  # resampling raises the error of the one that has hardly any
    assert bias * order < -0.02
    low, high = np.sort(2 * difference - drawn)[[23, -24]]
    assert found["low"] == pytest.approx(low + min(0, bias)) and found["high"] == pytest.approx(high + max(0, bias))


def test_adjusted_p_values_are_holm_s() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # Holm 1979 by hand
    assert holm([0.6, 0.7]) == [1.0, 1.0] and holm([0.2]) == [0.2] and holm([]) == []


def records(seed: int, changed: float) -> list[dict[str, object]]:
    """Lines whose words are changed with a probability, with token confidences that do not know it, and sums of the
    reference as prefix."""
    choice, change = np.random.default_rng(0), np.random.default_rng(seed)
    made = []
    for line in range(120):
        reference = list(choice.choice(WORDS, 10))
        right = change.random(10) > changed
        words = [word if good else "zebra" for word, good in zip(reference, right)]
        nll = np.where(right, -np.log(0.9), 3.0)
        made.append(
            {
                "line": line,
                "translation": " ".join(words),
                "reference": " ".join(reference),
                "tokens": words,
                "token_confidence": [0.9] * 10,
                "correct": right.tolist(),
                "teacher_forced": sentence_sums("teacher_forced", [0.9] * 10, right, nll),
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


@pytest.mark.parametrize("block", ["inference", "teacher_forced"])
def test_calibration_differs_where_accuracy_does(block: str) -> None:
    good, bad = records(1, 0.10), records(2, 0.40)
    found = calibration_differences([good, bad, good], block)
    assert found[0] is not None and found[1] is not None
    shares = [np.mean([record["correct"] for record in each]) for each in (good, bad)]
    expected = abs(0.9 - shares[1]) - abs(0.9 - shares[0])  # all tokens lie in one bin
    assert found[0]["difference"] == pytest.approx(expected) and found[0]["p"] < 0.01
    assert found[0]["low"] < expected < found[0]["high"]
    assert found[1]["difference"] == 0 and found[1]["p"] == 1


def test_likelihoods_differ_per_token_and_are_compared_on_the_same_tokens_only() -> None:
    good, bad = records(1, 0.10), records(2, 0.40)
    shorter = [record | {"teacher_forced": sentence_sums("teacher_forced", [0.9], [True], [1.0])} for record in good]
    found, other = calibration_differences([good, bad, shorter], "teacher_forced", "nll")
    assert found is not None and other is None  # another segmentation
    shares = [1 - np.mean([record["correct"] for record in each]) for each in (good, bad)]
    assert found["difference"] == pytest.approx((shares[1] - shares[0]) * (3.0 + np.log(0.9)))
    assert found["low"] > 0 and found["p"] < 0.01
    assert calibration_differences([good, shorter], "teacher_forced") != [None]


def test_the_system_s_own_probabilities_are_compared_unless_the_recalibrated_ones_are_asked_for() -> None:
    plain = records(1, 0.10)
    mapped = [record | {"log_probs": [math.log(0.5)] * 10} for record in plain]
    own, after = (calibration_differences([plain, mapped], name) for name in ("inference", "recalibrated_inference"))
    right = float(np.mean([record["correct"] for record in plain]))
    assert own[0] is not None and after[0] is not None
    assert own[0]["difference"] == pytest.approx(abs(0.5 - right) - abs(0.9 - right)) and after[0]["difference"] == 0


def test_labels_of_people_are_not_compared_with_labels_by_alignment() -> None:
    aligned = records(1, 0.10)
    people = [record | {"labels": "people"} for record in aligned]
    unsaid = [record | {"correct": [None, *record["correct"][1:]]} for record in people]
    for block in ("inference", "recalibrated_inference"):
        assert calibration_differences([aligned, people], block) == [None]
        assert calibration_differences([people, people], block) != [None]
    shares = [
        np.mean([each for record in side for each in record["correct"] if each is not None])
        for side in (people, unsaid)
    ]
    found = calibration_differences([people, unsaid], "inference")[0]
    assert found is not None
    assert found["difference"] == pytest.approx(abs(0.9 - shares[1]) - abs(0.9 - shares[0]))
    assert calibration_differences([aligned, people], "teacher_forced") != [None]


def test_where_nothing_is_told_of_tokens_there_is_no_test_of_calibration() -> None:
    plain = [{"line": 0, "translation": "a", "reference": "a", "inference": {"tokens": 1, "nll": 0, "gaps": [0] * 20}}]
    for block in ("inference", "recalibrated_inference", "teacher_forced", "recalibrated_teacher_forced"):
        assert calibration_differences([records(1, 0.1)[:1], plain], block) == [None]
        assert calibration_differences([plain, plain], block) == [None]


def test_one_system_alone_has_nothing_to_be_compared_with() -> None:
    assert paired_bootstrap([statistics(np.arange(5.0))], mean, resamples=5, seed=1) == []
