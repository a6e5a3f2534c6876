"""Processes: what they ask of the system, pools that share work, side processes.

Whatever is started here leaves Ctrl-C to its parent and ends soon after the parent, however that ends.
"""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import os
import platform
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from itertools import islice
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, Literal, TypeVar

from mt.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

_MALLOC_OPTIONS = {-4: 0, -1: 2**31 - 1, -2: 1 << 28}  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD of malloc.h
_POLL_SECONDS = 0.5  # how often a process looks whether its parent is still there

_work: Callable[..., Any]  # in a process of a pool: what it does


class WorkerKilled(UserError):
    """A process of a pool was killed; what others have finished is good."""


def available_cores() -> int:
    """Processor cores that this process may use: those it is bound to, or fewer where its control group, such as a
    container, has a quota of their time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _quota())))


def _quota(system: Path = Path("/")) -> float:
    """Processors' worth of time that the control group of this process and those around it leave it, versions 2 and 1;
    infinity where there is no limit."""
    quotas = [math.inf]
    with suppress(OSError, ValueError):
        for line in (system / "proc/self/cgroup").read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            top = system / "sys/fs/cgroup" / ("cpu" if controllers else "")
            # In a container the path may be the one outside, and the group's files lie at the top.
            for folder in {top, *(top / part for part in (Path(group.lstrip("/")), *Path(group.lstrip("/")).parents))}:
                names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
                with suppress(OSError, ValueError):
                    quota, period = " ".join((folder / name).read_text() for name in names).split()
                    if quota not in ("max", "-1"):
                        quotas.append(int(quota) / int(period))
    return min(quotas)


def keep_freed_memory() -> bool:
    """Lets the process keep what tensors give back, where the C library is glibc; whether it is.

    By default glibc maps every large tensor anew and unmaps it when it is freed; on a processor the page faults of a
    training step then cost about as much as its arithmetic on the vocabulary, those of a search a tenth of its time.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    for option, value in _MALLOC_OPTIONS.items():
        library.mallopt(option, value)
    return True


def _serve_parent() -> None:
    """In a process of `multiprocessing`: leaves Ctrl-C to its parent, and ends when the parent has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "nobody to serve"

    def end_with_parent() -> None:
        while os.getppid() == parent.pid:
            time.sleep(_POLL_SECONDS)
        os._exit(1)  # sys.exit would end this thread alone

    threading.Thread(target=end_with_parent, daemon=True).start()


class WorkerPool:
    """Processes of one thread each that all do the same work; whichever is free takes the next piece.

    They start with the first piece. "fork" shares the memory of this process, such as a model, and takes any function,
    but no GPU; "spawn", which it becomes where there is no Linux, sends the work to each process once.
    """

    def __init__(self, work: Callable[..., Any], processes: int, start_method: Literal["fork", "spawn"]) -> None:
        self._processes = processes
        context = multiprocessing.get_context(start_method if sys.platform == "linux" else "spawn")
        self._pool = ProcessPoolExecutor(processes, context, _begin, (work,))
        self._unfinished: list[Future[Any]] = []

    def submit(self, *arguments: Any) -> Future[Any]:
        """Has a process call the work with these arguments."""
        with _watched():
            future = self._pool.submit(_call, *arguments)
        self._unfinished = [each for each in (*self._unfinished, future) if not each.done()]
        return future

    def result(self, future: Future[Any]) -> Any:
        """Waits for a piece of work. Raises what the work raised, or WorkerKilled."""
        with _watched():
            return future.result()

    def has_capacity(self) -> bool:
        """Whether fewer than two pieces of work for each process are waiting or under way."""
        return sum(not future.done() for future in self._unfinished) < 2 * self._processes

    def close(self) -> None:
        """Ends the processes; work that has not begun is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _watched() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:
        raise WorkerKilled("a worker process was killed, perhaps for want of memory; use fewer --threads") from None


def _begin(work: Callable[..., Any]) -> None:
    global _work
    _work = work
    _serve_parent()
    # To import torch takes longer than much of the work; work that needs it has brought it.
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)
        keep_freed_memory()


def _call(*arguments: Any) -> Any:
    return _work(*arguments)


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, processes: int, alone: int
) -> Iterator[Result]:
    """`map`, with the work shared by processes; the results do not depend on how many there are.

    No more than two items for each process are under way, so that neither items nor results pile up. The function, of a
    module, and the items travel to the processes; `alone`: so many items are done in this process before others are
    started, which takes a second. Raises what the function raises, or WorkerKilled.
    """
    items = iter(items)
    yield from map(function, islice(items, alone if processes > 1 else None))
    if processes == 1:
        return
    waiting: deque[Future[Result]] = deque()
    with closing(WorkerPool(function, processes, "spawn")) as pool:
        for item in items:
            waiting.append(pool.submit(item))
            if len(waiting) > 2 * processes:
                yield pool.result(waiting.popleft())
        while waiting:
            yield pool.result(waiting.popleft())


def start_process(target: Callable[..., None], *arguments: Any, daemon: bool = False) -> SpawnProcess:
    """Starts a process that runs `target(*arguments)`; a daemon ends when this process exits, and starts no others."""
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(target, *arguments), daemon=daemon)
    process.start()
    return process


@contextmanager
def side_processes(target: Callable[..., None], arguments_of_each: Iterable[tuple[Any, ...]]) -> Iterator[list[Any]]:
    """Runs `target(*arguments)` in a process for each tuple of arguments; kills those that are left at the end."""
    processes: list[SpawnProcess] = []
    try:
        processes.extend(start_process(target, *arguments) for arguments in arguments_of_each)
        yield processes
    finally:
        for process in processes:
            process.kill()


def _serve(target: Callable[..., None], *arguments: Any) -> None:
    _serve_parent()
    target(*arguments)
