from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from mt.decoding.translator import Translator
from mt.decoding.workers import Workers, result
from mt.errors import UserError

WORDS = ["der", "hund", "sieht", "einen", "kleinen", "ball", "und", "die", "frau", "liest", "fluss"]


def lines(count: int) -> list[str]:
    generator = random.Random(4)
    return [" ".join(generator.choices(WORDS, k=generator.randint(0, 9))) for _ in range(count)]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the workers have, so that results are the same to the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_workers() -> Iterator[Callable[..., Workers]]:
    made: list[Workers] = []

    def make(work: Callable[..., Any], processes: int = 2) -> Workers:
        made.append(Workers(work, processes))
        return made[-1]

    yield make
    for workers in made:
        workers.close()


def test_records_are_those_of_one_process(translator: Translator) -> None:
    text = [*lines(320), "hund ball. " * 30, *lines(50)]  # windows that are dealt, and one that is too small
    expected = list(translator.translate(text, window=180, nbest=2, alignments=True))
    dealt = translator.translate(text, window=180, nbest=2, alignments=True, processes=2)
    assert list(dealt) == expected


def test_work_is_done_by_several_processes_of_one_thread(make_workers: Callable[..., Workers]) -> None:
    def work(seconds: float) -> tuple[int, int]:
        time.sleep(seconds)
        return os.getpid(), torch.get_num_threads()

    torch.set_num_threads(2)
    workers = make_workers(work)
    done = [result(future) for future in [workers.submit(0.2) for _ in range(4)]]
    assert len({process for process, _ in done} - {os.getpid()}) == 2
    assert {threads for _, threads in done} == {1}


def test_a_worker_that_is_killed_is_one_clear_error(make_workers: Callable[..., Workers]) -> None:
    workers = make_workers(lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(UserError, match="worker process was killed.*lower --threads"):
        result(workers.submit())
    with pytest.raises(UserError, match="worker process was killed"):
        workers.submit()


def test_an_error_in_a_worker_comes_out_whole(make_workers: Callable[..., Workers]) -> None:
    def work() -> None:
        raise UserError("the file is broken; restore it")

    with pytest.raises(UserError, match="^the file is broken; restore it$"):
        result(make_workers(work).submit())


def test_reads_no_further_than_the_workers_can_take(translator: Translator) -> None:
    read = 0

    def text() -> Iterator[str]:
        nonlocal read
        for line in lines(3000):
            read += 1
            yield line

    records = translator.translate(text(), window=120, processes=2, beam=1)
    next(records)
    assert 120 < read <= 720  # some windows ahead: at least one, and no more than two pieces of work a process
    records.close()  # type: ignore[attr-defined]


def test_workers_end_with_a_parent_that_is_killed() -> None:
    code = (
        "import os, time\nfrom mt.decoding.workers import Workers\n"
        "def work():\n    print(os.getpid(), flush=True)\n    time.sleep(60)\n"
        "Workers(work, 1).submit()\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
    for _ in range(200):
        if not alive(worker):
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived its parent")


def alive(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
