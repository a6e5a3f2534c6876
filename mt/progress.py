"""Progress on standard error, with speed and time left: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TextIO

from mt.errors import concerning, visible

_NAMED_LINES = 5  # whose numbers a warning gives
# Where nobody may be looking: often enough to see that it goes on, and at most 1,440 lines a day.
_SECONDS, _LATER_SECONDS, _LATER = 8.0, 60.0, 600.0

_said = time.monotonic()  # when the last line was written


def progress_bar(total: float | None, description: str, unit: str, silent: bool = False, **options: Any) -> Any:
    """A tqdm bar on standard error, or lines where that is no terminal; `total`: units of work, if known; `unit`: a
    word that takes an s; `options`: of tqdm."""
    if not silent and not sys.stderr.isatty():
        return _ProgressLines(total, description, unit, options.get("initial", 0))
    from tqdm import tqdm

    options |= {"total": total, "desc": description, "unit": unit, "disable": silent}
    return tqdm(file=sys.stderr, dynamic_ncols=True, **options)


class _ProgressLines:
    """What is used of a tqdm bar, as lines: one when nothing has been written for eight seconds, after ten minutes one
    a minute, of what is innermost. Work that ends sooner leaves none."""

    def __init__(self, total: float | None, description: str, unit: str, initial: float) -> None:
        self.total, self.count = total, initial
        self._description, self._unit, self._initial, self._postfix = description, unit, initial, ""
        self._told: float | None = None  # what the last line said
        self._began = time.monotonic()

    def __enter__(self) -> _ProgressLines:
        global _teller
        with _speaking:
            _under_way.append(self)
            if _teller is None:
                _teller = threading.Thread(target=_tell_now_and_then, daemon=True)
                _teller.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        with _speaking:
            _under_way.remove(self)
            if self._unit and kind is None and self._told not in (None, self.count):
                self._tell()

    def set_postfix_str(self, text: str) -> None:
        """Further figures, for the lines to come."""
        self._postfix = f", {text}"

    def update(self, count: float = 1) -> None:
        """So much more is done."""
        self.count += count

    def tell_if_due(self) -> None:
        """Writes a line where it is time for one."""
        if time.monotonic() - _said >= (_SECONDS if time.monotonic() - self._began < _LATER else _LATER_SECONDS):
            self._tell()

    def _tell(self) -> None:
        seconds, done = time.monotonic() - self._began, self.count - self._initial
        self._told = self.count
        of = f" of {self.total:,}" if self.total else ""
        text = f"{self._description}: {self.count:,}{of} {self._unit}s, " if self._unit else f"{self._description}: "
        if not done:
            log_line(f"{text}since {_duration(seconds)}")
            return
        speed, left = done / max(seconds, 1e-9), ""
        if self.total and self.count < self.total:
            left = f", {_duration((self.total - self.count) / speed)} left"
        log_line(f"{text}{f'{speed:,.0f}' if speed >= 100 else f'{speed:.3g}'} a second{self._postfix}{left}")


_under_way: list[_ProgressLines] = []
"""what goes on, the innermost last"""
_teller: threading.Thread | None = None
# A process that forks waits until nothing is being said: its child would find the lock of standard error taken.
_speaking = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_speaking.acquire, after_in_parent=_speaking.release, after_in_child=_speaking.release)


def _tell_now_and_then() -> None:
    global _teller
    while True:
        time.sleep(1)
        with _speaking:
            if not _under_way:
                _teller = None
                return
            _under_way[-1].tell_if_due()


@contextmanager
def busy(what: str) -> Iterator[None]:
    """Where there is no terminal, says now and then that work whose end is not known goes on; a decorator, too."""
    with nullcontext() if sys.stderr.isatty() else _ProgressLines(None, what, "", 0):
        yield


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def log_line(text: str) -> None:
    """One line for people on standard error, kept clear of a bar that is being drawn; lost where nobody can read it."""
    global _said
    _said = time.monotonic()
    try:
        if sys.stderr.isatty():
            from tqdm import tqdm

            tqdm.write(visible(text), file=sys.stderr)
        else:
            print(visible(text), file=sys.stderr, flush=True)
    except OSError:
        abandon(sys.stderr)


class LineNotes:
    """Lines that something is said of at the end: how many there are, and the numbers of the first few."""

    def __init__(self) -> None:
        self.count, self._first = 0, list[str]()

    def add(self, line: int, detail: Callable[[], str] = str) -> None:
        """Counts the line with this number, from 0; what `detail` gives, if it is asked, stands behind the number."""
        self.count += 1
        if self.count <= _NAMED_LINES:
            self._first.append(f"{line + 1}{detail()}")

    def warn(self, what: str) -> None:
        """Tells of them, if there are any."""
        if self.count:
            more = ", ..." * (self.count > _NAMED_LINES)
            log_line(f"warning: {what}: {self.count}, counted from 1 these: {', '.join(self._first)}{more}")


def say(*lines: object) -> None:
    """Lines of results on standard output; on a terminal, control characters are shown as `visible` does."""
    try:
        with concerning("standard output"):
            for line in "\n".join(map(str, lines)).split("\n"):
                print(visible(line) if sys.stdout.isatty() else line, flush=True)
    except OSError as error:
        if error.errno != errno.EIO:  # so writes end on a terminal that is gone, where the work goes on
            raise
        abandon(sys.stdout)


def abandon(stream: TextIO) -> None:
    """Lets what a stream still holds, and all that follows, go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
