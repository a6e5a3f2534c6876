"""Requests that arrive together go through the model together."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any

Records = list[dict[str, Any]]
Translate = Callable[[list[str], int], Records]
"""lines and how many different translations of each are wanted -> a record for each line"""


class Busy(Exception):
    """As many requests as may wait are waiting."""


class Closed(Exception):
    """No more requests are taken."""


@dataclass
class _Job:
    lines: list[str]
    nbest: int
    arrived: float = field(default_factory=time.monotonic)
    result: Future[Records] = field(default_factory=Future)


class Batcher:
    """One thread that owns the model, and the queue before it.

    Requests that arrive within `seconds` of the first, or while the model works, are translated together: as many as
    hold `most_lines` lines, but at least one. Those that want another number of translations are a search of their own.
    """

    def __init__(
        self, translate: Translate, most_waiting: int = 100, most_lines: int = 128, seconds: float = 0.01
    ) -> None:
        self._translate, self._most_waiting, self._most_lines = translate, most_waiting, most_lines
        self._seconds = seconds
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="translate", daemon=True)
        self._thread.start()

    def submit(self, lines: list[str], nbest: int) -> Future[Records]:
        """The records of these lines, to be waited for; one that is cancelled in time is not translated. Raises Busy, or
        Closed."""
        job = _Job(lines, nbest)
        with self._changed:
            if self._closed:
                raise Closed
            if len(self._waiting) >= self._most_waiting:
                self._waiting = deque(each for each in self._waiting if not each.result.cancelled())
            if len(self._waiting) >= self._most_waiting:
                raise Busy
            self._waiting.append(job)
            self._changed.notify()
        return job.result

    def close(self) -> None:
        """Takes no more requests, and returns when those that wait are translated."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while jobs := self._next():
            jobs = [job for job in jobs if job.result.set_running_or_notify_cancel()]
            jobs.sort(key=lambda job: job.nbest)
            for nbest, group in groupby(jobs, key=lambda job: job.nbest):
                self._translate_together([*group], nbest)

    def _next(self) -> list[_Job]:
        """The requests of the next batch, waited for; none once all is done and the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            while self._waiting and not self._closed and self._fitting() == len(self._waiting):
                left = self._waiting[0].arrived + self._seconds - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            return [self._waiting.popleft() for _ in range(self._fitting())]

    def _fitting(self) -> int:
        """How many of those that wait, from the first, are a batch."""
        lines = fitting = 0
        for job in self._waiting:
            lines += len(job.lines)
            if fitting and lines > self._most_lines:
                break
            fitting += 1
        return fitting

    def _translate_together(self, jobs: list[_Job], nbest: int) -> None:
        try:
            records = iter(self._translate([line for job in jobs for line in job.lines], nbest))
            found = [list(islice(records, len(job.lines))) for job in jobs]
        except Exception as error:
            if len(jobs) > 1:  # what is wrong with one request is no matter of the others
                for job in jobs:
                    self._translate_together([job], nbest)
            else:
                jobs[0].result.set_exception(error)
        else:
            for job, each in zip(jobs, found):
                job.result.set_result(each)
