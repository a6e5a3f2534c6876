"""Progress goes to standard error, as a bar on a terminal and as lines elsewhere."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mt.progress import _under_way, busy, log_line, progress_bar, say


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the seconds since now, and lets what is told now and then be told."""
    now = [time.monotonic()]
    monkeypatch.setattr("mt.progress._teller", threading.current_thread())  # so that none of its own is started
    monkeypatch.setattr("mt.progress.time.monotonic", lambda: now[0])
    monkeypatch.setattr("mt.progress._said", now[0])
    start = now[0]

    def set_clock(seconds: float) -> None:
        now[0] = start + seconds
        if _under_way:
            _under_way[-1].tell_if_due()

    return set_clock


def test_short_work_says_nothing_where_standard_error_is_no_terminal(
    capsys: pytest.CaptureFixture[str], clock: Callable[[float], None]
) -> None:
    with progress_bar(10, "reading", "line") as bar:
        bar.update(10)
        clock(7)
    assert capsys.readouterr() == ("", "")


def test_long_work_says_a_line_each_eight_seconds_and_after_ten_minutes_one_a_minute(
    capsys: pytest.CaptureFixture[str], clock: Callable[[float], None]
) -> None:
    told = []
    with progress_bar(4000, "reading", "line", initial=1000) as bar:
        for second in range(1, 1001):
            bar.update(2)
            bar.set_postfix_str("half")
            clock(second)
            told += [(second, line) for line in capsys.readouterr().err.splitlines()]
        assert [second for second, _ in told] == [*range(8, 600, 8), *range(652, 1001, 60)]
        assert told[0] == (8, "reading: 1,016 of 4,000 lines, 2 a second, half, 24 min 52 s left")
    assert capsys.readouterr().err == "reading: 3,000 of 4,000 lines, 2 a second, half, 8 min 20 s left\n"


def test_what_else_is_said_puts_the_next_line_off(
    capsys: pytest.CaptureFixture[str], clock: Callable[[float], None]
) -> None:
    with progress_bar(None, "reading", "line") as bar:
        clock(6)
        log_line("told")
        bar.update(3)
        clock(13)
        assert capsys.readouterr().err == "told\n"
        bar.update(3)
        clock(14)
        assert capsys.readouterr().err == "reading: 6 lines, 0.429 a second\n"


def test_a_silent_bar_says_nothing_however_long_it_takes(
    capsys: pytest.CaptureFixture[str], clock: Callable[[float], None]
) -> None:
    with progress_bar(10, "reading", "line", True) as bar:
        bar.update(10)
        clock(100)
    assert capsys.readouterr() == ("", "")


def test_the_innermost_work_is_told_of_and_work_that_counts_nothing_by_how_long_it_takes(
    capsys: pytest.CaptureFixture[str], clock: Callable[[float], None]
) -> None:
    with busy("evaluating"):
        with progress_bar(10, "reading", "line") as bar:
            clock(8)
            bar.update(10)
        clock(20)
    clock(100)
    assert capsys.readouterr().err.splitlines() == [
        "reading: 0 of 10 lines, since 8 s",
        "reading: 10 of 10 lines, 1.25 a second",
        "evaluating: since 20 s",
    ]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)


def test_lines_come_by_themselves_while_nothing_moves() -> None:
    done = run_python(
        "import time, mt.progress as p; p._SECONDS = 1.5\n"
        "with p.busy('waiting'): time.sleep(4)\n"
        "with p.busy('waiting'): time.sleep(2.5)\n"
    )
    assert len(done.stderr.splitlines()) in (2, 3)


def test_a_process_is_not_forked_in_the_middle_of_a_line() -> None:
    done = run_python(
        "import os, threading, time, mt.progress as p; speaking = threading.Event()\n"
        "def speak():\n"
        "    with p._speaking: speaking.set(); time.sleep(1)\n"
        "threading.Thread(target=speak).start(); speaking.wait(); began = time.monotonic()\n"
        "if not os.fork(): p.log_line('child'); os._exit(0)\n"
        "os.wait(); print(time.monotonic() - began)\n"
    )
    assert done.stderr == "child\n" and float(done.stdout) > 0.9


def test_a_bar_on_a_terminal_shows_what_it_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress_bar(10, "reading", "line", mininterval=0) as bar:
        bar.update(10)
    assert "reading" in terminal.getvalue()
    assert "10/10" in terminal.getvalue()


def test_a_message_is_a_line_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    log_line("two pairs dropped")
    assert capsys.readouterr() == ("", "two pairs dropped\n")


def test_a_message_on_a_terminal_is_shown_too(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    log_line("two pairs of \x1b[31mred dropped")
    assert terminal.getvalue().strip() == "two pairs of \\x1b[31mred dropped"


class Broken(io.StringIO):
    """A terminal that is gone, or a full disk."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.descriptor = number, os.open("/dev/full", os.O_WRONLY)

    def write(self, text: str) -> int:
        raise OSError(self.number, os.strerror(self.number))

    def fileno(self) -> int:
        return self.descriptor


def test_a_message_that_nobody_can_read_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", broken := Broken(errno.ENOSPC))
    log_line("two pairs dropped")
    assert os.write(broken.descriptor, b"x") == 1  # what follows goes nowhere
    monkeypatch.setattr(sys, "stdout", Broken(errno.EIO))
    say("a result")


def test_a_result_that_is_lost_on_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Broken(errno.ENOSPC))
    with pytest.raises(OSError) as raised:
        say("a result")
    assert raised.value.filename == "standard output"


def test_results_are_escaped_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    say("a\nb", Path("c\x1b[31m"))
    assert capsys.readouterr().out == "a\nb\nc\x1b[31m\n"
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    say("a\nb", Path("c\x1b[31m"))
    assert terminal.getvalue() == "a\nb\nc\\x1b[31m\n"
