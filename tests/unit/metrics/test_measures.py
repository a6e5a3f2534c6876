"""The whole block of a stream: merging, intervals over sentences, noise floor, memory; and groups of tokens."""

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

from mt.metrics.bins import Breakdown, CalibrationBins, bin_of, expected_calibration_error
from mt.metrics.noise import SentenceBootstrap, noise_floor, noise_quantile, wilson_interval


def sentences(
    count: int, seed: int, power: float = 1.0, length: int = 15
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Sentences of tokens that are right with probability confidence ** power."""
    generator = np.random.default_rng(seed)
    for line in range(count):
        confidence = generator.beta(2.5, 1, length)
        yield line, confidence, generator.random(length) < confidence**power


def measured(count: int, seed: int, power: float = 1.0, resamples: int = 200) -> CalibrationBins:
    counted = CalibrationBins(resamples=resamples)
    for line, confidence, correct in sentences(count, seed, power):
        counted.update(confidence, correct, lines=line)
    return counted


def difference(first: CalibrationBins, second: CalibrationBins) -> dict[str, float]:
    assert first.bootstrap is not None and second.bootstrap is not None
    return first.bootstrap.difference(second.bootstrap, first.ece() - second.ece())


def test_parts_merged_in_any_order_are_the_whole() -> None:
    tokens = list(sentences(60, seed=1))
    whole = CalibrationBins()
    confidence, correct = (np.concatenate([token[part] for token in tokens]) for part in (1, 2))
    nll = -np.log(confidence.clip(1e-3))
    whole.update(confidence, correct, nll=nll, brier=(confidence - correct) ** 2)
    merged = CalibrationBins()
    for _, c, a in reversed(tokens):
        part = CalibrationBins()
        for half in (slice(0, 7), slice(7, None)):  # a sentence may come in pieces
            part.update(c[half], a[half], nll=-np.log(c[half].clip(1e-3)), brier=(c[half] - a[half]) ** 2)
        merged.merge(pickle.loads(pickle.dumps(part)))
    ours, expected = merged.block(), whole.block()
    assert list(ours) == list(expected)
    for name, value in expected.items():
        if isinstance(value, float):
            assert ours[name] == pytest.approx(value, abs=1e-9), name
    assert ours["risk_coverage"]["risk"] == pytest.approx(expected["risk_coverage"]["risk"])
    assert [each["count"] for each in ours["bins"]] == [each["count"] for each in expected["bins"]]
    json.dumps(ours, allow_nan=False)


def test_a_block_without_tokens_or_with_right_ones_only_is_fit_for_json() -> None:
    empty = CalibrationBins(resamples=10)
    empty.update([], [], lines=0)
    assert empty.block()["ece"] == 0 and empty.block()["ece_low"] is None
    right = CalibrationBins()
    right.update([0.9, 1.0], [1, 1])
    assert right.block()["auroc"] is None and right.block()["ece_mass"] == pytest.approx(0.05)
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
    variance = count * rate * (1 - rate)
    assert noise_floor(variance) == pytest.approx(gaps.mean(), rel=0.01)
    assert noise_quantile(variance) == pytest.approx(np.quantile(gaps, 0.95), abs=1.1)  # gaps are whole numbers


def test_intervals_of_resampled_sentences_cover_the_truth() -> None:
    # one bin, accuracy confidence ** 1.5 (mean 2.5 / 4 against 2.5 / 3.5): |gap| is the ECE
    truth = abs(2.5 / 4 - 2.5 / 3.5)
    covered = 0
    for seed in range(60):
        counted = CalibrationBins(bins=1, resamples=400, seed=seed)
        generator = np.random.default_rng(1000 + seed)
        confidence = generator.beta(2.5, 1, 120)  # of sentences that are right as a whole or not at all
        right = generator.random(120) < confidence**1.5
        counted.update(np.repeat(confidence, 12), np.repeat(right, 12), lines=np.repeat(np.arange(120), 12))
        block = counted.block()
        covered += block["ece_low"] <= truth <= block["ece_high"]
    assert 50 <= covered <= 60  # tokens drawn one by one would give intervals 3.5 times narrower: 25 or so


def test_poisson_resamples_spread_as_drawn_sentences_do() -> None:
    tokens = list(sentences(200, seed=6, power=1.4))
    counted = measured(200, seed=6, power=1.4, resamples=2000)
    assert counted.bootstrap is not None
    generator = np.random.default_rng(0)
    gaps = np.stack([np.bincount(bin_of(c, 15, "(l,r]"), weights=a - c, minlength=15) for _, c, a in tokens])
    drawn = [np.abs(gaps[generator.integers(0, 200, 200)].sum(0)).sum() / 3000 for _ in range(2000)]
    ours = counted.bootstrap.errors()
    assert ours.mean() == pytest.approx(np.mean(drawn), rel=0.02)
    assert ours.std() == pytest.approx(np.std(drawn), rel=0.1)


def test_intervals_take_off_the_bias_that_resampling_adds() -> None:
    counted = measured(150, seed=11)  # calibrated: resampled errors lie above the measured one
    assert counted.bootstrap is not None
    block, errors = counted.block(), counted.bootstrap.errors()
    assert errors.mean() > 1.2 * block["ece"]
    assert block["ece_high"] == pytest.approx(2 * block["ece"] - np.quantile(errors, 0.025))
    assert block["ece_low"] == pytest.approx(max(0, 2 * block["ece"] - np.quantile(errors, 0.975)))
    assert block["ece_high"] < np.quantile(errors, 0.975)


def test_paired_differences_find_what_single_intervals_cannot() -> None:
    sharper, base = CalibrationBins(resamples=500), CalibrationBins(resamples=500)
    for line, confidence, correct in sentences(300, seed=7, power=1.2):
        base.update(confidence, correct, lines=line)
        sharper.update(confidence**0.97, correct, lines=line)
    found = difference(sharper, base)
    assert found["difference"] == pytest.approx(sharper.block()["ece"] - base.block()["ece"])
    assert 0 < found["low"] < found["difference"] < found["high"] and found["p"] < 0.01
    assert base.block()["ece_high"] > sharper.block()["ece_low"]
    back = difference(base, sharper)
    assert back["difference"] == pytest.approx(-found["difference"]) and back["p"] == found["p"]
    assert difference(base, base) == {"difference": 0.0, "low": 0.0, "high": 0.0, "p": 1.0}
    # calibrated alike: no difference
    assert difference(measured(300, 8), measured(300, 9))["p"] > 0.05


def test_a_thousand_resamples_of_a_thousand_sentences_take_less_than_two_seconds() -> None:
    start = time.process_time()
    measured(1000, seed=2, resamples=1000).block()
    assert time.process_time() - start < 2


def test_memory_does_not_grow_with_tokens_or_sentences() -> None:
    counted = CalibrationBins(resamples=100)
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


def test_groups_are_those_of_the_borders() -> None:
    groups = Breakdown(0, (1, 10))
    groups.update([0, 1, 9, 10, 500], [0.5, 0.6, 0.8, 0.9, 1.0], [0, 1, 1, 1, 1])
    groups.update([3], [0.7], [False])
    result = groups.result()
    assert [(each["name"], each["tokens"]) for each in result] == [("0", 1), ("1-9", 3), ("10+", 2)]
    assert result[1]["confidence"] == pytest.approx(0.7) and result[1]["accuracy"] == pytest.approx(2 / 3)
    assert result[0]["ece"] == pytest.approx(0.5)
    assert result[0]["noise_floor"] == pytest.approx(0.5 * (2 / np.pi) ** 0.5)
    # of 0.6, 0.7 and 0.8, each in a bin of its own
    each_bin = sum((2 * c * (1 - c) / np.pi) ** 0.5 for c in (0.6, 0.7, 0.8))
    assert result[1]["noise_floor"] == pytest.approx(each_bin / 3)
    assert set(result[0]) == {"name", "tokens", "confidence", "accuracy", "ece", "noise_floor"}
    assert [each["name"] for each in Breakdown(1, (2, 3)).result()] == []
    assert Breakdown(1, (2, 3, 6)).names == ["1", "2", "3-5", "6+"]


def test_resampled_errors_are_those_of_weighted_sentences() -> None:
    bins, right = [0, 1, 0, 0, 1], [1, 0, 0, 1, 1]
    confidence, lines = np.array([0.2, 0.9, 0.4, 0.3, 0.8]), np.array([7, 7, 3, 3, 9])
    drawn = SentenceBootstrap(2, 50, seed=4)
    for part in (slice(0, 3), slice(3, 3), slice(3, 5)):  # a sentence in two parts, and nothing in between
        gap = np.array(right[part]) - confidence[part]
        drawn.update(np.array(bins[part], dtype=np.int64), gap, lines[part])
    weight = {line: np.random.default_rng((4, line)).poisson(1.0, 50) for line in (3, 7, 9)}
    for resample, found in enumerate(drawn.errors()):
        gaps, tokens = [0.0, 0.0], 0
        for bin_number, correct, certain, line in zip(bins, right, confidence, lines.tolist()):
            gaps[bin_number] += int(weight[line][resample]) * (correct - certain)
            tokens += int(weight[line][resample])
        assert found == pytest.approx(sum(map(abs, gaps)) / max(1, tokens), abs=1e-12)
    low, high = drawn.interval(0.9)
    assert high == 1.0 and low == pytest.approx(1.8 - np.quantile(drawn.errors(), 0.975))
    assert drawn.interval(0.0) == (0.0, 0.0)
    one = drawn.difference(SentenceBootstrap(2, 50, seed=4), 0.1)  # from a system without tokens: without errors
    assert one["low"] == pytest.approx(0.2 - np.quantile(drawn.errors(), 0.975))
    assert one["high"] == pytest.approx(0.2 - np.quantile(drawn.errors(), 0.025))


def test_the_interval_of_a_share_lies_within_zero_and_one_and_solves_its_equation() -> None:
    for count in range(1, 120):
        assert 0 <= wilson_interval(0, count)[0] < 1e-12 and 1 - 1e-12 < wilson_interval(count, count)[1] <= 1
        for correct in range(1, count, 7):
            for share in wilson_interval(correct, count):  # (Wilson 1927)
                gap = correct / count - share
                assert gap**2 == pytest.approx(1.959963984540054**2 * share * (1 - share) / count, rel=1e-9)


def test_the_quantile_of_the_noise_is_drawn_alike_for_ever() -> None:
    assert noise_quantile(np.array([4.0, 1.0, 0.25])) == pytest.approx(5.37602798957416, rel=1e-12)
