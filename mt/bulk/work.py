"""One worker: translates a shard into a file that appears whole, once, whatever dies meanwhile.

Each attempt writes under a name of its own, which it renames when all is on the disk. An attempt is locked while its
process lives, so that runs which share a folder share the shards out; where a file system has no locks, a shard may be
translated twice, with the same bytes.
"""

from __future__ import annotations

import fcntl
import os
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict
from uuid import uuid4

from mt.bulk.plan import Plan, Shard, ShardReader, read_plan
from mt.errors import UserError, concerning
from mt.files.output import Output
from mt.processes import keep_freed_memory

if TYPE_CHECKING:
    from mt.decoding.translator import Translator

_TOLD_EVERY = 0.2  # seconds between two reports of the lines that are done


class Result(TypedDict):
    """What became of a shard."""

    shard: int
    lines: int
    """translated; 0 where it was done already, or another run is at it"""
    overlong: int
    unknown: int
    """lines that are too long, or hold characters that the model has never seen"""
    note: str
    """that the text is unlike the one which confidence was fitted on"""
    error: str
    """one line, or nothing"""
    fault: str
    """the traceback of an error that is the program's"""


@dataclass
class Work:
    """What every worker is given; it loads the model with its first shard."""

    folder: Path
    """where the plan is, and the translations go"""
    paths: list[Path]
    """the inputs"""
    options: Namespace
    """of the search, and `format` and `overlong`; `search`: names of those that are fields of SearchConfig"""
    load: Callable[[Namespace], Translator]

    @cached_property
    def plan(self) -> Plan:
        """As it stands in the folder."""
        plan = read_plan(self.folder)
        if plan is None:
            raise UserError(f"{self.folder}: holds no plan on this machine; all machines need the same folders")
        return plan

    @cached_property
    def _reader(self) -> ShardReader:
        return ShardReader(self.paths)

    @cached_property
    def _translator(self) -> Translator:
        from mt.files.json_file import list_files

        keep_freed_memory()
        translator = self.load(self.options)
        folder = translator.loaded.folder
        if list_files(folder / "meta.json") != self.plan.fingerprint["model"]["files"]:
            raise UserError(f"{folder}: is another model than the plan was made with; all machines need the same")
        return translator

    def translate(self, number: int, advance: Callable[[int], None] = lambda lines: None) -> Result:
        """Translates a shard; `advance` is told of lines that are done. Errors are told, not raised."""
        result = Result(shard=number, lines=0, overlong=0, unknown=0, note="", error="", fault="")
        try:
            target = self.plan.target(self.folder, number)
            if not target.exists() and not any(is_locked(each) for each in attempts(self.folder, target.name)):
                self._translate(self.plan.shards[number], target, result, advance)
        except (UserError, OSError, MemoryError) as error:
            place = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
            result["error"] = place + (getattr(error, "strerror", "") or str(error) or type(error).__name__)
        except Exception as error:
            result["error"], result["fault"] = f"{type(error).__name__}: {error}", traceback.format_exc()
        return result

    def _translate(self, shard: Shard, target: Path, result: Result, advance: Callable[[int], None]) -> None:
        options, translator = self.options, self._translator
        records = translator.translate(
            self._reader.read(shard),
            first_line=shard.first,
            overlong=options.overlong,
            token_scores=options.token_scores,
            **{name: getattr(options, name) for name in options.search},
        )
        overlong = unknown = done = told = 0
        last = time.monotonic()
        with _attempt(target) as stream:
            writer = _open_writer(options, stream, target)
            for record in records:
                writer.write(record)
                done, overlong, unknown = done + 1, overlong + record["overlong"], unknown + bool(record["unknown"])
                if time.monotonic() - last > _TOLD_EVERY:
                    advance(done - told)
                    told, last = done, time.monotonic()
            writer.close()
            assert done == shard.lines, f"{done} records of {shard.lines} lines"
        advance(done - told)
        fit = translator.fit()
        note = fit["text"] if fit and fit["unlike"] else ""
        result |= {"lines": done, "overlong": overlong, "unknown": unknown, "note": note}


class LineWriter:
    """Text or JSON lines, plain or packed by gzip, as `translate.py` writes them."""

    def __init__(self, options: Namespace, stream: FileIO, name: Path) -> None:
        from mt.decoding.translator import WINDOW

        self._output = Output(stream, name, WINDOW, packed=options.format.endswith(".gz"))
        self._json = options.format.startswith("jsonl")

    def write(self, record: dict[str, Any]) -> None:
        """Takes the next record."""
        from mt.decoding.records import json_line

        line = json_line(record) if self._json else record["translation"]
        self._output.write(record["line"], f"{line}\n".encode())

    def close(self) -> None:
        """Writes what it has gathered."""
        self._output.flush()


def _open_writer(options: Namespace, stream: FileIO, name: Path) -> Any:
    if options.format != "parquet":
        return LineWriter(options, stream, name)
    from mt.bulk.table import ParquetWriter

    return ParquetWriter(stream, name)


@contextmanager
def _attempt(target: Path) -> Iterator[FileIO]:
    """Yields a new file, locked, that becomes `target` where the block ends without an error."""
    own = target.with_name(f".{target.name}.{uuid4().hex}")
    try:
        with FileIO(own, "x") as stream, concerning(own):
            with suppress(OSError):  # where there are no locks
                fcntl.flock(stream, fcntl.LOCK_EX)
            yield stream
            os.fsync(stream.fileno())
            os.replace(own, target)
    finally:
        own.unlink(missing_ok=True)


def attempts(folder: Path, name: str = "") -> list[Path]:
    """Files that are being written, or were left by a process that was killed; of one target, or all."""
    return [path for path in folder.glob(f".{name or '*-of-*'}.*") if len(path.suffix) == 33]


def is_locked(attempt: Path, unknown: bool = False) -> bool:
    """Whether the process that writes it lives; `unknown`: what is said where a file system has no locks."""
    try:
        with attempt.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:
        return unknown
    return False


def remove_left(folder: Path) -> None:
    """Removes what killed processes have left, where that can be told."""
    for path in attempts(folder):
        if not is_locked(path, unknown=True):
            path.unlink(missing_ok=True)
