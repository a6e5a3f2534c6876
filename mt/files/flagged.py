"""Lines that a person should look at: those whose translation has too little confidence, in a file of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

HEADER = "line\tconfidence\tsource\ttranslation\n"


def is_flagged(record: dict[str, Any], limit: float) -> bool:
    """Whether the confidence in the record's translation is below the limit."""
    return bool(record["confidence"] < limit)


class FlaggedLines:
    """The file of flagged lines."""

    def __init__(self, stream: BinaryIO, limit: float) -> None:
        self._stream, self._limit = stream, limit

    def add(self, record: dict[str, Any]) -> None:
        """Writes the record if it is below the limit; before its translation is written, so that none is missing.

        A row holds the line's number from 1, confidence, source and translation, between tabs.
        """
        if is_flagged(record, self._limit):
            texts = (record[name].replace("\t", " ") for name in ("source", "translation"))
            row = "\t".join([str(record["line"] + 1), f"{record['confidence']:.4f}", *texts]) + "\n"
            self._stream.write(row.encode("utf-8"))
            self._stream.flush()


@contextmanager
def flagged_lines(path: Path | None, limit: float | None, kept: int) -> Iterator[FlaggedLines | None]:
    """The file, or None where none is asked for. A translation that goes on after `kept` lines keeps their rows."""
    if path is None or limit is None:
        yield None
        return
    earlier = path.read_bytes().split(b"\n")[1:-1] if kept and path.is_file() else []
    rows = [row + b"\n" for row in earlier if (number := row.split(b"\t")[0]).isdigit() and int(number) <= kept]
    with path.open("wb") as stream:
        stream.write(HEADER.encode() + b"".join(rows))
        yield FlaggedLines(stream, limit)
