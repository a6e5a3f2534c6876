"""Lines of text in: one rule for the files of every command, and one for what can be read only once.

Only a line feed ends a line, with the carriage returns directly before it; one elsewhere, a form feed, U+2028 or NUL is
a character like any other. A byte order mark at the beginning of a file, or of standard input, is left out.

Inputs may be packed by gzip, bzip2 or xz, told by their first bytes and not by their names. What is no UTF-8 text by
these, such as UTF-16 or a zip archive, is refused. A line of a file that is not UTF-8 is the user's error: the file can
be mended and read again. On standard input, a pipe or a terminal, lines out equal to lines in matter most and nothing
can be read again: there bad bytes become U+FFFD, and the first such line is told.
"""

from __future__ import annotations

import bz2
import hashlib
import lzma
import os
import re
import select
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, takewhile, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from mt.errors import UserError, concerning
from mt.progress import log_line

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BLOCK_BYTES = 1 << 17
_PACKED: dict[str, tuple[bytes, Callable[[], Any]]] = {
    "gzip": (rb"\x1f\x8b", lambda: zlib.decompressobj(16 + zlib.MAX_WBITS)),  # 16: with gzip's head and checksum
    "bzip2": (rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", bz2.BZ2Decompressor),
    "xz": (rb"\xfd7zXZ\x00", lzma.LZMADecompressor),
}  # the first bytes, and what unpacks one stream of which a file holds one or more
_NO_TEXT = {
    rb"\xff\xfe\x00\x00|\x00\x00\xfe\xff": "UTF-32; convert it: iconv -f UTF-32 -t UTF-8",
    rb"\xff\xfe|\xfe\xff": "UTF-16; convert it: iconv -f UTF-16 -t UTF-8",
    rb"\x28\xb5\x2f\xfd": "packed by zstd; unpack it: zstd -d",
    rb"PK[\x03\x05]|7z\xbc\xaf|Rar!|.{257}ustar|%PDF-": "an archive or a document (zip, tar, PDF); save the text in it",
}  # by the first bytes


def check_readable(paths: Sequence[Path]) -> None:
    """Raises OSError when a file cannot be opened, so that nothing is done before that is known."""
    for path in paths:
        path.open("rb").close()


def read_lines(paths: Sequence[Path]) -> Iterator[str]:
    """The lines of text files, one file after the other, without their line feeds; the last one may lack its own.

    Raises:
        UserError: a file that cannot be read, is damaged, is no text, or holds a line that is not UTF-8.
    """
    for path in paths:
        for text in _file_blocks(path):
            yield from text.split("\n")[:-1]


class TextDigest(NamedTuple):
    """How many lines files hold, and a hash of them, the same for plain and packed files."""

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
        for text in _file_blocks(path):
            lines += text.count("\n")
            digest.update(text.encode())
    return TextDigest(lines, digest.hexdigest())


def paired_lines(first: Path, second: Path) -> Iterator[tuple[str, str]]:
    """The lines of two files side by side. Raises UserError as `read_lines`, or where one ends before the other."""
    lines, others = read_lines([first]), read_lines([second])
    for number, (line, other) in enumerate(zip_longest(lines, others)):
        if line is None or other is None:
            longer = number + 1 + sum(1 for _ in (others if line is None else lines))
            check_equally_many(first, *((number, second, longer) if line is None else (longer, second, number)))
        else:
            yield line, other


def check_equally_many(first: object, first_lines: int, second: object, second_lines: int) -> None:
    """Raises UserError where two texts, given by their names, have different numbers of lines."""
    if first_lines != second_lines:
        raise UserError(f"{first} has {first_lines} lines and {second} has {second_lines}; they must have equally many")


def is_packed(path: Path) -> bool:
    """Whether a file is packed, told by its first bytes."""
    with path.open("rb") as stream:
        head = stream.read(_BLOCK_BYTES)
    return any(re.match(first, head) for first, _ in _PACKED.values())


def file_bytes(path: Path) -> Iterator[bytes]:
    """What a file holds, unpacked, in blocks. Raises UserError where it cannot be read or is damaged."""
    try:
        with path.open("rb") as stream:
            yield from _unpacked(lambda: stream.read1(_BLOCK_BYTES), str(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file and its disk") from None


def _file_blocks(path: Path) -> Iterator[str]:
    return _blocks(file_bytes(path), str(path), strict=True)


def _blocks(content: Iterator[bytes], name: str, strict: bool) -> Iterator[str]:
    """The text of an input in blocks of whole lines, each with its line feed; "" where a piece of it ends no line.

    A line that is not UTF-8 raises UserError where `strict`; else it is told, the first time, and mended.
    """
    rest, lines, told = bytearray(), 0, strict
    for data in chain(content, [b""]):
        end = data.rfind(b"\n") + 1
        rest += data[:end]
        block = bytes(rest) if end or not data else b""
        if block and not lines:
            _check_text(block + data[end:], name)  # with the NUL behind the last line feed of UTF-16
            block = block.removeprefix(_BYTE_ORDER_MARK)
        block += b"" if end or not block else b"\n"
        try:
            text = block.decode()
        except UnicodeDecodeError as error:
            *before, line = block[: error.start].split(b"\n")
            place = f"{name}: line {lines + len(before) + 1} is not UTF-8 (byte {len(line) + 1} of the line);"
            remedy = "convert the file, for example with iconv -f ISO-8859-1 -t UTF-8"
            if strict:
                raise UserError(f"{place} {remedy}") from None
            if not told:
                log_line(f"warning: {place} such bytes, here and further on, become U+FFFD; {remedy}")
            text, told = block.decode(errors="replace"), True
        while "\r\n" in text:
            text = text.replace("\r\n", "\n")
        lines += block.count(b"\n")
        if block:
            rest.clear()
        rest += data[end:]
        yield text


def _unpacked(read: Callable[[], bytes], name: str) -> Iterator[bytes]:
    """What an input holds, as it comes. Not by the classes of gzip, bz2 and lzma: they take a damaged second stream of
    a file for padding, and end there."""
    data = read()
    kind, new = next(((kind, new) for kind, (first, new) in _PACKED.items() if re.match(first, data)), ("", None))
    if new is None:
        yield from takewhile(bool, chain([data], iter(read, b"")))
        return
    unpacker = new()
    try:
        while data:
            if unpacker.eof and (data := data.lstrip(b"\0")):  # padding may stand between streams
                unpacker = new()
            text = unpacker.decompress(data) if data else b""
            data = (data and unpacker.unused_data) or read()
            if not data and not unpacker.eof:  # told before the text, which may be torn
                raise EOFError("it is cut short")
            if text:
                yield text
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if getattr(error, "errno", None) is not None:  # else it is what bz2 says of damage
            raise
        raise UserError(f"{name}: damaged {kind} file ({error}); copy it again") from None


def _check_text(data: bytes, name: str) -> None:
    """Raises UserError when these first bytes of an input are those of something else than UTF-8 text."""
    for first, what in _NO_TEXT.items():
        if re.match(first, data, re.DOTALL):
            raise UserError(f"{name}: is {what}")
    beside = data.count(b"\n\0") + data.count(b"\0\n")  # as every line of UTF-16 ends
    if b"\0" in data and (data.count(b"\0") * 10 >= len(data) or beside >= data.count(b"\n") > 0):
        kind = "UTF-16BE" if data.startswith(b"\0") else "UTF-16LE"
        raise UserError(f"{name}: holds NUL bytes, as binary files do, and UTF-16: for that iconv -f {kind} -t UTF-8")


class WaitingLines:
    """The lines of a pipe or terminal, and whether the next one can be had without waiting for it."""

    def __init__(self, descriptor: int) -> None:
        """Reads the file descriptor up to its end; nobody else may read it."""
        self._descriptor, self._complete, self._ended = descriptor, deque[str](), False
        content = _unpacked(lambda: os.read(descriptor, _BLOCK_BYTES), "standard input")
        self._blocks = _blocks(content, "standard input", strict=False)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self._fill(patient=True)
        if not self._complete:
            raise StopIteration
        return self._complete.popleft()

    def more_waiting(self) -> bool:
        """Whether a complete line, or the end, has arrived."""
        self._fill(patient=False)
        return bool(self._complete) or self._ended

    def _fill(self, patient: bool) -> None:
        while not (self._complete or self._ended) and (patient or select.select([self._descriptor], [], [], 0)[0]):
            with concerning("standard input"):
                text = next(self._blocks, None)
            self._ended = text is None
            self._complete.extend((text or "").split("\n")[:-1])
