"""Ctrl-C and SIGTERM as a wish that the training loop grants at the end of an update."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interruptible(insistent: bool) -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM are noted in the list instead of raised, so that the loop can save.

    insistent: a second one raises. A launcher passes on what the terminal sends to all anyway: there it does not.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received and insistent:
            raise KeyboardInterrupt
        received.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
