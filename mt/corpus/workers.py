"""Work on the pieces of a corpus in several processes, with results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from mt.errors import UserError
from mt.processes import serve_parent

Item = TypeVar("Item")
Result = TypeVar("Result")


class WorkerKilled(UserError):
    """A process that worked on a piece was killed; what others have finished is good."""


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, processes: int, alone: int
) -> Iterator[Result]:
    """`map`, with the work shared by processes. The results do not depend on how many there are.

    No more than two items for each process are under way, so that neither items nor results pile up.

    Args:
        function: of a module, or a `functools.partial` of one.
        items: what it is called with; each must be able to travel to another process.
        processes: how many work. 1: this one alone.
        alone: so many items are done in this process before others are started, which takes a second.

    Raises:
        WorkerKilled: a process was killed, for example because memory ran out.
        Exception: whatever `function` raises.
    """
    waiting: deque[Future[Result]] = deque()
    pool: ProcessPoolExecutor | None = None
    try:
        for number, item in enumerate(items):
            if processes == 1 or number < alone:
                yield function(item)
                continue
            if pool is None:
                pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=serve_parent)
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise WorkerKilled(
            "data: a process of the preparation was killed; free memory if it ran out, and give the same command again"
        ) from None
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)
