"""Shards: which lines they are, how they are read again, and the plan that is written once."""

from __future__ import annotations

import bz2
import gzip
import os
import random
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt.bulk import plan as plan_module
from mt.bulk.plan import FILE, Plan, Shard, ShardReader, check_plan, cut, read_plan, stamps, write_plan
from mt.errors import UserError
from mt.files.lines import read_lines

# Line ends of Windows, lone carriage returns, a byte order mark within the text, and lines without anything.
LINE = st.sampled_from(["", "ein Hund", "läuft\r", "\rx", "\ufeffy", "BZh91AY&SY", "a\x0cb\u2028c", "猫"])
FILES = st.lists(
    # the first line decides what a file is taken for
    st.tuples(
        st.lists(LINE, max_size=9).map(lambda lines: ["a", *lines][: 10 * len(lines)]),
        st.sampled_from(["plain", "mark", "gzip", "bzip2"]),
        st.booleans(),
    ),
    max_size=5,
)


def write(folder: Path, files: list[tuple[list[str], str, bool]]) -> list[Path]:
    paths = []
    for number, (lines, kind, open_end) in enumerate(files):
        data = b"".join(f"{line}\n".encode() for line in lines)
        data = data[:-1] if open_end and data else data
        data = b"\xef\xbb\xbf" + data if kind == "mark" else data
        pack = {"gzip": gzip.compress, "bzip2": bz2.compress}.get(kind, bytes)
        paths.append(folder / f"{number}")
        paths[-1].write_bytes(pack(data))
    return paths


@given(FILES, st.integers(1, 8), st.randoms(use_true_random=False))
def test_the_shards_in_any_order_are_the_lines_of_all_inputs(files: list, size: int, order: random.Random) -> None:
    with TemporaryDirectory() as folder:
        paths = write(Path(folder), files)
        lines = list(read_lines(paths))
        shards, facts = cut(paths, size)
        assert (facts["files"], facts["lines"]) == (len(paths), len(lines))
        assert [shard.first for shard in shards] == list(range(0, len(lines), size))
        reader, shuffled = ShardReader(paths), order.sample(shards, len(shards))
        for shard in shuffled + shards:
            assert reader.read(shard) == lines[shard.first : shard.first + size]


def test_shards_of_a_large_plain_file_begin_where_the_plan_says(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"".join(b"%d\r\n" % (number * 7919) for number in range(3000)))
    shards, _ = cut([path], 37)
    data = path.read_bytes()
    assert all(data[shard.offset - 1 :].startswith(b"\n%d\r\n" % (shard.first * 7919)) for shard in shards[1:])
    assert ShardReader([path]).read(shards[50]) == [str(number * 7919) for number in range(1850, 1887)]


def test_rising_shards_of_a_packed_file_cost_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write(tmp_path, [([str(number) for number in range(100)], "gzip", False)])
    (shards, _), passes = cut(paths, 5), []
    monkeypatch.setattr(plan_module, "read_lines", lambda paths: passes.append(paths) or read_lines(paths))
    reader = ShardReader(paths)
    for shard in shards[2::3]:
        assert reader.read(shard)[0] == str(shard.first)
    assert len(passes) == 1


@pytest.mark.parametrize("kind", ["plain", "gzip"])
@pytest.mark.parametrize("change", [lambda lines: [*lines[:7], "x", *lines[8:]], lambda lines: lines[:7]])
def test_text_that_was_changed_since_is_refused_where_it_was(tmp_path: Path, kind: str, change: object) -> None:
    lines = [str(number) for number in range(10)]
    [path] = write(tmp_path, [(lines, kind, False)])
    shards, _ = cut([path], 3)
    write(tmp_path, [(change(lines), kind, False)])  # type: ignore[operator]
    reader = ShardReader([path])
    assert reader.read(shards[1]) == ["3", "4", "5"]
    with pytest.raises(UserError, match="not what it was when the plan was made, from line 7 on"):
        reader.read(shards[2])
    assert reader.read(shards[0]) == ["0", "1", "2"]  # the others can still be had


def a_plan(beam: int = 5) -> Plan:
    fingerprint = {"model": {"files": {"a": "b"}}, "options": {"beam": beam}, "input": {"lines": 3}}
    return Plan(fingerprint, "torch", "cpu", "txt", "model", ["text"], [(1, 2)], [Shard(0, 3, 0, 0, 0, "d")])


@pytest.mark.parametrize("links", [True, False])
def test_a_plan_is_written_once_and_the_one_that_stands_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", lambda *names: (_ for _ in ()).throw(PermissionError()))
    assert read_plan(tmp_path) is None
    write_plan(a_plan(), tmp_path)
    assert read_plan(tmp_path) == a_plan()
    write_plan(a_plan(3), tmp_path)
    assert read_plan(tmp_path) == a_plan(5 if links else 3)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_another_option_is_refused_by_name(tmp_path: Path) -> None:
    check_plan(a_plan(), tmp_path, a_plan().fingerprint)
    with pytest.raises(UserError, match=r"made with another options \(beam 5, now 3\)"):
        check_plan(a_plan(), tmp_path, a_plan(3).fingerprint)


def test_a_damaged_plan_is_refused(tmp_path: Path) -> None:
    write_plan(a_plan(), tmp_path)
    path = tmp_path / FILE
    path.write_text(path.read_text().replace('"torch"', '"other"'))
    with pytest.raises(UserError, match="is damaged"):
        read_plan(tmp_path)


def test_names_tell_their_place_and_stamps_a_change(tmp_path: Path) -> None:
    plan = Plan({}, "torch", "cpu", "jsonl.gz", "", [], [], [Shard(0, 1, 0, 0, 0, "")] * 12)
    assert plan.target(tmp_path, 3) == tmp_path / "00003-of-00012.jsonl.gz"
    plan.target(tmp_path, 3).touch()
    assert plan.missing(tmp_path, [2, 3, 4]) == [2, 4]
    before = stamps([plan.target(tmp_path, 3)])
    plan.target(tmp_path, 3).write_text("x")
    assert stamps([plan.target(tmp_path, 3)]) != before
