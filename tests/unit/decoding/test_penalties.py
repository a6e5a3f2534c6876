from __future__ import annotations

import json
from pathlib import Path

import pytest

from mt.decoding.types import length_penalty, normalised_score

ORACLE = Path(__file__).parents[2] / "oracle.json"


@pytest.fixture(scope="module")
def case() -> dict:
    cases = json.loads(ORACLE.read_text(encoding="utf-8"))["cases"]
    return next(case for case in cases if case["id"] == "length_norms")


def test_penalties_equal_the_oracle(case: dict) -> None:
    total, lengths, alpha = (case["inputs"][name] for name in ("sum_logp", "length", "alpha"))
    expected, tolerance = case["expected"], case["tol"]
    assert [length_penalty("gnmt", length, alpha) for length in lengths] == pytest.approx(
        expected["gnmt_lp"], rel=tolerance
    )
    for name, exponent, key in (
        ("gnmt", alpha, "gnmt_score"),
        ("average", 1.0, "avg_score"),
        ("average", alpha, "power_score"),
    ):
        scores = [normalised_score(total, name, length, exponent) for length in lengths]
        assert scores == pytest.approx(expected[key], rel=tolerance)


def test_no_penalty_leaves_the_sum() -> None:
    assert normalised_score(-3.5, "none", 7, 1.0) == -3.5


def test_a_reward_is_added_for_each_token() -> None:
    assert normalised_score(-3.5, "reward", 7, 0.25) == -3.5 + 7 * 0.25


@pytest.mark.parametrize("name", ["none", "average", "gnmt", "reward"])
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, 2.0])
def test_penalty_never_falls_with_length(name: str, alpha: float) -> None:
    values = [length_penalty(name, length, alpha) for length in range(1, 50)]
    assert values == sorted(values) and values[0] > 0
