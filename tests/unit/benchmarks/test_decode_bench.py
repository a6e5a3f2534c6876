"""The decode suite: both sides do the same work, in text."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import decode
from benchmarks.random_text import random_lines
from mt.errors import UserError

pytest.importorskip("ctranslate2")


@pytest.mark.parametrize("narrow", [False, True])
def test_the_cases_are_the_engines_and_repeated_lines(narrow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "has_bfloat16", lambda: narrow)
    found = decode.cases()
    names = ["torch_float32", *["torch_bfloat16"] * narrow, "ctranslate2_float32", "ctranslate2_int8"]
    assert list(found) == [*names, "torch_float32_repeated", "ctranslate2_float32_repeated"]
    assert all(case.units == decode.LINES for case in found.values())
    for name, case in found.items():
        assert case.settings["baseline"].endswith("int8" if "int8" in name else "float32")


def test_a_model_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--model and --corpora belong together"):
        decode.cases(model=tmp_path)


@pytest.mark.parametrize("special", ["", "repeated"])
@pytest.mark.parametrize("engine", ["torch", "ctranslate2"])
def test_both_sides_translate_every_line(engine: str, special: str, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ways = decode.prepare("cpu", engine=engine, compute_type="float32", lines=10, special=special)
        for way in ways:
            way()  # each asserts that all lines came out
    finally:
        torch.set_num_threads(threads)


def test_random_lines_are_as_long_as_multi30k_s() -> None:
    lengths = [len(line.split()) for line in random_lines(500, 1)]
    assert 10 < sum(lengths) / len(lengths) < 12.5
    assert random_lines(5, 1) == random_lines(5, 1)
