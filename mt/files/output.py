"""Where translations go: standard output, or a file that appears when it is whole and goes on after a kill.

What is done so far stands in F.partial, always the beginning of the file to be; beside it F.partial.json says
which model, input and options it comes from. A call that finds both goes on behind the last whole window of
records: windows are what is translated together, so the file becomes the one of an undisturbed call, byte for byte.
A gzip file has one member for each window.
"""

from __future__ import annotations

import gzip
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from mt.errors import UserError, concerning
from mt.files.atomic import DESCRIPTORS, destination, open_direct, open_locked, write_all
from mt.files.json_file import read_json, write_json

_READ_BYTES = 1 << 20
_BUSY = "another process is writing it; wait until that ends, or give another name"
_GZIP = 31  # zlib's number for a gzip stream with the largest window

Fingerprint: TypeAlias = dict[str, Any] | None
"""what a content depends on, by group, for JSON; None: not known, no earlier call is continued"""


def check_writable(path: Path) -> None:
    """Raises UserError when `path` could not be written, so that nothing is done before that is known."""
    target = destination(path)
    if target.is_dir():
        raise UserError(f"{path}: is a folder; give the name of a file to write")
    place = target if target.exists() and not target.is_file() else target.parent  # a file is made in its folder
    if target.parent == DESCRIPTORS:
        target.stat()  # raises OSError where it is not open
    elif not os.access(place, os.W_OK):
        reason = "permission denied" if target.parent.is_dir() else "no such folder"
        raise UserError(f"{path}: cannot be written ({reason}); choose another place")


def check_apart(read: Iterable[tuple[str, Path]], *written: tuple[str, Path]) -> None:
    """Raises UserError when a file that is written is one that is read, or another that is written, whatever the names
    and links; each is given with the option that names it. Devices and pipes may be the same."""
    others = list(read)
    for option, path in written:
        for other_option, other in others:
            if _same_file(path, other):
                raise UserError(f"{option}: {path} is the same file as {other_option}, {other}; give another name")
        others.append((option, path))


def _same_file(first: Path, second: Path) -> bool:
    try:
        return os.path.samefile(first, second) and first.is_file()
    except OSError:  # one is not there yet
        return destination(first) == destination(second)


def standard_output() -> BinaryIO:
    """Standard output, for bytes. Raises UserError when it was closed."""
    if getattr(sys.stdout, "name", None) == 1:  # as the command line opens it in place of one that was closed
        raise UserError("standard output is closed; send it to a file, or name one with --output")
    return sys.stdout.buffer


class Output:
    """Where records are written, one after the other; `kept`: how many an earlier call has left."""

    def __init__(
        self, stream: FileIO | BinaryIO, name: str | Path, window: int = 1, packed: bool = False, kept: int = 0
    ) -> None:
        self._stream, self._name, self._window, self._packed, self.kept = stream, name, window, packed, kept
        self._gathered = bytearray()

    def write(self, number: int, data: bytes) -> None:
        """Writes the whole lines of record `number` (from 0)."""
        self._gathered += data
        if not self._packed or (number + 1) % self._window == 0:
            self.flush()

    def flush(self) -> None:
        """Writes what is gathered: a record, or the records of a gzip member."""
        data = bytes(self._gathered)
        self._gathered.clear()
        if data:  # no time in the member: the same bytes in every call
            write_all(self._stream, gzip.compress(data, mtime=0) if self._packed else data, self._name)


@contextmanager
def open_output(
    path: Path | None, fingerprint: Fingerprint, *, window: int, numbered: bool = False
) -> Iterator[Output]:
    """Yields where to write; `path` appears when the block ends without an error.

    With the ending .gz it is written packed. A link is followed; a device, a named pipe or a descriptor (/dev/stdout)
    is written directly, and so is standard output, None, where each record is seen at once. `window`: records that are
    translated together; `numbered`: each line begins with the number of its record, of which there may be several.
    Raises UserError when another process is writing it, or what an earlier call left has another fingerprint.
    """
    if path is None:
        yield Output(standard_output(), "standard output")
        return
    packed, target = path.suffix == ".gz", destination(path)
    if direct := open_direct(target):
        with direct:
            yield (output := Output(direct, path, window, packed))
            output.flush()
        return
    partial, facts = partial_files(path)
    with open_locked(partial, f"{partial}: {_BUSY}") as stream:
        try:
            with concerning(path):
                kept = _begin(stream, partial, facts, fingerprint, window, packed, numbered)
            yield (output := Output(stream, path, window, packed, kept))
            output.flush()
            with concerning(path):
                os.fsync(stream.fileno())  # before the rename: the name must not outlast the content
            os.replace(partial, target)
            facts.unlink(missing_ok=True)
        except BaseException as error:
            if os.fstat(stream.fileno()).st_size == 0:
                partial.unlink()
                facts.unlink(missing_ok=True)
            elif isinstance(error, KeyboardInterrupt) and fingerprint is not None:
                raise KeyboardInterrupt(f"{partial} keeps what is done, the same command goes on there") from None
            raise


