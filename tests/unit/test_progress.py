"""Progress goes to standard error, as a bar on a terminal and as lines elsewhere."""

from __future__ import annotations

import errno
import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mt.progress import log_line, progress_bar, say


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the seconds since now."""
    now = [time.monotonic()]
    monkeypatch.setattr("mt.progress.time.monotonic", lambda: now[0])
    monkeypatch.setattr("mt.progress._said", now[0])
    start = now[0]

    def set_clock(seconds: float) -> None:
        now[0] = start + seconds

    return set_clock


def test_short_work_says_nothing_where_standard_error_is_no_terminal(
    capsys: pytest.CaptureFixture[str], clock: Callable[[float], None]
) -> None:
    with progress_bar(10, "reading", "line") as bar:
        clock(7)
        bar.update(10)
    assert capsys.readouterr() == ("", "")


def test_long_work_says_a_line_each_eight_seconds_and_after_ten_minutes_one_a_minute(
    capsys: pytest.CaptureFixture[str], clock: Callable[[float], None]
) -> None:
    told = []
    with progress_bar(4000, "reading", "line", initial=1000) as bar:
        for second in range(1, 1001):
            clock(second)
            bar.update(2)
            bar.set_postfix_str("half")
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
        clock(13)
        bar.update(3)
        assert capsys.readouterr().err == "told\n"
        clock(14)
        bar.update(3)
        assert capsys.readouterr().err == "reading: 6 lines, 0.429 a second\n"


def test_a_silent_bar_says_nothing_however_long_it_takes(
    capsys: pytest.CaptureFixture[str], clock: Callable[[float], None]
) -> None:
    with progress_bar(10, "reading", "line", True) as bar:
        clock(100)
        bar.update(10)
    assert capsys.readouterr() == ("", "")


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
