"""Streaming calibration measures, by hand and against plain loops."""

from __future__ import annotations

import json
import math

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mt.metrics.bins import (
    PROTOCOLS,
    CalibrationBins,
    CalibrationBlock,
    Probability,
    expected_calibration_error,
    sentence_sums,
)

CONFIDENCE = st.one_of(st.floats(0, 1), st.integers(0, 20).map(lambda tick: tick / 20))
TOKENS = st.lists(st.tuples(CONFIDENCE, st.booleans()), min_size=1, max_size=60)


def plain_ece(tokens: list[tuple[float, bool]], bins: int, edges: str) -> float:
    """The definition, token by token."""
    total = 0.0
    for m in range(bins):
        low, high = m / bins, (m + 1) / bins
        if edges == "(l,r]":
            inside = [(c, a) for c, a in tokens if low < c <= high or (m == 0 and c == 0)]
        else:
            inside = [(c, a) for c, a in tokens if low <= c < high or (m == bins - 1 and c == 1)]
        total += abs(sum(a - c for c, a in inside))
    return total / len(tokens)


@given(TOKENS, st.integers(1, 20), st.sampled_from(["(l,r]", "[l,r)"]))
def test_ece_is_the_definition(tokens: list[tuple[float, bool]], bins: int, edges: str) -> None:
    confidence, correct = zip(*tokens, strict=True)
    ours = expected_calibration_error(confidence, correct, bins=bins, edges=edges)
    assert ours == pytest.approx(plain_ece(tokens, bins, edges), abs=1e-12)
    assert 0 <= ours <= 1


@given(TOKENS, st.integers(1, 20))
def test_equal_mass_bins_are_the_definition(tokens: list[tuple[float, bool]], bins: int) -> None:
    confidence, correct = zip(*tokens, strict=True)
    by_confidence = sorted(tokens, key=lambda token: token[0])  # stable
    gaps = [0.0] * bins
    for rank, (c, a) in enumerate(by_confidence):
        gaps[math.floor(rank * bins / len(tokens))] += a - c
    expected = sum(map(abs, gaps)) / len(tokens)
    assert expected_calibration_error(confidence, correct, bins=bins, scheme="mass") == pytest.approx(expected)


@settings(max_examples=30)
@given(TOKENS, st.lists(st.integers(0, 60), max_size=4), st.sampled_from(["(l,r]", "[l,r)"]))
def test_parts_merged_are_the_whole(tokens: list[tuple[float, bool]], cuts: list[int], edges: str) -> None:
    confidence, correct = (np.array(column) for column in zip(*tokens, strict=True))
    nll, brier = -np.log(confidence.clip(1e-3)), (confidence - correct) ** 2
    whole = CalibrationBins(bins=7, edges=edges)
    whole.update(confidence, correct, nll=nll, brier=brier)
    merged = CalibrationBins(bins=7, edges=edges)
    for index in np.split(np.arange(len(tokens)), sorted(min(cut, len(tokens)) for cut in cuts)):
        part = CalibrationBins(bins=7, edges=edges)
        part.update(confidence[index], correct[index], nll=nll[index], brier=brier[index])
        merged.merge(part)
    ours, expected = merged.block(), whole.block()
    for name in ("tokens", "signature"):
        assert ours[name] == expected[name]
    for name in ("ece", "mce", "nll", "brier", "accuracy", "confidence"):
        assert ours[name] == pytest.approx(expected[name], abs=1e-12)
    assert [each["count"] for each in ours["bins"]] == [each["count"] for each in expected["bins"]]


