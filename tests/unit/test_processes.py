"""Pools of processes and side processes: the results of one process, one clear error, nothing left behind."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mt.errors import UserError
from mt.processes import WorkerKilled, WorkerPool, _quota, available_cores, ordered_map, side_processes


@pytest.fixture
def make_pool() -> Iterator[Callable[..., WorkerPool]]:
    made: list[WorkerPool] = []

    def make(work: Callable[..., Any], processes: int = 2) -> WorkerPool:
        made.append(WorkerPool(work, processes, "fork"))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


def test_work_is_done_by_several_processes_of_one_thread(make_pool: Callable[..., WorkerPool]) -> None:
    import torch  # here, so that the processes of other tests need not import it

    def work(seconds: float) -> tuple[int, int]:
        time.sleep(seconds)
        return os.getpid(), torch.get_num_threads()

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    pool = make_pool(work)
    done = [pool.result(future) for future in [pool.submit(0.2) for _ in range(4)]]
    torch.set_num_threads(threads)
    assert len({process for process, _ in done} - {os.getpid()}) == 2
    assert {threads for _, threads in done} == {1}


def test_a_pool_has_capacity_below_two_pieces_of_work_a_process(make_pool: Callable[..., WorkerPool]) -> None:
    pool = make_pool(time.sleep)
    capacity = []
    futures = []
    for _ in range(5):
        capacity.append(pool.has_capacity())
        futures.append(pool.submit(0.3))
    assert capacity == [True, True, True, True, False]
    for future in futures:
        pool.result(future)
    assert pool.has_capacity()


def test_a_worker_that_is_killed_is_one_clear_error(make_pool: Callable[..., WorkerPool]) -> None:
    pool = make_pool(lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(WorkerKilled, match="worker process was killed.*fewer --threads"):
        pool.result(pool.submit())
    with pytest.raises(WorkerKilled, match="worker process was killed"):
        pool.submit()


def test_an_error_in_a_worker_comes_out_whole(make_pool: Callable[..., WorkerPool]) -> None:
    def work() -> None:
        raise UserError("the file is broken; restore it")

    pool = make_pool(work)
    with pytest.raises(UserError, match="^the file is broken; restore it$"):
        pool.result(pool.submit())


def place(item: int) -> tuple[int, int]:
    return item * item, os.getpid()


@pytest.mark.parametrize(("processes", "alone", "others"), [(1, 0, 0), (2, 3, 17), (2, 0, 20), (2, 30, 0)])
def test_a_shared_map_keeps_the_order_and_begins_alone(processes: int, alone: int, others: int) -> None:
    results = list(ordered_map(place, range(20), processes=processes, alone=alone))
    assert [square for square, _ in results] == [item * item for item in range(20)]
    assert sum(process != os.getpid() for _, process in results) == others
    assert all(process == os.getpid() for _, process in results[: 20 - others])


def test_a_shared_map_reads_no_further_than_two_items_a_process() -> None:
    read = 0

    def items() -> Iterator[int]:
        nonlocal read
        for item in range(1000):
            read += 1
            yield item

    results = ordered_map(place, items(), processes=2, alone=0)
    next(results)
    assert read == 5
    results.close()  # type: ignore[attr-defined]


def die(item: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_of_a_map_that_is_killed_is_one_clear_error() -> None:
    with pytest.raises(WorkerKilled, match="was killed, .*; use fewer --threads"):
        list(ordered_map(die, range(3), processes=2, alone=0))


def leave_mark(folder: Path, number: int) -> None:
    (folder / f"{number}").write_text(str(os.getpid()))
    time.sleep(60)


def test_side_processes_run_beside_the_block_and_end_with_it(tmp_path: Path) -> None:
    with side_processes(leave_mark, [(tmp_path, 0), (tmp_path, 1)]) as processes:
        wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
        assert all(process.is_alive() for process in processes)
    wait_for(lambda: not any(process.is_alive() for process in processes))


@pytest.mark.parametrize(
    "start",
    [
        "WorkerPool(work, 1, 'fork').submit()",
        "start_process(work, daemon=True)",
        "(context := side_processes(work, [()])).__enter__(), context",
    ],
)
def test_a_started_process_ends_with_a_parent_that_is_killed(tmp_path: Path, start: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import os, time\nfrom mt.processes import WorkerPool, side_processes, start_process\n"
        "def work():\n    print(os.getpid(), flush=True)\n    time.sleep(60)\n"
        f"if __name__ == '__main__':\n    started = {start}\n    time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    with subprocess.Popen([sys.executable, program], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
    wait_for(lambda: not alive(worker))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2.0),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, math.inf),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "50000 100000\n"}, 0.5),  # of the group around
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/cpu.max": "300000 100000\n",
                "sys/fs/cgroup/a/b/cpu.max": "150000 100000\n",
            },
            1.5,
        ),
        ({"proc/self/cgroup": "0::/docker/of/the/host\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1.0),
        (
            {
                "proc/self/cgroup": "5:memory:/x\n3:cpu,cpuacct:/docker/x\n",
                "sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us": "400000\n",
                "sys/fs/cgroup/cpu/docker/x/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            4.0,
        ),
        ({"proc/self/cgroup": "0::/\n"}, math.inf),
        ({"proc/self/cgroup": "what\n"}, math.inf),
        ({}, math.inf),
    ],
)
def test_the_quota_of_a_control_group_is_its_own_or_that_around_it(
    files: dict[str, str], quota: float, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert _quota(tmp_path) == quota


@pytest.mark.parametrize(("quota", "cores"), [(math.inf, 8), (2.5, 3), (0.1, 1), (100.0, 8)])
def test_the_cores_are_those_of_the_quota(quota: float, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr("mt.processes._quota", lambda: quota)
    assert available_cores() == cores
