"""Progress goes to standard error, and is drawn on a terminal only."""

from __future__ import annotations

import errno
import io
import os
import sys
from pathlib import Path

import pytest

from mt.progress import log_line, progress_bar, say


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_is_silent_where_standard_error_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(10, "reading", "line") as bar:
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
