"""The bench command's lines."""

from __future__ import annotations

import json
from typing import Any

import pytest

import benchmarks.losses
from benchmarks.command import main
from mt.errors import UserError

RESULT = {
    "case": "x",
    "ours": 2.0,
    "baseline": 1.0,
    "ratio": 2.0,
    "low": 1.9,
    "high": 2.1,
    "peak_mb": 10.0,
    "baseline_peak_mb": 40.0,
    "settings": {"baseline": "b"},
}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []

    def measure(case: Any, **options: Any) -> dict[str, Any]:
        names.append(case.name)
        return {**RESULT, "case": case.name}

    monkeypatch.setattr(benchmarks.losses, "measure", measure)
    return names


def test_json_is_one_object_a_line_and_case(measured: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["losses", "--json", "--threads", "1"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["case"] for line in lines] == measured
    assert {"label_smoothed_kl_10000", "label_smoothed_kl_32000"} <= set(measured)


def test_one_case_alone(measured: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(["losses", "--case", "label_smoothed_kl_32000", "--threads", "1"])
    assert measured == ["label_smoothed_kl_32000"]
    assert "2.00 times the speed of the baseline [1.90, 2.10]" in capsys.readouterr().out


def test_an_unknown_case_is_named_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"--case is z; it must be one of .*label_smoothed_kl_10000"):
        main(["losses", "--case", "z"])


def test_an_option_of_another_suite_is_refused() -> None:
    with pytest.raises(UserError, match=r"--keep_memory is not for train; leave it out"):
        main(["train", "--keep_memory"])
