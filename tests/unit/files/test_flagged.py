"""The file of flagged lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mt.files.atomic
from mt.errors import UserError
from mt.files.output import flagged_lines

HEADER = "line\tquality\tsource\ttranslation\n"


def record(line: int, figure: float) -> tuple[dict[str, Any], float]:
    return {"line": line, "source": f"s\t{line}", "translation": f"t{line}"}, figure


def write(path: Path, kept: int, *records: tuple[dict[str, Any], float]) -> None:
    with flagged_lines(path, "quality", kept) as flagged:
        for each in records:
            flagged(*each)


def test_rows_have_line_figure_and_texts_and_tabs_stay_apart(tmp_path: Path) -> None:
    path = tmp_path / "f.tsv"
    write(path, 0, record(0, 0.4), record(2, 0.1))
    assert path.read_text() == HEADER + "1\t0.4000\ts 0\tt0\n" + "3\t0.1000\ts 2\tt2\n"


def test_going_on_keeps_the_lines_before_and_writes_none_twice(tmp_path: Path) -> None:
    path = tmp_path / "f.tsv"
    write(path, 0, record(0, 0.4), record(2, 0.1))
    with path.open("a") as stream:
        stream.write("4\t0.2")  # the kill came in the middle of a row
    write(path, 2, record(2, 0.1), record(3, 0.2))
    assert [line.split("\t")[0] for line in path.read_text().splitlines()] == ["line", "1", "3", "4"]


def test_a_link_is_followed_and_a_device_written_directly(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("f.tsv")
    write(tmp_path / "link", 0, record(0, 0.4))
    assert (tmp_path / "link").is_symlink() and (tmp_path / "f.tsv").read_text().startswith(HEADER + "1\t")
    write(Path("/dev/null"), 3, record(0, 0.4))


def test_a_second_writer_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mt.files.atomic, "_LOCK_TRIES", 1)
    with flagged_lines(tmp_path / "f", "quality", 0) as flagged:
        flagged(*record(0, 0.4))
        with pytest.raises(UserError, match="another process is writing it"):
            write(tmp_path / "f", 0)
    assert (tmp_path / "f").read_text().count("\n") == 2
