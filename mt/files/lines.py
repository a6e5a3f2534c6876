"""Lines of text in: one rule for the files of every command, and one for what can be read only once.

Only a line feed ends a line: a carriage return, a form feed, U+2028 or NUL is a character like any other. A byte order
mark at the beginning of a file, or of standard input, is left out.

A line of a file that is not UTF-8 is the user's error: the file can be mended and read again. On standard input, a pipe
or a terminal, lines out equal to lines in matter most and nothing can be read again: there bad bytes become U+FFFD.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import select
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple, cast

from mt.errors import UserError

_GZIP = b"\x1f\x8b"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BLOCK_BYTES = 1 << 17


def check_readable(paths: Sequence[Path]) -> None:
    """Raises UserError when a file cannot be opened, so that nothing is done before that is known."""
    for path in paths:
        try:
            path.open("rb").close()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); check the name") from None


def read_lines(paths: Sequence[Path]) -> Iterator[str]:
    """The lines of text files, one file after the other, without their line feeds; the last one may lack its own.

    Files may be gzip-compressed, told by their first bytes and not by their name.

    Raises:
        UserError: a file that cannot be read, is damaged gzip, or holds a line that is not UTF-8.
    """
    for path in paths:
        for text in _blocks(path):
            yield from text.removesuffix("\n").split("\n")


class TextDigest(NamedTuple):
    """How many lines files hold, and a hash of them, the same for plain and gzip files."""

    lines: int
    digest: str


def text_digest(paths: Sequence[Path]) -> TextDigest | None:
    """Reads files to their end; None where one of them is no regular file and could be read only once.

    Raises UserError as `read_lines`, so that a bad line is known before any work is done.
    """
    if not all(path.is_file() for path in paths):
        return None
    lines, digest = 0, hashlib.blake2b(digest_size=16)
    for path in paths:
        for text in _blocks(path):
            text = text if text.endswith("\n") else text + "\n"
            lines += text.count("\n")
            digest.update(text.encode())
    return TextDigest(lines, digest.hexdigest())


def paired_lines(first: Path, second: Path) -> Iterator[tuple[str, str]]:
    """The lines of two files side by side. Raises UserError as `read_lines`, or where one ends before the other."""
    lines, others = read_lines([first]), read_lines([second])
    for number, (line, other) in enumerate(zip_longest(lines, others)):
        if line is None or other is None:
            longer = number + 1 + sum(1 for _ in (others if line is None else lines))
            check_equally_many(first, number if line is None else longer, second, longer if line is None else number)
        else:
            yield line, other


def check_equally_many(first: object, first_lines: int, second: object, second_lines: int) -> None:
    """Raises UserError where two texts, given by their names, have different numbers of lines."""
    if first_lines != second_lines:
        raise UserError(
            f"{first} has {first_lines} lines and {second} has {second_lines}; they must have equally many, "
            "line n of one belongs to line n of the other"
        )


def _blocks(path: Path) -> Iterator[str]:
    """The text of a file in blocks of whole lines, none of them empty; the last may lack its line feed."""
    lines = 0
    try:
        with path.open("rb") as plain:
            packed = plain.peek(len(_GZIP)).startswith(_GZIP)  # what is read from a pipe would be gone
            stream = cast(io.BufferedReader, gzip.GzipFile(fileobj=plain)) if packed else plain
            # read1 gives what a slow pipe has to give, readline the rest of the last line.
            while data := stream.read1(_BLOCK_BYTES):
                data = data if data.endswith(b"\n") else data + stream.readline()
                if text := (data if lines else data.removeprefix(_BYTE_ORDER_MARK)).decode():
                    yield text
                lines += data.count(b"\n")
    except UnicodeDecodeError as error:
        *before, line = error.object[: error.start].split(b"\n")
        raise UserError(
            f"{path}: line {lines + len(before) + 1} is not UTF-8 (byte {len(line) + 1} of the line); convert the "
            "file, for example with iconv -f ISO-8859-1 -t UTF-8"
        ) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: damaged gzip file ({error}); copy it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


class WaitingLines:
    """The lines of a pipe or terminal, and whether the next one can be had without waiting for it."""

    def __init__(self, descriptor: int) -> None:
        """Reads the file descriptor up to its end; nobody else may read it."""
        self._descriptor = descriptor
        self._complete: deque[bytearray] = deque()
        self._rest = bytearray()
        self._mark, self._ended = _BYTE_ORDER_MARK, False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while not self._complete and not self._ended:
            self._read()
        if not self._complete:
            raise StopIteration
        return self._complete.popleft().decode(errors="replace")

    def more_waiting(self) -> bool:
        """Whether a complete line, or the end, has arrived."""
        while not self._complete and not self._ended and select.select([self._descriptor], [], [], 0)[0]:
            self._read()
        return bool(self._complete) or self._ended

    def _read(self) -> None:
        data = os.read(self._descriptor, _BLOCK_BYTES)
        self._rest += data
        if not data or b"\n" in data:
            *complete, self._rest = self._rest.removeprefix(self._mark).split(b"\n")
            self._mark, self._ended = b"", not data
            self._complete += [self._rest] if self._ended and self._rest else complete
