"""Progress goes to standard error, and is drawn on a terminal only."""

from __future__ import annotations

import io
import sys

import pytest

from mt.progress import log_line, progress_bar


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
    log_line("two pairs dropped")
    assert terminal.getvalue().strip() == "two pairs dropped"
