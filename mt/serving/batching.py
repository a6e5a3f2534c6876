"""Requests that arrive together go through the model together."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from itertools import groupby, islice
from typing import Any, NamedTuple

from mt.serving.protocol import Refused

Records = list[dict[str, Any]]


class _Job(NamedTuple):
    lines: list[str]
    nbest: int
    arrived: float
    result: Future[Records]


class Batcher:
    """One thread that owns the model, and the queue before it.

    Requests that arrive within `seconds` of the first, or while the model works, are translated together: as many as
    hold `most_lines` lines, but at least one. Those that want another number of translations are a search of their own.
    """

    def __init__(
        self,
        translate: Callable[[list[str], int], Records],
        most_waiting: int,
        most_lines: int = 128,
        seconds: float = 0.01,
    ) -> None:
        """Starts the thread. `translate`: of lines, and how many translations of each are wanted, their records."""
        self._translate, self._most_waiting, self._most_lines = translate, most_waiting, most_lines
        self._seconds, self._closed = seconds, False
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def submit(self, lines: list[str], nbest: int) -> Future[Records]:
        """The records of these lines, to be waited for; what is cancelled in time is not translated. Raises Refused
        where too many wait, or after `close`."""
        with self._changed:
            if self._closed:
                raise Refused(503, "the server is ending")
            if len(self._waiting) >= self._most_waiting:
                self._waiting = deque(job for job in self._waiting if not job.result.cancelled())
                if len(self._waiting) >= self._most_waiting:
                    again = {"Retry-After": "1"}
                    raise Refused(429, "too many requests are waiting; try again in a second", **again)
            self._waiting.append(_Job(lines, nbest, time.monotonic(), Future()))
            self._changed.notify()
            return self._waiting[-1].result

    def close(self) -> None:
        """Takes no more requests, and returns when those that wait are translated."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while jobs := self._next():
            live = [job for job in jobs if job.result.set_running_or_notify_cancel()]
            for nbest, group in groupby(sorted(live, key=lambda job: job.nbest), key=lambda job: job.nbest):
                self._translate_together([*group], nbest)

    def _next(self) -> list[_Job]:
        """The requests of the next batch, waited for; none once all is done and the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._waiting:
                left = self._waiting[0].arrived + self._seconds - time.monotonic()
                self._changed.wait_for(lambda: self._closed or self._full(), left)
            jobs: list[_Job] = []
            left_lines = self._most_lines
            while self._waiting and (not jobs or len(self._waiting[0].lines) <= left_lines):
                jobs.append(self._waiting.popleft())
                left_lines -= len(jobs[-1].lines)
            return jobs

    def _full(self) -> bool:
        return sum(len(job.lines) for job in self._waiting) >= self._most_lines

    def _translate_together(self, jobs: list[_Job], nbest: int) -> None:
        try:
            records = iter(self._translate([line for job in jobs for line in job.lines], nbest))
            found = [[*islice(records, len(job.lines))] for job in jobs]
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].result.set_exception(error)
            else:  # what is wrong with one request is no matter of the others
                for job in jobs:
                    self._translate_together([job], nbest)
        else:
            for job, each in zip(jobs, found):
                job.result.set_result(each)
