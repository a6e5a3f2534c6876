"""Distance from the oracle distribution, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mt.decoding.scoring import Distributions
from mt.evaluation.oracle import OracleComparison


def row(true: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(list(true), dtype=np.int64), np.array(list(true.values()))


ROWS = [[row({0: 0.75, 1: 0.25}), row({2: 1.0})]]


def chunk(probabilities: list[list[float]]) -> Distributions:
    values = torch.tensor(probabilities).log()
    places = np.arange(len(probabilities))
    return Distributions(values, torch.zeros(len(probabilities), dtype=torch.long), np.zeros_like(places), places)


def test_kl_and_exact_errors_of_two_tokens() -> None:
    sums = OracleComparison(ROWS)
    sums.update(chunk([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]))
    found = sums.result()
    kl = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.3) + np.log(1 / 0.8)
    assert found["kl"] == pytest.approx(kl / 2, rel=1e-6)
    # confidences 0.5 and 0.8, true probabilities of the likeliest tokens 0.75 and 1
    assert found["exact_error"] == pytest.approx((0.25 + 0.2) / 2, rel=1e-6)
    assert found["exact_ece"] == pytest.approx((0.25 + 0.2) / 2, rel=1e-6)  # two bins, both too low


def test_the_truth_itself_is_at_distance_0() -> None:
    sums = OracleComparison(ROWS)
    sums.update(chunk([[0.75, 0.25, 1e-30], [1e-30, 1e-30, 1.0]]))
    assert all(abs(value) < 1e-7 for value in sums.result().values())


def test_errors_of_both_signs_in_one_bin_cancel_only_in_the_binned_error() -> None:
    sums = OracleComparison([ROWS[0][:1] * 2])
    sums.update(chunk([[0.74, 0.13, 0.13], [0.76, 0.12, 0.12]]))  # one bin of 15: (11/15, 12/15]
    assert sums.result()["exact_error"] == pytest.approx(0.01, rel=1e-4)
    assert sums.result()["exact_ece"] == pytest.approx(0, abs=1e-7)


def test_a_token_that_no_translation_begins_with_counts_in_none_of_the_sums() -> None:
    believed = [[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]
    alone, comparison = OracleComparison(ROWS), OracleComparison([[ROWS[0][0], row({})]])
    alone.update(chunk(believed[:1]))
    comparison.update(chunk(believed))
    assert comparison.result() == alone.result()