def test_result_of_four_tokens_by_hand() -> None:
    counted = CalibrationBins(bins=2, split="teacher_forced")
    counted.update([0.5, 0.2], [True, False], nll=[0.1, 0.3], brier=[0.25, 0.04])
    counted.update([0.9, 1.0], [1, 0], nll=[0.2, 0.6], brier=[0.01, 1.0])
    # Wilson: the half-width is z / (1 + z^2 / 2) * sqrt(1 / 8 + z^2 / 16)
    band = {"band_low": pytest.approx(0.0945, abs=1e-4), "band_high": pytest.approx(0.9055, abs=1e-4)}
    # (0, .5]: 0.2 wrong, 0.5 right: accuracy .5, confidence .35; (.5, 1]: 0.9 right, 1 wrong: .5, .95
    block = counted.block()
    # variances of the gaps: .41 = .5 * .5 + .2 * .8, more than the tokens' own .357; and (1.01 - .9^2 / 4) * 4 / 3
    deviations = math.sqrt(0.41), math.sqrt(0.8075 * 4 / 3)
    assert block == {
        "tokens": 4,
        "ece": pytest.approx(0.5 * 0.15 + 0.5 * 0.45),
        "mce": pytest.approx(0.45),
        "nll": pytest.approx(0.3),
        "brier": pytest.approx(1.3 / 4),
        "accuracy": 0.5,
        "confidence": pytest.approx(0.65),
        "signed_gap": pytest.approx(0.15),
        "noise_floor": pytest.approx(math.sqrt(2 / math.pi) * sum(deviations) / 4),
        "noise_floor_high": pytest.approx(0.6786, rel=0.02),  # by two million draws, and ece_high
        "ece_low": 0.0,  # the error lies within its noise
        "ece_high": pytest.approx(0.889, rel=0.03),
        # the best rising map: 0 for 0.2, 2/3 for the others
        "miscalibration": pytest.approx((0.04 + 0.25 + 0.01 + 1) / 4 - 1 / 6),
        "discrimination": pytest.approx(0.25 - 1 / 6),
        "uncertainty": 0.25,
        "auroc": 0.5,  # of the pairs of a right and a wrong one .5 > .2 and .9 > .2 are in order, two are not
        "augrc": pytest.approx((0.5 + 1 + 1 + 1.5) / 4 / 4),  # kept and wrong: 0, 1, 1, 1, 2 of four
        # kept and right: 0, 1/2, 2/3, 1/2; at best 1, 1, 2/3, 1/2
        "prr": pytest.approx((5 / 12 - 1 / 2) / (19 / 24 - 1 / 2), abs=0.01),
        "bins": [
            {"low": 0.0, "high": 0.5, "count": 2, "confidence": pytest.approx(0.35), "accuracy": 0.5, **band},
            {"low": 0.5, "high": 1.0, "count": 2, "confidence": pytest.approx(0.95), "accuracy": 0.5, **band},
        ],
        "signature": "ece|bins:2|edges:(l,r]|level:subword|eos:yes|split:teacher_forced",
    }


@pytest.mark.parametrize(("edges", "bins"), [("(l,r]", [0, 0, 1, 2, 5, 9]), ("[l,r)", [0, 1, 2, 3, 6, 9])])
def test_a_confidence_on_an_edge_falls_where_the_rule_says(edges: str, bins: list[int]) -> None:
    confidences = [0.0, 0.1, 0.2, 0.3, 0.6, 1.0]  # 0.3 and 0.6 are below 3 * 0.1 and 6 * 0.1
    for confidence, expected in zip(confidences, bins, strict=True):
        counted = CalibrationBins(bins=10, edges=edges)
        counted.update([confidence], [True])
        assert int(counted.sums[0].argmax()) == expected


def test_no_tokens_give_zero_error_and_nothing_else() -> None:
    counted = CalibrationBins(bins=3)
    counted.update([], [])
    result = counted.block()
    assert (result["tokens"], result["ece"]) == (0, 0.0)
    assert all(result[name] is None for name in ("mce", "nll", "brier", "accuracy", "confidence"))
    assert all(each["confidence"] is None and each["count"] == 0 for each in result["bins"])
    assert expected_calibration_error([], [], scheme="mass") == 0.0
    json.dumps(result, allow_nan=False)


def test_a_score_left_out_once_is_unknown_for_the_whole() -> None:
    counted = CalibrationBins()
    counted.update([0.5], [1], nll=[0.7], brier=[0.1])
    counted.update([0.5], [1], brier=[0.1])
    assert counted.block()["nll"] is None and counted.block()["brier"] == pytest.approx(0.1)
    empty = CalibrationBins()
    empty.update([], [])
    counted.merge(empty)
    assert counted.block()["brier"] == pytest.approx(0.1)


@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16])
def test_tensors_are_read_as_they_are(kind: torch.dtype) -> None:
    confidence = torch.tensor([0.25, 0.75, 1.0], dtype=kind, requires_grad=True)
    correct = torch.tensor([True, False, True])
    assert expected_calibration_error(confidence, correct, bins=4) == pytest.approx((0.75 + 0.75) / 3)


