"""Distance from the oracle distribution, by hand."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from sacrebleu.metrics import BLEU

from mt.decoding.scoring import Distributions
from mt.evaluation.oracle import OracleComparison, minimum_risk


def row(true: dict[int, float]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(list(true), dtype=np.int64), np.array(list(true.values()))


ROWS = [[row({0: 0.75, 1: 0.25}), row({2: 1.0})]]


def chunk(probabilities: list[list[float]]) -> Distributions:
    values = torch.tensor(probabilities).log()
    places = np.arange(len(probabilities))
    ids, hidden = torch.zeros(len(probabilities), dtype=torch.long), torch.empty(len(probabilities), 0)
    return Distributions(values, ids, np.zeros_like(places), places, hidden)


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


def test_translations_of_least_risk_have_the_highest_bleu_of_expected_counts() -> None:
    alike = {"He saw the red house in town today .": 0.33, "He saw the red house in town now .": 0.33}
    sources = [
        {"They look at that .": 0.34, **alike},
        {"She sleeps at home tonight .": 0.5, "Tonight , she sleeps at home .": 0.3, "She sleeps there .": 0.2},
        {"Yes , of course we do .": 1.0},
    ]

    def expected(choice: tuple[str, ...]) -> float:
        drawn = [statistics(choice, [*references]) * chance for references, chance in all_references]
        return float(BLEU()._compute_score_from_stats(np.sum(drawn, axis=0).tolist()).score)

    def statistics(choice: tuple[str, ...], references: list[str]) -> np.ndarray:
        return np.sum(BLEU()._extract_corpus_statistics([*choice], [references]), axis=0)

    all_references = [(each, math.prod(s[r] for s, r in zip(sources, each))) for each in product(*sources)]
    best = max(product(*sources), key=expected)
    assert minimum_risk(sources) == list(best) != [next(iter(each)) for each in sources]


def test_risk_is_weighed_among_the_most_probable_translations_only() -> None:
    many = {f"word {number} of very many others": 0.001 for number in range(300)}
    assert minimum_risk([{"This one alone is it .": 0.7, **many}]) == ["This one alone is it ."]
