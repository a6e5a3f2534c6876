"""Lines that a person should look at: those whose translation has too little confidence, in a file of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

HEADER = "line\tconfidence\tsource\ttranslation\n"


def is_flagged(record: dict[str, Any], limit: float) -> bool:
    """Whether the confidence in the record's translation is below the limit."""
    return bool(record["confidence"] < limit)


def row(record: dict[str, Any]) -> str:
    """The record as a row of the file: its line's number from 1, confidence, source and translation, by tabs."""
    texts = (record[name].replace("\t", " ") for name in ("source", "translation"))
    return "\t".join([str(record["line"] + 1), f"{record['confidence']:.4f}", *texts]) + "\n"


class FlaggedLines:
    """The file of flagged lines. A translation that goes on after `kept` lines keeps those flagged before."""

    def __init__(self, path: Path, limit: float, kept: int = 0) -> None:
        self.limit = limit
        earlier = [HEADER]
        if kept and path.is_file():
            with path.open(encoding="utf-8", newline="\n") as stream:
                whole = [line for line in stream if line.endswith("\n")]
            earlier += [line for line in whole if line.split("\t")[0].isdecimal() and int(line.split("\t")[0]) <= kept]
        self._stream: BinaryIO = path.open("wb")
        self._stream.write("".join(earlier).encode("utf-8"))

    def add(self, record: dict[str, Any]) -> None:
        """Writes the record if it is below the limit; before its translation is written, so that none is missing."""
        if is_flagged(record, self.limit):
            self._stream.write(row(record).encode("utf-8"))
            self._stream.flush()

    def __enter__(self) -> FlaggedLines:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stream.close()


@contextmanager
def flagged_lines(path: Path | None, limit: float | None, kept: int) -> Iterator[FlaggedLines | None]:
    """The file, or None where none is asked for."""
    if path is None or limit is None:
        yield None
        return
    with FlaggedLines(path, limit, kept) as flagged:
        yield flagged
