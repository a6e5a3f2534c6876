"""All shards of a run, in rounds until none is missing; how far it is; and the shards as one file."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from shutil import copyfileobj

from mt.bulk.engines import Engine
from mt.bulk.plan import Plan
from mt.bulk.work import attempts, is_locked, remove_left
from mt.errors import UserError
from mt.files.atomic import atomic_file
from mt.files.lines import text_digest
from mt.progress import log_line

_WAIT_SECONDS = 2


def translate_shards(plan: Plan, folder: Path, numbers: Sequence[int], engine: Engine, workers: int) -> None:
    """Has these shards translated. One that failed is tried again as long as others succeed. Raises UserError when
    some are left, naming the first reason."""
    totals, notes, waiting = Counter[str](), list[str](), False
    remove_left(folder)
    while missing := plan.missing(folder, numbers):
        errors, fruitless = list[str](), 0
        for result in (results := engine(missing)):
            totals.update(overlong=result["overlong"], unknown=result["unknown"])
            notes += [result["note"]] if result["note"] else []
            fruitless = 0 if result["lines"] else fruitless
            if result["error"]:
                errors.append(result["error"])
                fruitless += 1
                print(result["fault"], file=sys.stderr, end="")
                if fruitless > 2 * workers:
                    break
        getattr(results, "close", lambda: None)()  # ends what is under way
        left = plan.missing(folder, numbers)
        if errors and len(left) == len(missing):
            raise UserError(
                f"{len(left)} of {len(numbers)} shards could not be translated, because of: {errors[0]}; mend that, "
                "and the same command goes on"
            )
        if left and len(left) == len(missing):
            if not waiting:
                log_line(f"waiting for {len(left)} shards that other runs are translating")
            waiting = True
            time.sleep(_WAIT_SECONDS)
    remove_left(folder)
    if totals["overlong"]:
        log_line(f"warning: {totals['overlong']} lines were longer than decode.max_length tokens")
    if totals["unknown"]:
        log_line(f"warning: {totals['unknown']} lines had characters that the model has never seen")
    if notes:
        log_line(f"note: in {len(notes)} shards {notes[0]}")


def status(plan: Plan, folder: Path) -> str:
    """How many shards are done and under way, lines, speed and time left, as one line."""
    missing = set(plan.missing(folder))
    done = [number for number in range(len(plan.shards)) if number not in missing]
    locked = sum(map(is_locked, attempts(folder)))
    lines, total = plan.lines(done), plan.lines()
    parts = [f"{len(done)} of {len(plan.shards)} shards done, {locked} under way", f"{lines:,} of {total:,} lines"]
    if missing and (speed := _speed(plan, folder, done, locked)):
        left = round((total - lines) / speed)
        parts += [f"{speed:,.0f} lines a second", f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"]
    return "; ".join(parts)


def _speed(plan: Plan, folder: Path, done: Sequence[int], workers: int) -> float:
    """Lines a second of the shards done lately; 0 where it cannot be told: nobody works, or no second round is done.

    Workers that began together end together: the first shard of each tells when the rest began."""
    ended = sorted((plan.target(folder, number).stat().st_mtime, plan.shards[number].lines) for number in done)
    lately = ended[-10 * workers :] if workers else []
    counted = lately[workers:]
    return sum(lines for _, lines in counted) / max(1e-9, counted[-1][0] - lately[workers - 1][0]) if counted else 0.0


def join(plan: Plan, folder: Path, output: Path) -> None:
    """Writes all shards, in order, to one file, their lines counted. Raises UserError where one is missing, or holds
    another number of lines than it should."""
    if missing := plan.missing(folder):
        name = plan.target(folder, missing[0]).name
        raise UserError(
            f"{folder}: {len(missing)} of {len(plan.shards)} shards are missing, {name} the first; give the command "
            "without --join first"
        )
    paths = [plan.target(folder, number) for number in range(len(plan.shards))]
    table = plan.extension == "parquet"
    if table:
        from mt.bulk.table import count_rows, join_tables
    for path, shard in zip(paths, plan.shards):
        lines = count_rows(path) if table else (text_digest([path]) or shard).lines
        if lines != shard.lines:
            raise UserError(f"{path}: holds {lines} lines, not {shard.lines}; remove it and give the command again")
    with atomic_file(output) as temporary:
        if table:
            join_tables(paths, temporary)
            return
        with temporary.open("wb") as stream:
            for path in paths:
                with path.open("rb") as part:
                    copyfileobj(part, stream, 1 << 20)
