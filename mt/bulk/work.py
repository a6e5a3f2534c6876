"""One worker: translates a shard into a file that appears whole, once, whatever dies meanwhile.

Each attempt writes under a name of its own, which it renames when all is on the disk. An attempt is locked while its
process lives, so that runs which share a folder share the shards out; where a file system has no locks, a shard may be
translated twice, with the same bytes.
"""

from __future__ import annotations

import fcntl
import os
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import uuid4

from mt.bulk.plan import Plan, ShardReader, read_plan
from mt.errors import UserError, concerning
from mt.files.json_file import list_files
from mt.files.output import Output
from mt.processes import keep_freed_memory

if TYPE_CHECKING:
    from mt.decoding.translator import Translator

Result: TypeAlias = dict[str, Any]
"""What became of a shard: its number, how many lines were translated (none where it was done, or another run is at it),
how many of them were overlong or held unknown characters; an error of one line, and a traceback if it is the program's
fault"""


def no_result(number: int, error: str = "") -> Result:
    """A shard of which nothing was translated; -1: some shard."""
    return {"shard": number, "lines": 0, "overlong": 0, "unknown": 0, "error": error, "fault": ""}


@dataclass
class Work:
    """What every worker is given; it loads the model with its first shard."""

    folder: Path
    """where the plan is, and the translations go"""
    paths: list[Path]
    options: Namespace
    """of the search, `format`, `overlong`, and `search`: which of them are fields of SearchConfig"""
    load: Callable[[Namespace], Translator]
    counter: Any = None
    """a value that processes share: lines that are done"""

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
        keep_freed_memory()
        translator = self.load(self.options)
        folder = translator.loaded.folder
        if list_files(folder / "meta.json") != self.plan.fingerprint["model"]["files"]:
            raise UserError(f"{folder}: is another model than the plan was made with; all machines need the same")
        return translator

    def translate(self, number: int) -> Result:
        """Translates a shard. Errors are told, not raised."""
        result = no_result(number)
        try:
            target = self.plan.target(self.folder, number)
            if target.exists() or any(is_locked(each) for each in attempts(self.folder, target.name)):
                return result
            with _attempt(target) as stream:
                records = self._records(number, result)
                if self.options.format == "parquet":
                    from mt.bulk.table import write_table

                    write_table(records, stream, target)
                else:
                    _write_lines(records, self.options.format, stream, target)
                lines = self.plan.shards[number].lines
                assert result["lines"] == lines, f"{result['lines']} records of {lines} lines"
        except (UserError, OSError, MemoryError) as error:
            place = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
            return no_result(number, place + (getattr(error, "strerror", "") or str(error) or type(error).__name__))
        except Exception as error:
            return no_result(number, f"{type(error).__name__}: {error}") | {"fault": traceback.format_exc()}
        return result

    def _records(self, number: int, result: Result) -> Iterator[dict[str, Any]]:
        """Translates; counts in `result`, and for all processes."""
        shard, options = self.plan.shards[number], self.options
        search = {name: getattr(options, name) for name in options.search}
        form = {"overlong": options.overlong, "token_scores": options.token_scores, "first_line": shard.first}
        for record in self._translator.translate(self._reader.read(shard), **form, **search):
            for name, found in (("lines", True), ("overlong", record["overlong"]), ("unknown", record["unknown"] > 0)):
                result[name] += found
            if self.counter is not None:
                with self.counter.get_lock():
                    self.counter.value += 1
            yield record


def _write_lines(records: Iterator[dict[str, Any]], form: str, stream: FileIO, name: Path) -> None:
    """As `translate.py` writes them: text or JSON lines, plain or packed."""
    from mt.decoding.records import json_line
    from mt.decoding.translator import WINDOW

    output = Output(stream, name, WINDOW, packed=form.endswith(".gz"))
    for record in records:
        line = json_line(record) if form.startswith("jsonl") else record["translation"]
        output.write(record["line"], f"{line}\n".encode())
    output.flush()


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


def attempts(folder: Path, name: str = "*-of-*") -> list[Path]:
    """Files that are being written, or were left by a process that was killed; of one target, or all."""
    return [path for path in folder.glob(f".{name}.*") if len(path.suffix) == 33]


def is_locked(attempt: Path) -> bool | None:
    """Whether the process that writes it lives; None where that cannot be told."""
    try:
        with attempt.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:  # it has just gone, or the file system has no locks
        return None


def remove_left(folder: Path) -> None:
    """Removes what killed processes have left, where that can be told."""
    for path in attempts(folder):
        if is_locked(path) is False:
            path.unlink(missing_ok=True)
