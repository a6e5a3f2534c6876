"""Worker processes: single-threaded copies of a translator, for windows of lines that are worth several."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from mt.errors import UserError
from mt.processes import keep_freed_memory, serve_parent

Result = TypeVar("Result")

_work: Callable[..., Any]  # in a worker: what it does


class Workers:
    """Processes that all do the same work on whatever they are given; whichever is free takes the next piece.

    On Linux they are forked, so that they share the model's memory; elsewhere it is sent to each of them once.
    They end with the process that made them, however that ends.
    """

    def __init__(self, work: Callable[..., Result], processes: int) -> None:
        """Starts them at the first piece of work. `work` must not need a GPU."""
        self.processes = processes
        self._pool = ProcessPoolExecutor(
            processes,
            multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn"),
            initializer=_begin,
            initargs=(work,),
        )
        self._unfinished: set[Future[Any]] = set()

    def submit(self, *arguments: Any) -> Future[Any]:
        """Has a worker call the work with these arguments."""
        self._unfinished = {future for future in self._unfinished if not future.done()}
        try:
            future = self._pool.submit(_call, *arguments)
        except BrokenProcessPool:
            raise _lost() from None
        self._unfinished.add(future)
        return future

    def hungry(self) -> bool:
        """Whether fewer than two pieces of work a process are waiting or under way."""
        return sum(not future.done() for future in self._unfinished) < 2 * self.processes

    def close(self) -> None:
        """Ends the workers; what has not begun is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def result(future: Future[Result]) -> Result:
    """Waits for a piece of work. Raises what it raised, and UserError when its worker is gone."""
    try:
        return future.result()
    except BrokenProcessPool:
        raise _lost() from None


def _lost() -> UserError:
    return UserError(
        "a worker process was killed, perhaps for want of memory; lower --threads or --batch_tokens and run it again"
    )


def _begin(work: Callable[..., Any]) -> None:
    import torch

    global _work
    _work = work
    torch.set_num_threads(1)
    serve_parent()
    keep_freed_memory()


def _call(*arguments: Any) -> Any:
    return _work(*arguments)
