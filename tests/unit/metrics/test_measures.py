"""The whole block of a stream: merging, the covariance of sentences, noise floor and interval, time and memory."""

from __future__ import annotations

import json
import pickle
import resource
import time
import tracemalloc
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from mt.metrics.bins import CalibrationBins, bin_of, expected_calibration_error
from mt.metrics.noise import error_noise, wilson_interval


def sentences(
    count: int, seed: int, power: float = 1.0, length: int = 15
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Sentences of tokens that are right with probability confidence ** power."""
    generator = np.random.default_rng(seed)
    for line in range(count):
        confidence = generator.beta(2.5, 1, length)
        yield line, confidence, generator.random(length) < confidence**power


def measured(count: int, seed: int, power: float = 1.0) -> CalibrationBins:
    counted = CalibrationBins()
    for line, confidence, correct in sentences(count, seed, power):
        counted.update(confidence, correct, lines=line)
    return counted


def test_sentences_merged_in_any_order_are_the_whole() -> None:
    tokens = list(sentences(60, seed=1))
    whole = CalibrationBins()
    confidence, correct = (np.concatenate([token[part] for token in tokens]) for part in (1, 2))
    nll, brier = -np.log(confidence.clip(1e-3)), (confidence - correct) ** 2
    whole.update(confidence, correct, nll=nll, brier=brier, lines=np.repeat(np.arange(60), 15))
    merged = CalibrationBins()
    for line, c, a in reversed(tokens):
        part = CalibrationBins()
        part.update(c, a, nll=-np.log(c.clip(1e-3)), brier=(c - a) ** 2, lines=line)
        merged.merge(pickle.loads(pickle.dumps(part)))
    assert merged.sentences == whole.sentences == 60
    assert merged.covariance() == pytest.approx(whole.covariance())
    ours, expected = merged.block(), whole.block()
    assert list(ours) == list(expected)
    for name, value in expected.items():
        if isinstance(value, float):
            assert ours[name] == pytest.approx(value, abs=1e-9), name
    assert [each["count"] for each in ours["bins"]] == [each["count"] for each in expected["bins"]]
    json.dumps(ours, allow_nan=False)


def test_a_block_without_tokens_or_with_right_ones_only_is_fit_for_json() -> None:
    empty = CalibrationBins()
    empty.update([], [], lines=0)
    assert empty.block()["ece"] == 0 and empty.block()["ece_low"] is None
    right = CalibrationBins()
    right.update([0.9, 1.0], [1, 1])
    assert right.block()["auroc"] is right.block()["prr"] is None
    for block in (empty.block(), right.block()):
        json.dumps(block, allow_nan=False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("bins", [15, 20])
def test_ece_of_a_million_points_is_that_of_torchmetrics(bins: int, dtype: torch.dtype) -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    generator = torch.Generator().manual_seed(bins)
    confidence = torch.rand(10**6, generator=generator, dtype=dtype)
    correct = torch.rand(10**6, generator=generator, dtype=torch.float64) < confidence.double() ** 1.3
    # in float64: torchmetrics' own sums of float32 are off by 1e-6
    theirs = functional.binary_calibration_error(confidence.double(), correct.int(), n_bins=bins, validate_args=False)
    ours = expected_calibration_error(confidence, correct, bins=bins, edges="[l,r)")
    assert ours == pytest.approx(float(theirs), abs=1e-6)
    worst = functional.binary_calibration_error(
        confidence.double(), correct.int(), n_bins=bins, norm="max", validate_args=False
    )
    counted = CalibrationBins(bins=bins, edges="[l,r)")
    counted.update(confidence, correct)
    assert counted.block()["mce"] == pytest.approx(float(worst), abs=1e-6)


def test_a_perfectly_calibrated_simulation_stays_within_its_noise_floor() -> None:
    within, errors, floors = 0, [], []
    for seed in range(200):
        counted = CalibrationBins()
        generator = np.random.default_rng(seed)
        confidence = generator.beta(2.5, 1, 5000)
        counted.update(confidence, generator.random(5000) < confidence)
        result = counted.block()
        errors.append(result["ece"])
        floors.append(result["noise_floor"])
        within += result["ece"] <= result["noise_floor_high"]
    assert np.mean(floors) == pytest.approx(np.mean(errors), rel=0.05)
    assert 0.91 <= within / 200 <= 0.985  # 95 % of them, and what chance allows


def test_an_uncalibrated_simulation_does_not() -> None:
    counted = CalibrationBins()
    for _, confidence, correct in sentences(500, seed=3, power=1.5):
        counted.update(confidence, correct)
    block = counted.block()
    assert block["ece"] > 3 * block["noise_floor_high"] and block["signed_gap"] == pytest.approx(block["ece"], rel=0.1)


def test_the_noise_floor_is_that_of_simulated_bins() -> None:
    generator = np.random.default_rng(4)
    count, rate = np.array([100, 400, 1500]), np.array([0.5, 0.7, 0.95])
    gaps = np.abs(generator.binomial(count, rate, (100_000, 3)) - count * rate).sum(1)
    floor, floor_high, low, _ = error_noise(np.zeros(3), np.diag(count * rate * (1 - rate)))
    assert floor == pytest.approx(gaps.mean(), rel=0.01)
    assert floor_high == pytest.approx(np.quantile(gaps, 0.95), abs=1.1)  # gaps are whole numbers
    assert low == 0


def test_bins_that_vary_together_have_a_wider_noise_of_the_same_mean() -> None:
    apart = error_noise(np.zeros(4), np.eye(4))
    together = error_noise(np.zeros(4), np.full((4, 4), 0.9) + 0.1 * np.eye(4))
    assert together[0] == pytest.approx(apart[0]) and together[1] > 1.3 * apart[1]


def test_the_covariance_is_that_of_resampled_sentences() -> None:
    counted, gaps = CalibrationBins(bins=4), []
    generator = np.random.default_rng(3)
    for line in range(300):
        confidence = generator.beta(2.5, 1, 15)
        correct = generator.random() < confidence  # all of a sentence alike: tokens depend on each other
        counted.update(confidence, correct, lines=line)
        gaps.append(np.bincount(bin_of(confidence, 4, "(l,r]"), weights=correct - confidence, minlength=4))
    expected = 300 * np.cov(np.array(gaps).T)
    assert counted.covariance() == pytest.approx(expected, rel=1e-9)
    tokens = CalibrationBins(bins=4)
    tokens.update(confidence, correct)  # without numbers of sentences each token is one
    alone = CalibrationBins(bins=4)
    alone.update(confidence, correct, lines=np.arange(15))
    assert tokens.covariance() == pytest.approx(alone.covariance()) and tokens.sentences == 15


def test_few_sentences_vary_no_less_than_independent_tokens_would() -> None:
    counted = CalibrationBins()
    counted.update([0.9, 0.5], [True, True], lines=0)  # one sentence tells no variance
    assert np.diag(counted.covariance()).sum() == pytest.approx(0.9 * 0.1 + 0.5 * 0.5)
    ends = CalibrationBins()
    for line in range(200):  # no error yet, where one is expected: no proof of a fault
        ends.update([0.995], [True], lines=line)
    block = ends.block()
    assert block["ece"] == pytest.approx(0.005) and block["ece_low"] == 0 and block["ece_high"] > 0.01


def test_the_interval_holds_zero_exactly_where_the_error_is_within_the_noise() -> None:
    covariance = np.diag([4.0, 1.0, 0.25])
    quantile = error_noise(np.zeros(3), covariance)[1]
    for size, holds in ((0.2, True), (0.999, True), (1.001, False), (3.0, False)):
        _, _, low, high = error_noise(np.array([size * quantile, 0.0, 0.0]), covariance)
        assert (low == 0) == holds and low <= size * quantile <= high * 1.2
    certain = error_noise(np.array([2.0, -3.0]), np.zeros((2, 2)))  # no noise: the error is what it is
    assert certain == pytest.approx((0.0, 0.0, 5.0, 5.0), abs=1e-3)


def test_the_noise_is_drawn_alike_for_ever() -> None:
    found = error_noise(np.array([9.0, -1.0, 0.0]), np.diag([4.0, 1.0, 0.25]))
    assert found == pytest.approx((3.5 * (2 / np.pi) ** 0.5, 5.376028, 4.722387, 14.567509), rel=1e-6)


def test_a_block_of_a_thousand_sentences_takes_less_than_a_third_of_a_second() -> None:
    counted = measured(1000, seed=2)
    start = time.process_time()
    counted.block()
    assert time.process_time() - start < 0.3


def test_memory_does_not_grow_with_tokens_or_sentences() -> None:
    counted = CalibrationBins()
    generator = np.random.default_rng(5)

    def count(batches: int) -> int:
        tracemalloc.reset_peak()
        for batch in range(batches):
            confidence = generator.random(2000)
            counted.update(confidence, confidence > 0.5, lines=np.repeat(np.arange(20), 100) + 10_000 * batch)
        return tracemalloc.get_traced_memory()[1]

    tracemalloc.start()
    try:
        count(5)
        before = count(10)
        assert count(40) < before + 300_000
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_a_hundred_million_points_take_constant_memory() -> None:
    counted = CalibrationBins(bins=15)
    generator = np.random.default_rng(1)

    def count(batches: int) -> int:
        for _ in range(batches):
            confidence = generator.random(10**6)
            counted.update(confidence, generator.random(10**6) < confidence)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB

    before = count(3)
    assert count(97) < before + 2048
    block = counted.block()
    assert block["tokens"] == 10**8
    assert block["ece"] <= block["noise_floor_high"] < 5e-4  # calibrated, and told so to four digits
    assert block["auroc"] == pytest.approx(5 / 6, abs=1e-3)  # of c uniform and right with probability c


def test_the_interval_of_a_share_lies_within_zero_and_one_and_solves_its_equation() -> None:
    for count in range(1, 120):
        assert 0 <= wilson_interval(0, count)[0] < 1e-12 and 1 - 1e-12 < wilson_interval(count, count)[1] <= 1
        for correct in range(1, count, 7):
            for share in wilson_interval(correct, count):  # (Wilson 1927)
                gap = correct / count - share
                assert gap**2 == pytest.approx(1.959963984540054**2 * share * (1 - share) / count, rel=1e-9)
