"""The errors that a person can mend. Every command prints them as one line and exits with code 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """Something outside the program is wrong: a file, a setting, an option.

    The message is one line: what, where, and what to do about it; control characters are shown as `visible` does.
    """

    def __init__(self, message: str) -> None:
        super().__init__(visible(" ".join(message.split())))


def visible(text: str) -> str:
    """The text with its control characters, direction marks and stray surrogates written as \\x1b or \\u202e: names of
    files and keys come from anywhere, and a terminal obeys what it is shown."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


class UserTypeError(UserError, TypeError):
    """A call from Python with an argument of the wrong type."""


def out_of_memory(error: Exception) -> bool:
    """Whether a machine or a device had no memory left; torch is not imported for the name of its error."""
    # of a plain RuntimeError, and of the system's ENOMEM
    words = ("not enough memory", "can't allocate memory", "DefaultCPUAllocator", "Cannot allocate memory")
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or any(each in str(error) for each in words)


@contextmanager
def concerning(name: str | Path) -> Iterator[None]:
    """Gives an OSError of the block that names no file this name: errors while writing know only a descriptor."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(name)
        raise