def partial_files(path: Path) -> tuple[Path, Path]:
    """Where the beginning of the file `path`, its links followed, grows, and where it says what it comes from."""
    target = str(destination(path))
    return Path(f"{target}.partial"), Path(f"{target}.partial.json")


def _begin(
    stream: FileIO, partial: Path, facts: Path, fingerprint: Fingerprint, window: int, packed: bool, numbered: bool
) -> int:
    """Cuts the partial file behind its last whole window; how many records it holds."""
    kept = end = 0
    if facts.exists() and partial.stat().st_size:
        _check_fingerprint(partial, facts, fingerprint)
        kept, end = _whole_windows(partial, window, packed, numbered)
        stream.truncate(end)
    else:
        # In this order, so that a kill in between leaves no old content with a new fingerprint.
        stream.truncate(0)
        facts.unlink(missing_ok=True)
        if fingerprint is not None:
            write_json(facts, fingerprint)
    stream.seek(end)
    return kept


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first group in which two fingerprints differ, with its entries that do; None where they agree."""
    for group in {**before, **now}:
        old, new = before.get(group), now.get(group)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
            group += f" ({', '.join(f'{name} {old.get(name)}, now {new.get(name)}' for name in names)})"
        return group
    return None


def _check_fingerprint(partial: Path, facts: Path, fingerprint: Fingerprint) -> None:
    """Raises UserError when the partial file was begun with anything else."""
    begun = read_json(facts, dict[str, Any], f"remove it and {partial} to begin anew")
    now = {"checksum": begun.get("checksum"), **(fingerprint or {})}  # that of the file is no group
    if differs := difference(begun, now):
        raise UserError(f"{partial}: was begun with another {differs}; run it as before, or remove it to begin anew")


def _whole_windows(partial: Path, window: int, packed: bool, numbered: bool) -> tuple[int, int]:
    """How many records stand in the whole windows of a partial file, and where these end."""
    kept = end = records = position = 0
    with partial.open("rb") as stream:
        whole_lines = ((line, stream.tell()) for line in stream if line.endswith(b"\n"))
        for text, after in _members(stream) if packed else whole_lines:
            border = after
            if not numbered:
                records += text.count(b"\n")
            elif packed:
                records = int(text.rstrip(b"\n").rpartition(b"\n")[2].partition(b" ")[0]) + 1
            else:  # the record may lack lines: it is whole where the next one begins
                records, border = int(text.partition(b" ")[0]), position
            if records % window == 0 and records > kept:
                kept, end = records, border
            position = after
    return kept, end


def _members(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """The content of each whole gzip member, and where it ends."""
    unpacker, text, data = zlib.decompressobj(_GZIP), b"", b""
    while data := data or stream.read(_READ_BYTES):
        try:
            text += unpacker.decompress(data)
        except zlib.error:
            return
        data = unpacker.unused_data
        if unpacker.eof:
            yield text, stream.tell() - len(data)
            unpacker, text = zlib.decompressobj(_GZIP), b""


@contextmanager
def flagged_lines(path: Path, figure: str, kept: int) -> Iterator[Callable[[dict[str, Any], float], None]]:
    """Yields what adds a record, with the figure that it is flagged by, to the file of lines that a person should look
    at: columns line, from 1, the figure's name, source and translation. The rows of `kept` lines stay.

    Give it a record before its translation is written, so that no flagged line is missing after a kill.
    """
    target = destination(path)
    with open_direct(target) or open_locked(target, f"{path}: {_BUSY}") as stream:
        with concerning(path):
            earlier = stream.readall().split(b"\n")[1:-1] if kept and stream.readable() else []
            if stream.readable():
                stream.truncate(stream.seek(0))
        rows = [row + b"\n" for row in earlier if (number := row.split(b"\t")[0]).isdigit() and int(number) <= kept]

        def add(record: dict[str, Any], value: float) -> None:
            texts = (record[name].replace("\t", " ") for name in ("source", "translation"))
            row = "\t".join([str(record["line"] + 1), f"{value:.4f}", *texts]) + "\n"
            write_all(stream, row.encode("utf-8"), path)

        write_all(stream, f"line\t{figure}\tsource\ttranslation\n".encode() + b"".join(rows), path)
        yield add
