"""Who translates the shards: processes of this machine, or the workers of a Ray cluster."""

from __future__ import annotations

import logging
import multiprocessing
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Empty
from typing import Any, TypeAlias

from mt.bulk.work import Result, Work, no_result
from mt.errors import UserError
from mt.processes import side_processes
from mt.progress import log_line

Advance: TypeAlias = Callable[[int], object]
"""is told how many more lines are done"""
Engine: TypeAlias = Callable[[Sequence[int]], Iterator[Result]]
"""has shards translated, by number, and says of each what became of it"""

# Ray's own defaults are without end. While a machine that is lost is not yet known to be, which takes Ray about half a
# minute, each try to reach it counts as one of the retries.
_LIMITS = {"max_restarts": 8, "max_task_retries": 100}
_PAUSE_SECONDS = 10  # of a cluster's worker after an error: one that is broken must not take all shards in turn


def in_processes(work: Work, processes: int, advance: Advance) -> Engine:
    """Translates in processes of this machine, on GPUs one each."""

    def translate(numbers: Sequence[int]) -> Iterator[Result]:
        context = multiprocessing.get_context("spawn")
        taken, results, told, returned = context.Value("q", 0), context.Queue(), 0, 0
        work.counter = done = context.Value("q", 0)
        given = [(work, place, list(numbers), taken, results) for place in range(min(processes, len(numbers)))]
        with side_processes(_serve, given) as workers:
            while returned < len(numbers):
                alive = any(worker.is_alive() for worker in workers)  # before the queue is asked, which may be late
                try:
                    yield results.get(timeout=0.5)
                    returned += 1
                except Empty:
                    if not alive:
                        break
                advance(done.value - told)
                told = done.value
        if returned < len(numbers):
            yield no_result(-1, "a worker process was killed, perhaps for want of memory; use fewer --processes")

    return translate


def _serve(work: Work, place: int, numbers: list[int], taken: Any, results: Any) -> None:
    """Takes shards, the next one each time, until there are no more."""
    if work.options.device == "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[place] if visible else str(place)
    while True:
        with taken.get_lock():
            index, taken.value = taken.value, taken.value + 1
        if index >= len(numbers):
            return
        results.put(work.translate(numbers[index]))


class _Actor:
    """A worker of a cluster, which holds the model."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        result = self._work.translate(int(batch["shard"][0]))
        if result["error"]:
            time.sleep(_PAUSE_SECONDS)
        return {name: [value] for name, value in result.items()}


@contextmanager
def on_cluster(work: Work, address: str, workers: int | None, advance: Advance) -> Iterator[Engine]:
    """Yields what has Ray Data translate: descriptions of shards are the rows, each worker an actor. Raises UserError
    where Ray is not installed, or no cluster answers."""
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_BACKEND_LOG_LEVEL="fatal", RAY_DATA_DISABLE_PROGRESS_BARS="1")
    try:
        import ray
        import ray.data
    except ImportError:
        raise UserError('--ray: Ray is not installed; pip install "ray[data]"') from None
    package, here = Path(__file__).parents[1], Path.cwd()
    code = {"py_modules": [str(package)], "excludes": ["*.pyc"]}  # workers get this very program
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if host and port.isdigit():
            socket.create_connection((host, int(port)), 10).close()  # Ray itself would try for minutes
        os.chdir(package.parent)  # Ray has its workers import from here first: another `mt` may lie where the user is
        ray.init(address, runtime_env=code, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--ray {address}: no cluster answers ({reason}); start one: ray start --head") from None
    finally:
        os.chdir(here)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        kind = "GPU" if work.options.device == "cuda" else "CPU"
        there = int(ray.cluster_resources().get(kind, 0))
        # Ray 44687: where actors take every processor, tasks of Ray Data that need one wait for ever, without a word.
        count = workers or max(1, there - (kind == "CPU"))
        full = kind == "CPU" and count >= there
        note = "; they take all it knows of: should nothing move, give fewer --processes" if full else ""
        log_line(f"Ray: {count} workers, a {kind} each{note}")
        yield lambda numbers: _ray_results(ray, work, numbers, count, kind, advance)
    finally:
        ray.shutdown()


def _ray_results(
    ray: Any, work: Work, numbers: Sequence[int], count: int, kind: str, advance: Advance
) -> Iterator[Result]:
    rows = ray.data.from_items([{"shard": number} for number in numbers], override_num_blocks=len(numbers))
    pool = ray.data.ActorPoolStrategy(size=min(count, len(numbers)), max_tasks_in_flight_per_actor=1)
    options = {"fn_constructor_args": (work,), "batch_size": 1, "compute": pool, f"num_{kind.lower()}s": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray 2.60 wants to have the limits otherwise, and has no other way yet
        results = rows.map_batches(_Actor, **options, **_LIMITS)
    try:
        for row in results.iter_rows():
            advance(row["lines"])
            yield row
    except ray.exceptions.RayError as error:
        yield no_result(-1, f"Ray: {str(error).strip().splitlines()[-1][:200]}")
