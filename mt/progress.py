"""Progress on standard error: shown on a terminal only, with speed and time left."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

from mt.errors import concerning, visible

_NAMED_LINES = 5  # whose numbers a warning gives


def progress_bar(total: float | None, description: str, unit: str, silent: bool = False, **options: Any) -> Any:
    """A tqdm bar on standard error, shown on a terminal only; `total`: units of work, if known; `options`: of tqdm."""
    from tqdm import tqdm

    options |= {"total": total, "desc": description, "unit": unit, "disable": silent or not sys.stderr.isatty()}
    return tqdm(file=sys.stderr, dynamic_ncols=True, **options)


def log_line(text: str) -> None:
    """One line for people on standard error, kept clear of a bar that is being drawn; lost where nobody can read it."""
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
