"""A few dozen faults of the harness, and that the harness sees what it should."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import cases  # noqa: E402 beside this file
import run  # noqa: E402
import server  # noqa: E402


def test_faults_are_survived_or_refused_in_one_line() -> None:
    command = [sys.executable, str(HERE / "run.py"), "--count", "30", "--commands", "translate,prepare,score,export"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| all | all | 30 |" in done.stdout


def ended(code: int, error: str) -> server.Done:
    return server.Done(code, b"", error, {})


def test_one_line_with_exit_code_2_is_a_refusal() -> None:
    assert cases.refused(ended(2, "note: going on\nerror: f: is damaged; restore it\n"))


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (1, "error: f: is damaged\n"),
        (2, ""),
        (2, "error: one\nerror: two\n"),
        (2, "error: one\nwarning: another line behind it\n"),
        (2, "Traceback (most recent call last):\n  ...\nOSError: [Errno 5]\nerror: f\n"),
        (2, "Exception in thread Thread-1:\nerror: f\n"),
        (-9, "error: f\n"),
    ],
)
def test_anything_else_is_none(code: int, error: str) -> None:
    assert not cases.refused(ended(code, error))


def test_each_kind_and_command_is_struck_before_any_is_struck_twice() -> None:
    cells = [cases.Cell("kill", str(number), lambda *_: cases.Outcome("survived", "")) for number in range(5)]
    cells[0] = cells[0]._replace(most=1)
    plan = run.chosen(cells, seed=1, count=7, number=None)
    assert sorted(cell.command for cell, _ in plan[:5]) == ["0", "1", "2", "3", "4"]
    assert {(cell.command, number) for cell, number in plan[5:]} <= {(str(name), 1) for name in range(1, 5)}
    assert run.chosen(cells, seed=1, count=7, number=None) == plan


STRUCK = """
import ctypes, os, sys
library = ctypes.CDLL(None)
library.fault_arm({kind}, ctypes.c_long(2), {error}, os.getcwd().encode())
for name in ("a", "b", "c"):
    try:
        file = os.open(name, os.O_CREAT | os.O_WRONLY)
        print(name, os.write(file, b"12345678"), flush=True)
    except OSError as error:
        print(name, error.errno, flush=True)
"""


@pytest.mark.skipif(not server.compiler(), reason="no C compiler: faults come from an audit hook of Python")
@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("EIO", "a 5\nb 8\nc 8\n"),  # the second operation is the first write
        ("short write", "a 8\nb 4\nc 8\n"),
        ("full disk", "a 28\nb 28\nc 28\n"),
        ("kill", ""),
        ("kill in a write", "a 8\n"),
    ],
)
def test_the_second_operation_goes_wrong(kind: str, told: str, tmp_path: Path) -> None:
    library = server.build_library(tmp_path)
    number, error = server.OPERATION_KINDS[kind]
    code = STRUCK.format(kind=number, error=error)
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == told
    assert (done.returncode == -9) == kind.startswith("kill")
