"""One shard: a file that appears whole and once, and errors that are told."""

from __future__ import annotations

import gzip
import json
import multiprocessing
from argparse import Namespace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mt import load
from mt.bulk.plan import Plan, cut, write_plan
from mt.bulk.table import count_rows, join_tables
from mt.bulk.work import Work, attempts, is_locked, remove_left
from mt.files.json_file import list_files

LINES = ["ein Hund läuft", "", "die Frau liest ein Buch", "x ☃", "eine Katze"]


def open_model(options: Namespace) -> Any:
    return load(options.model, "cpu")


def work_on(folder: Path, model: Path, form: str = "text", extension: str = "txt") -> Work:
    source = folder / "source"
    source.write_text("".join(f"{line}\n" for line in LINES))
    out = folder / "out"
    out.mkdir()
    fingerprint = {"model": {"files": list_files(model / "meta.json")}}
    write_plan(Plan(fingerprint, "torch", "cpu", extension, "", [], [], cut([source], 3)[0]), out)
    options = Namespace(model=model, format=form, overlong="split", token_scores=True, search=["max_output", "nbest"])
    options.max_output, options.nbest, options.device = 8, 2 if form == "parquet" else None, "cpu"
    return Work(out, [source], options, open_model)


def test_a_shard_appears_whole_and_says_what_it_met(tiny_model: Path, tmp_path: Path) -> None:
    work = work_on(tmp_path, tiny_model)
    work.counter = multiprocessing.Value("q", 10)
    result = work.translate(1)
    expected = [record["translation"] for record in load(tiny_model, "cpu").translate(LINES, max_output=8)]
    assert (work.folder / "00001-of-00002.txt").read_text().split("\n") == [*expected[3:], ""]
    assert result == {"shard": 1, "lines": 2, "overlong": 0, "unknown": 1, "error": "", "fault": ""}
    assert work.counter.value == 12
    assert sorted(path.name for path in work.folder.iterdir()) == ["00001-of-00002.txt", "plan.json"]


def test_a_shard_that_is_done_or_under_way_is_left_alone(tiny_model: Path, tmp_path: Path) -> None:
    work = work_on(tmp_path, tiny_model)
    (work.folder / "00000-of-00002.txt").write_text("done\n")
    assert work.translate(0)["lines"] == 0
    assert (work.folder / "00000-of-00002.txt").read_text() == "done\n"
    from mt.bulk.work import _attempt

    with pytest.raises(ZeroDivisionError), _attempt(work.folder / "00001-of-00002.txt") as stream:
        stream.write(b"half")
        [own] = attempts(work.folder)
        assert is_locked(own)
        assert work.translate(1)["lines"] == 0
        remove_left(work.folder)
        assert own.exists()
        raise ZeroDivisionError
    assert attempts(work.folder) == []
    assert work.translate(1)["lines"] == 2


def test_what_a_killed_process_left_counts_for_nothing(tiny_model: Path, tmp_path: Path) -> None:
    work = work_on(tmp_path, tiny_model)
    left = work.folder / f".00000-of-00002.txt.{'0' * 32}"
    left.write_bytes(b"half a li")
    assert not is_locked(left)
    assert work.translate(0)["lines"] == 3
    remove_left(work.folder)
    assert not left.exists()


@pytest.mark.parametrize("wrong", ["model", "text", "plan"])
def test_an_error_is_told_and_nothing_is_left(tiny_model: Path, tmp_path: Path, wrong: str) -> None:
    work = work_on(tmp_path, tiny_model)
    if wrong == "model":
        (tiny_model / "piece_counts.json").unlink(missing_ok=True)
        (tiny_model / "notes.json").write_text("{}")  # on this machine another file
        words = "another model than the plan was made with"
    elif wrong == "text":
        work.paths[0].write_text("anders\n" * 5)
        words = "not what it was when the plan was made"
    else:
        (work.folder / "plan.json").unlink()
        words = "holds no plan on this machine"
    result = work.translate(0)
    assert words in result["error"] and "\n" not in result["error"]
    assert (result["lines"], result["fault"]) == (0, "")
    assert list(work.folder.glob("*-of-*")) + attempts(work.folder) == []


def test_a_fault_of_the_program_is_told_with_its_place(tiny_model: Path, tmp_path: Path) -> None:
    work = work_on(tmp_path, tiny_model)
    work.load = lambda options: 1 // 0  # type: ignore[assignment,return-value]
    result = work.translate(0)
    assert result["error"].startswith("ZeroDivisionError") and "Traceback" in result["fault"]


def test_packed_json_lines_have_a_member_for_each_window(tiny_model: Path, tmp_path: Path) -> None:
    work = work_on(tmp_path, tiny_model, "jsonl.gz", "jsonl.gz")
    work.translate(1)
    records = list(
        map(json.loads, gzip.decompress((work.folder / "00001-of-00002.jsonl.gz").read_bytes()).splitlines())
    )
    assert [(record["line"], record["source"]) for record in records] == [(3, "x ☃"), (4, "eine Katze")]


def test_parquet_holds_the_records(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mt.bulk.table._ROWS", 2)
    work = work_on(tmp_path, tiny_model, "parquet", "parquet")
    for number in (0, 1):
        assert work.translate(number)["error"] == ""
    paths = sorted(work.folder.glob("*.parquet"))
    assert [count_rows(path) for path in paths] == [3, 2]
    join_tables(paths, tmp_path / "all.parquet")
    rows = pq.read_table(tmp_path / "all.parquet").to_pylist()
    translator = load(tiny_model, "cpu")
    parts = (translator.translate(LINES[at : at + 3], first_line=at, max_output=8, nbest=2) for at in (0, 3))
    expected = [record for part in parts for record in part]
    assert [{name: row[name] for name in record} for row, record in zip(rows, expected)] == expected
    assert rows[0]["quality"] is None  # the model is not calibrated