def test_confidences_out_of_range_and_labels_that_are_none_are_refused() -> None:
    for wrong in (math.nan, -0.01, 1.01, math.inf):
        with pytest.raises(ValueError, match="0 to 1"):
            CalibrationBins().update([0.5, wrong], [1, 1])
        with pytest.raises(ValueError, match="0 to 1"):
            expected_calibration_error([0.5, wrong], [1, 1], scheme="mass")
    CalibrationBins().update([1.0 + 1e-7], [1])  # the rounding of a float32 softmax
    for correct, message in (([1], "equally many"), ([1, 0.5], "booleans")):
        with pytest.raises(ValueError, match=message):
            CalibrationBins().update([0.5, 0.5], correct)
    with pytest.raises(ValueError, match="brier"):
        CalibrationBins().update([0.5], [1], brier=[1.5])
    with pytest.raises(ValueError, match="nll"):
        CalibrationBins().update([0.5], [1], nll=[math.nan])
    with pytest.raises(ValueError, match="equally many"):
        CalibrationBins().update([0.5], [1], nll=[0.1, 0.2])
    for arguments in ({"bins": 0}, {"edges": "[l,r]"}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            CalibrationBins(**arguments)
    with pytest.raises(ValueError, match="scheme"):
        expected_calibration_error([0.5], [1], scheme="adaptive")


def test_a_perfectly_calibrated_simulation_is_at_the_noise_floor() -> None:
    generator = np.random.default_rng(1)
    errors, floors = [], []
    for _ in range(300):
        confidence = generator.beta(2.5, 1, 10_000)
        correct = generator.random(10_000) < confidence
        counted = CalibrationBins()
        counted.update(confidence, correct)
        errors.append(counted.ece())
        share = counted.sums[0] / 10_000
        accuracy = counted.sums[2] / counted.sums[0].clip(1)
        floors.append(np.sum(share * np.sqrt(2 * accuracy * (1 - accuracy) / (np.pi * counted.sums[0].clip(1)))))
    # the reference's simulation of this case: 1.11 %
    assert np.mean(errors) == pytest.approx(0.0111, abs=0.0004)
    assert np.mean(errors) == pytest.approx(np.mean(floors), rel=0.05)


def test_memory_does_not_grow_with_the_stream() -> None:
    counted = CalibrationBins(bins=15)
    before = {name: np.size(value) for name, value in vars(counted).items()}
    for seed in range(20):
        confidence = np.random.default_rng(seed).random(10_000)
        counted.update(confidence, confidence > 0.5)
    assert {name: np.size(value) for name, value in vars(counted).items()} == before
    assert counted.block()["tokens"] == 200_000


def test_fifteen_bins_are_the_default_everywhere() -> None:
    confidence, correct = [0.65, 0.68, 0.95], [True, False, True]  # 2/3 parts the first two, 10/16 and 11/16 do not
    expected = (0.35 + 0.68 + 0.05) / 3
    counted = CalibrationBins()
    counted.update(confidence, correct)
    assert len(counted.block()["bins"]) == 15
    assert expected_calibration_error(confidence, correct) == counted.ece() == pytest.approx(expected)
    assert {name: each["bins"] for name, each in PROTOCOLS.items()} == {"teacher_forced": 15, "inference": 20}


def test_the_largest_difference_is_that_of_a_bin_with_tokens_however_few() -> None:
    counted = CalibrationBins(bins=4)
    counted.update([0.1, 0.1, 0.9], [False, False, False])  # two bins stay empty
    assert counted.block()["mce"] == pytest.approx(0.9)


def test_the_sums_of_sentences_make_the_error_of_the_text() -> None:
    generator = np.random.default_rng(7)
    for protocol, settings_of in PROTOCOLS.items():
        counted, sums = CalibrationBins(**settings_of), []
        for line in range(5):
            confidence, correct = generator.random(9).astype(np.float32), generator.random(9) < 0.5
            counted.update(confidence, correct, lines=line)
            sums.append(sentence_sums(protocol, confidence, correct, np.arange(9.0)))
        assert [each["tokens"] for each in sums] == [9] * 5 and [each["nll"] for each in sums] == [36.0] * 5
        error = np.abs(np.sum([each["gaps"] for each in sums], axis=0)).sum() / 45
        assert error == pytest.approx(counted.ece(), abs=1e-6)
        json.dumps(sums, allow_nan=False)


def test_what_rounding_makes_of_a_probability_is_still_one() -> None:
    highest = 1 + 1e-6  # a float32 softmax comes so far
    counted = CalibrationBins()
    counted.update([highest, 0.0], [True, False], nll=[-1e-6, 0.0], brier=[highest, -1e-6])
    assert counted.block()["confidence"] == 0.5  # it counts as 1
    for value in (0.0, 1.0, highest):
        assert msgspec.convert(value, Probability) == value
    for wrong in (-1e-9, 1 + 3e-6):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(wrong, Probability)
    for wrong in (-1e-9, 1 + 3e-6):
        with pytest.raises(ValueError, match="0 to 1"):
            counted.update([wrong], [True])
    for name, wrong in (("nll", -3e-6), ("brier", 1 + 3e-6), ("brier", -3e-6)):
        with pytest.raises(ValueError, match=name):
            counted.update([0.5], [True], **{name: [wrong]})


def test_a_block_may_lack_what_was_not_asked_for() -> None:
    counted = CalibrationBins()
    counted.update([0.5], [True])
    block = counted.block()
    assert "breakdown" not in block and msgspec.convert(block, CalibrationBlock) == block
