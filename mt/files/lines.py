"""Lines of files, pipes and terminals, as bytes: only a line feed ends a line, and no byte makes an error."""

from __future__ import annotations

import gzip
import hashlib
import os
import select
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from mt.errors import UserError

_GZIP_MAGIC = b"\x1f\x8b"
_READ_BYTES = 1 << 16
_SURVEY_BYTES = 1 << 20


def check_readable(paths: Sequence[Path]) -> None:
    """Raises UserError when a file cannot be opened, so that nothing is done before that is known."""
    for path in paths:
        try:
            path.open("rb").close()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); check the name") from None


class Survey(NamedTuple):
    """What files hold."""

    lines: int
    digest: str
    """hash of their lines, the same for plain and gzip files"""


def survey(paths: Sequence[Path]) -> Survey | None:
    """Reads files to their end; None where one of them is no regular file and could be read only once.

    Raises:
        UserError: as `file_lines`.
    """
    if not all(path.is_file() for path in paths):
        return None
    lines, digest = 0, hashlib.blake2b(digest_size=16)
    for path in paths:
        last = b"\n"
        with _opened(path) as stream:
            while data := stream.read(_SURVEY_BYTES):
                lines += data.count(b"\n")
                digest.update(data)
                last = data[-1:]
        if last != b"\n":
            lines += 1
            digest.update(b"\n")
    return Survey(lines, digest.hexdigest())


def file_lines(paths: Sequence[Path]) -> Iterator[str]:
    """The lines of plain or gzip files, one after the other, without their line feeds.

    A last line without a line feed is a line. Invalid UTF-8 becomes U+FFFD.

    Raises:
        UserError: a file that cannot be read, or a gzip file that is cut short.
    """
    for path in paths:
        with _opened(path) as stream:
            for line in stream:
                yield _text(line)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a plain or gzip file; what goes wrong with it in the block becomes a UserError."""
    try:
        with path.open("rb") as plain:
            packed = plain.peek(len(_GZIP_MAGIC)).startswith(_GZIP_MAGIC)
            yield cast(BinaryIO, gzip.GzipFile(fileobj=plain)) if packed else plain
    except (EOFError, zlib.error) as error:
        raise UserError(f"{path}: broken gzip file ({error}); copy it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def paired_lines(source: Path, target: Path) -> Iterator[tuple[str, str]]:
    """The lines of two files side by side.

    Raises:
        UserError: one of them ends before the other, or as `file_lines`.
    """
    sources, targets = file_lines([source]), file_lines([target])
    for count, (source_line, target_line) in enumerate(zip_longest(sources, targets)):
        if source_line is None or target_line is None:
            source_count = count + (source_line is not None) + sum(1 for _ in sources)
            target_count = count + (target_line is not None) + sum(1 for _ in targets)
            raise UserError(
                f"{source} has {source_count} lines and {target} has {target_count}; "
                "they must have equally many, line by line translations of each other"
            )
        yield source_line, target_line


class WaitingLines:
    """The lines of a pipe or terminal, and whether the next one can be had without waiting for it."""

    def __init__(self, descriptor: int) -> None:
        """Reads the file descriptor up to its end; nobody else may read it."""
        self._descriptor = descriptor
        self._complete: deque[bytes] = deque()
        self._rest = bytearray()
        self._ended = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while not self._complete and not self._ended:
            self._read()
        if not self._complete:
            raise StopIteration
        return _text(self._complete.popleft())

    def more_waiting(self) -> bool:
        """Whether a complete line, or the end, has arrived."""
        while not self._complete and not self._ended:
            if not select.select([self._descriptor], [], [], 0)[0]:
                return False
            self._read()
        return True

    def _read(self) -> None:
        data = os.read(self._descriptor, _READ_BYTES)
        *complete, rest = data.split(b"\n")
        for line in complete:
            self._complete.append(bytes(self._rest) + line)
            self._rest.clear()
        self._rest += rest
        if not data:
            self._ended = True
            if self._rest:
                self._complete.append(bytes(self._rest))


def _text(line: bytes) -> str:
    return line.removesuffix(b"\n").decode("utf-8", errors="replace")
