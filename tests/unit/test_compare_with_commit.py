"""tests/compare_with_commit.py finds what differs, and knows what may."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

SCRIPT = runpy.run_path(str(Path(__file__).resolve().parents[1] / "compare_with_commit.py"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ({"ece": 1.0, "bins": [1, 2]}, {"bins": [1, 2], "ece": 1.0}, []),
        ({"ece": 0.1}, {"ece": 0.10000000000000002}, ["a.json: ece: 0.1 is now 0.10000000000000002"]),
        ({"bins": [1, 2]}, {"bins": [1, 3]}, ["a.json: bins.[]: 2 is now 3"]),
        ({}, {"more": 1}, ['a.json: more: "(not there)" is now 1']),
        (
            {"x": {"ece_sweep": {"ece": 1}}},
            {"x": {}},
            ['expected: a.json: x.ece_sweep: {"ece": 1} is now "(not there)"'],
        ),
        ({"ece_sweep": 1}, {"ece_sweep": 2}, ["a.json: ece_sweep: 1 is now 2"]),
        ({"thresholds": [{"low": 1}], "low": 1}, {"thresholds": [{"low": 2}], "low": 2}, ["expected: ", "a.json: low"]),
        ({"data": {"train": "a"}, "train": 1}, {"data": {"train": "b"}, "train": 2}, ["expected: ", "a.json: train"]),
        ({"seconds": 1.0}, {"seconds": 2.0}, []),
    ],
)
def test_every_value_of_json_is_compared(tmp_path: Path, old: Any, new: Any, said: list[str]) -> None:
    for side, value in (("old", old), ("new", new)):
        (tmp_path / side).mkdir()
        (tmp_path / side / "a.json").write_text(json.dumps(value), encoding="utf-8")
    found = list(SCRIPT["_json"](tmp_path / "old/a.json", tmp_path / "new/a.json"))
    assert len(found) == len(said)
    for line, start in zip(found, said):
        assert line.replace("old/a.json", "a.json").startswith(start)


def test_lines_and_tensors_that_differ_are_counted(tmp_path: Path) -> None:
    one, other = tmp_path / "one.txt", tmp_path / "other.txt"
    one.write_bytes(b"a\nb\nc\n")
    other.write_bytes(b"a\nx\ny\n")
    assert list(SCRIPT["_bytes"](one, other)) == ["one.txt, other.txt: 2 lines differ, the first is 2"]
    save_file({"x": np.array([0.0, 1, 2], np.float32), "y": np.zeros(2)}, tmp_path / "a")
    save_file({"x": np.array([-0.0, 1, 2.5], np.float32), "y": np.zeros(2)}, tmp_path / "b")
    (line,) = SCRIPT["_tensors"](tmp_path / "a", tmp_path / "b")
    assert line.endswith("x: 1 of 3 values differ, by up to 0.5")
    save_file({"y": np.zeros(2)}, tmp_path / "b")
    (line,) = SCRIPT["_tensors"](tmp_path / "a", tmp_path / "b")
    assert line.endswith("x is only in the old one")
