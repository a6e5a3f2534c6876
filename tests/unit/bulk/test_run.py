"""Rounds of shards, how far a run is, and the joined file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mt.bulk import run as run_module
from mt.bulk.plan import Plan, Shard
from mt.bulk.run import join, status, translate_shards
from mt.bulk.work import Result, no_result
from mt.errors import UserError


def plan_of(shards: int, lines: int = 2) -> Plan:
    return Plan(
        {}, "torch", "cpu", "txt", "", [], [], [Shard(n * lines, lines, 0, n * lines, 0, "") for n in range(shards)]
    )


def told(number: int, lines: int = 2, error: str = "", unknown: int = 0) -> Result:
    return no_result(number, error) | {"lines": lines, "unknown": unknown}


def test_a_shard_that_failed_is_tried_again_while_others_succeed(tmp_path: Path) -> None:
    plan, rounds = plan_of(4), list[list[int]]()

    def engine(numbers: Sequence[int]) -> Iterator[Result]:
        rounds.append(list(numbers))
        for number in numbers:
            if number == 2 and len(rounds) < 3:
                yield told(number, 0, "no space left")
            elif number < 3 or len(rounds) > 1:
                plan.target(tmp_path, number).write_text("a\nb\n")
                yield told(number)

    translate_shards(plan, tmp_path, range(4), engine, 1)
    assert rounds == [[0, 1, 2, 3], [2, 3], [2]]


def test_where_nothing_succeeds_the_first_reason_is_told(tmp_path: Path) -> None:
    def engine(numbers: Sequence[int]) -> Iterator[Result]:
        yield from (told(number, 0, f"disk {number} is full") for number in numbers)

    with pytest.raises(UserError, match=r"4 of 4 shards could not be translated, because of: disk 0 is full"):
        translate_shards(plan_of(4), tmp_path, range(4), engine, 8)


def test_many_errors_in_a_row_end_a_round(tmp_path: Path) -> None:
    asked, ended = list[int](), list[bool]()

    def engine(numbers: Sequence[int]) -> Iterator[Result]:
        try:
            for number in numbers:
                asked.append(number)
                yield told(number, 0, "wrong")
        finally:
            ended.append(True)

    with pytest.raises(UserError):
        translate_shards(plan_of(100), tmp_path, range(100), engine, 2)
    assert (asked, ended) == ([0, 1, 2, 3, 4], [True])


def test_shards_of_another_run_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_of(1)

    def other_run_ends(seconds: float) -> None:
        plan.target(tmp_path, 0).write_text("a\nb\n")

    monkeypatch.setattr(run_module.time, "sleep", other_run_ends)
    translate_shards(plan, tmp_path, [0], lambda numbers: (told(number, 0) for number in numbers), 1)
    assert capsys.readouterr().err == "waiting for 1 shards that other runs are translating\n"


def test_lines_to_be_told_of_are_counted_over_all_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_of(2)

    def engine(numbers: Sequence[int]) -> Iterator[Result]:
        for number in numbers:
            plan.target(tmp_path, number).touch()
            yield told(number, unknown=number + 1)

    translate_shards(plan, tmp_path, range(2), engine, 1)
    assert "lines with characters never seen before: 3" in capsys.readouterr().err


def test_joined_shards_are_in_order_and_counted(tmp_path: Path) -> None:
    plan = plan_of(3)
    for number in (2, 0):
        plan.target(tmp_path, number).write_text(f"{number}\n\n")
    with pytest.raises(UserError, match=r"1 of 3 shards are missing, 00001-of-00003.txt the first"):
        join(plan, tmp_path, tmp_path / "all")
    plan.target(tmp_path, 1).write_text("1\n")
    with pytest.raises(UserError, match=r"00001-of-00003.txt: holds 1 lines, not 2"):
        join(plan, tmp_path, tmp_path / "all")
    assert not (tmp_path / "all").exists()
    plan.target(tmp_path, 1).write_text("1\n\n")
    join(plan, tmp_path, tmp_path / "all")
    assert (tmp_path / "all").read_text() == "0\n\n1\n\n2\n\n"


def test_status_tells_speed_from_the_second_round_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(10, 1000)
    monkeypatch.setattr(run_module, "attempts", lambda folder: [Path("a"), Path("b")])
    monkeypatch.setattr(run_module, "is_locked", lambda path: True)
    assert status(plan, tmp_path) == "0 of 10 shards done, 2 under way; 0 of 10,000 lines"
    for number, ended in enumerate([100, 100, 150, 150, 200, 200]):  # two workers in step, 50 seconds a shard
        plan.target(tmp_path, number).touch()
        os.utime(plan.target(tmp_path, number), (ended, ended))
    words = "6 of 10 shards done, 2 under way; 6,000 of 10,000 lines; 40 lines a second; 0:01:40 left"
    assert status(plan, tmp_path) == words
    monkeypatch.setattr(run_module, "attempts", lambda folder: [])
    assert status(plan, tmp_path) == "6 of 10 shards done, 0 under way; 6,000 of 10,000 lines"
