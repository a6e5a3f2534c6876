"""All shards of a run, in rounds until none is missing; how far it is; and the shards as one file."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from shutil import copyfileobj
from typing import Any, cast

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
    totals, waiting = Counter[str](), False
    remove_left(folder)
    while missing := plan.missing(folder, numbers):
        errors, fruitless = list[str](), 0
        with closing(cast(Any, engine(missing))) as results:  # ends what is under way
            for result in results:
                totals.update(overlong=result["overlong"], unknown=result["unknown"])
                fruitless = 0 if result["lines"] else fruitless + bool(result["error"])
                if result["error"]:
                    errors.append(result["error"])
                    print(result["fault"], file=sys.stderr, end="")
                if fruitless > 2 * workers:
                    break
        left = len(plan.missing(folder, numbers))
        if errors and left == len(missing):
            why = f"{left} of {len(numbers)} shards could not be translated, because of: {errors[0]}"
            raise UserError(f"{why}; mend that, and the same command goes on")
        if left == len(missing):
            if not waiting:
                log_line(f"waiting for {left} shards that other runs are translating")
            waiting = True
            time.sleep(_WAIT_SECONDS)
    remove_left(folder)
    for name, what in (("overlong", "more than decode.max_length tokens"), ("unknown", "characters never seen before")):
        if totals[name]:
            log_line(f"warning: lines with {what}: {totals[name]}")


def status(plan: Plan, folder: Path) -> str:
    """How many shards are done and under way, lines, speed and time left, as one line."""
    every = range(len(plan.shards))
    missing = plan.missing(folder, every)
    done = sorted(set(every).difference(missing))
    workers = sum(map(bool, map(is_locked, attempts(folder))))
    parts = [f"{len(done)} of {len(every)} shards done, {workers} under way"]
    parts += [f"{plan.lines(done):,} of {plan.lines(every):,} lines"]
    # Workers that began together end together: the first shard of each only tells when the next began.
    ended = sorted((plan.target(folder, number).stat().st_mtime, plan.shards[number].lines) for number in done)
    lately = ended[-10 * workers :]
    if missing and workers and len(lately) > workers:
        speed = sum(lines for _, lines in lately[workers:]) / max(1e-9, lately[-1][0] - lately[workers - 1][0])
        left = round(plan.lines(missing) / speed)
        parts += [f"{speed:,.0f} lines a second", f"{left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"]
    return "; ".join(parts)


def join(plan: Plan, folder: Path, output: Path) -> None:
    """Writes all shards, in order, to one file, their lines counted. Raises UserError where one is missing, or holds
    another number of lines than it should."""
    paths = [plan.target(folder, number) for number in range(len(plan.shards))]
    if missing := plan.missing(folder, range(len(paths))):
        which = f"{len(missing)} of {len(paths)} shards are missing, {paths[missing[0]].name} the first"
        raise UserError(f"{folder}: {which}; give the command without --join first")
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
