"""Where translations go: standard output, or a file that appears when it is whole and goes on after a kill.

What is done so far stands in F.partial, always the beginning of the file to be; beside it F.partial.json says
which model, input and options it comes from. A call that finds both goes on behind the last whole window of
records: windows are what is translated together, so the file becomes the one of an undisturbed call, byte for byte.
A gzip file has one member for each window.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from mt.errors import UserError
from mt.files.atomic import write_text

_READ_BYTES = 1 << 20
_GZIP = 31  # zlib's number for a gzip stream with the largest window

FLAGGED_HEADER = "line\tconfidence\tsource\ttranslation\n"


def check_writable(path: Path) -> None:
    """Raises UserError when `path` could not be written, so that nothing is done before that is known."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder; give the name of a file to write")
    if not os.access(path.parent, os.W_OK):
        reason = "permission denied" if path.parent.is_dir() else "no such folder"
        raise UserError(f"{path}: cannot be written ({reason}); choose another place")


def folder_digest(folder: Path) -> str:
    """Hash of the files of a model directory, its notes on itself (meta.json) apart."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != "meta.json":
            with path.open("rb") as stream:
                digest.update(path.name.encode())
                while data := stream.read(_READ_BYTES):
                    digest.update(data)
    return digest.hexdigest()


class Output:
    """Where records are written, one after the other; `kept`: how many an earlier call has left."""

    def __init__(self, stream: FileIO | BinaryIO, window: int = 1, packed: bool = False, kept: int = 0) -> None:
        self._stream, self._window, self._packed, self.kept = stream, window, packed, kept
        self._member = bytearray()

    def write(self, number: int, data: bytes) -> None:
        """Writes the whole lines of record `number` (from 0)."""
        if not self._packed:
            _write(self._stream, data)
            return
        self._member += data
        if (number + 1) % self._window == 0:
            self.flush()

    def flush(self) -> None:
        """Ends the gzip member that is being gathered."""
        if self._member:
            _write(self._stream, gzip.compress(bytes(self._member), mtime=0))  # no time: the same bytes in every call
            self._member.clear()


@contextmanager
def open_output(
    path: Path | None, fingerprint: dict[str, Any] | None, *, window: int, numbered: bool = False
) -> Iterator[Output]:
    """Yields where to write; `path` appears when the block ends without an error.

    Args:
        path: with the ending .gz it is written packed. A device or a named pipe is written directly. None: standard
            output, where each record is seen at once.
        fingerprint: what the content depends on, by group, for JSON; None: not known, no earlier call is continued.
        window: records that are translated together.
        numbered: each line begins with the number of its record, of which there may be several lines.

    Raises:
        UserError: `path` cannot be written, or what an earlier call left has another fingerprint.
    """
    if path is None:
        yield Output(sys.stdout.buffer)
        return
    packed = path.suffix == ".gz"
    if path.exists() and not path.is_file():
        with FileIO(path, "w") as stream:
            yield (output := Output(stream, window, packed))
            output.flush()
        return
    partial, facts = (path.with_name(path.name + ending) for ending in (".partial", ".partial.json"))
    try:
        stream, kept = _begin(partial, facts, fingerprint, window, packed, numbered)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another place") from None
    try:
        with stream:
            yield (output := Output(stream, window, packed, kept))
            output.flush()
            os.fsync(stream.fileno())  # before the rename: the name must not outlast the content
    except BaseException as error:
        if partial.stat().st_size == 0:
            partial.unlink()
            facts.unlink(missing_ok=True)
        elif isinstance(error, KeyboardInterrupt) and fingerprint is not None:
            raise KeyboardInterrupt(f"{partial} keeps what is done, the same command goes on there") from None
        raise
    os.replace(partial, path)
    facts.unlink(missing_ok=True)


def _begin(
    partial: Path, facts: Path, fingerprint: dict[str, Any] | None, window: int, packed: bool, numbered: bool
) -> tuple[FileIO, int]:
    """The open partial file, cut behind its last whole window, and how many records it holds."""
    if partial.exists() and facts.exists():
        _check_fingerprint(partial, facts, fingerprint)
        stream = FileIO(partial, "r+")
        kept, end = _whole_windows(partial, window, packed, numbered)
        stream.truncate(end)
        stream.seek(end)
        return stream, kept
    # In this order, so that a kill in between leaves no old content with a new fingerprint.
    partial.unlink(missing_ok=True)
    if fingerprint is not None:
        write_text(facts, json.dumps(fingerprint, indent=2, ensure_ascii=False) + "\n")
    return FileIO(partial, "w"), 0


def _check_fingerprint(partial: Path, facts: Path, fingerprint: dict[str, Any] | None) -> None:
    """Raises UserError when the partial file was begun with anything else."""
    try:
        begun = json.loads(facts.read_text(encoding="utf-8"))
    except ValueError:
        begun = {}
    now = json.loads(json.dumps(fingerprint)) or {}  # as the file holds it: tuples are lists there
    for group in {**begun, **now}:
        before, after = begun.get(group), now.get(group)
        if before == after:
            continue
        if isinstance(before, dict) and isinstance(after, dict):
            names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
            group += f" ({', '.join(f'{name} {before.get(name)}, now {after.get(name)}' for name in names)})"
        raise UserError(
            f"{partial}: was begun with another {group}; run it as before to go on, or remove {partial} to begin anew"
        )


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
    unpacker, text, data = zlib.decompressobj(_GZIP), b"", stream.read(_READ_BYTES)
    while data:
        try:
            text += unpacker.decompress(data)
        except zlib.error:
            return
        data = unpacker.unused_data
        if unpacker.eof:
            yield text, stream.tell() - len(data)
            unpacker, text = zlib.decompressobj(_GZIP), b""
        data = data or stream.read(_READ_BYTES)


def _write(stream: FileIO | BinaryIO, data: bytes) -> None:
    """All of it, at once: a kill leaves whole lines but for one that it hits."""
    while data:  # an unbuffered stream may take a part only
        data = data[stream.write(data) :]
    stream.flush()


@contextmanager
def flagged_lines(
    path: Path | None, limit: float | None, kept: int
) -> Iterator[Callable[[dict[str, Any]], None] | None]:
    """Yields what adds a record to the file of lines that a person should look at; None where none is asked for.

    Give it each record before its translation is written, so that no flagged line is missing after a kill: it writes
    those below the limit, as the columns of `FLAGGED_HEADER`, lines counted from 1. The rows of `kept` lines stay.
    """
    if path is None or limit is None:
        yield None
        return
    earlier = path.read_bytes().split(b"\n")[1:-1] if kept and path.is_file() else []
    rows = [row + b"\n" for row in earlier if (number := row.split(b"\t")[0]).isdigit() and int(number) <= kept]

    def add(record: dict[str, Any]) -> None:
        if record["confidence"] < limit:
            texts = (record[name].replace("\t", " ") for name in ("source", "translation"))
            row = "\t".join([str(record["line"] + 1), f"{record['confidence']:.4f}", *texts]) + "\n"
            _write(stream, row.encode("utf-8"))

    with FileIO(path, "w") as stream:
        _write(stream, FLAGGED_HEADER.encode() + b"".join(rows))
        yield add
