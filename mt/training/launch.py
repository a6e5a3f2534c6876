"""Where the processes of a run come from, and how they stop: started by `torchrun`, or by the run itself.

On a processor two processes of one thread each are faster than one process of two threads: most matrices of a small
model are too small to share. A run that is alone there starts its own.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any
from uuid import uuid4

import torch
from torch import distributed
from torch.distributed import FileStore, PrefixStore, Store  # type: ignore[attr-defined]  # public, not marked so
from torch.distributed.rendezvous import rendezvous

from mt.errors import UserError
from mt.processes import side_processes
from mt.training.distributed import Failures, Group

# A machine that vanishes without closing its connections is given up after so long. Processes of one machine, whose
# end is always noticed, wait as long as it takes.
_PATIENCE = timedelta(minutes=30)


@contextmanager
def torchrun_group() -> Iterator[Group]:
    """This process's place among those that `torchrun` started; alone where no launcher has set its variables."""
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        yield Group()
        return
    # Two agents on one machine, as in a test, count as two machines.
    machine = f"{socket.gethostname()} {os.environ.get('GROUP_RANK', '0')}"
    if os.environ["WORLD_SIZE"] == "1":
        yield Group(machine=machine)
        return
    store, rank, world_size = next(rendezvous("env://", timeout=_PATIENCE))
    local_rank, local_world_size = (int(os.environ.get(f"LOCAL_{name}", "0")) for name in ("RANK", "WORLD_SIZE"))
    group = Group(rank, world_size, local_rank, max(1, local_world_size), machine)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with _connected(group, _of_this_attempt(store, rank, world_size), backend, _PATIENCE) as group:
        yield group


def _of_this_attempt(store: Store, rank: int, world_size: int) -> Store:
    """A part of the store that no earlier attempt has written into.

    `torchrun` begins again with the same store after a failure, and old addresses in it lead nowhere; its count of
    restarts need not rise when another machine comes back. Rank 0 gives the attempt a new name, the others answer to
    it with new names of their own, and it confirms what it has heard: only living processes can take part in that.
    """
    own, deadline = uuid4().hex, time.monotonic() + _PATIENCE.total_seconds()
    if rank == 0:
        store.set("attempt", own)
    while time.monotonic() < deadline:
        if rank == 0:
            answers = [store.get(f"answer {r}").decode() for r in range(1, world_size) if store.check([f"answer {r}"])]
            if sum(answer.startswith(own) for answer in answers) == world_size - 1:
                store.set("confirmed", " ".join([own, *answers]))
                return PrefixStore(own, store)
        elif store.check(["attempt"]):
            store.set(f"answer {rank}", f"{store.get('attempt').decode()}-{own}")
            confirmed = store.get("confirmed").decode() if store.check(["confirmed"]) else ""
            if own in confirmed:
                return PrefixStore(confirmed.split()[0], store)
        time.sleep(0.05)
    raise UserError(f"process {rank} of {world_size} has waited {_PATIENCE} for the others; start all of them")


@contextmanager
def own_processes(world_size: int, work: Callable[..., None], *arguments: Any) -> Iterator[Group]:
    """Starts `world_size - 1` further processes that run `work(group, *arguments)`; yields the place of this one.

    They end with this process, however it ends.
    """
    if world_size == 1:
        yield Group()
        return
    # The processes of one machine need no other interface than its loopback.
    names = [name for _, name in socket.if_nameindex()]
    os.environ.setdefault("GLOO_SOCKET_IFNAME", next((name for name in ("lo", "lo0") if name in names), names[0]))
    with TemporaryDirectory() as folder:
        meeting_point = str(Path(folder) / "meeting_point")
        each = [(rank, world_size, meeting_point, work, arguments) for rank in range(1, world_size)]
        with side_processes(_work_in_group, each) as others:
            with _own_group(0, world_size, meeting_point) as group:
                yield group
            for process in others:
                process.join(timeout=60)


def _own_group(rank: int, world_size: int, meeting_point: str) -> AbstractContextManager[Group]:
    store = FileStore(meeting_point, world_size)
    return _connected(Group(rank, world_size, rank, world_size), store, "gloo", timedelta(days=7))


def _work_in_group(
    rank: int, world_size: int, meeting_point: str, work: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    """Runs in a further process. Ctrl-C and SIGTERM concern rank 0, which tells the others with the next update."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with _own_group(rank, world_size, meeting_point) as group:
            work(group, *arguments)
    except UserError:
        os._exit(2)  # rank 0 says so


@contextmanager
def _connected(group: Group, store: Store, backend: str, patience: timedelta) -> Iterator[Group]:
    """Inside the block the processes can reach each other, and a failure of one ends all.

    The first process of each machine tells what has failed elsewhere. Without a launcher that is rank 0, whatever
    happens to the others, so that its exit code and its line belong together.
    """
    name = group.machine or f"process {group.rank}"
    failures = Failures(store, group.world_size, name, tells=group.local_rank == 0)
    group, failed = replace(group, failures=failures), True
    store = PrefixStore("group", store)
    try:
        try:
            distributed.init_process_group(
                backend, store=store, timeout=patience, rank=group.rank, world_size=group.world_size
            )
        except RuntimeError as error:
            raise UserError(
                f"process {group.rank} cannot reach the others ({str(error).splitlines()[0][:200]}); name the network "
                "interface between the machines in GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME, and open its ports"
            ) from None
        failures.watch()
        yield group
        group.broadcast(None)  # a barrier: the store goes with the first of them
        failed = False
    except UserError as error:
        if failures.notify(str(error)):
            raise
        raise failures.received() or error from None
    except Exception as error:
        failures.notify(f"a training process has failed: {type(error).__name__}: {error}")
        raise
    finally:
        # NCCL would wait here for the failed process; the watch stays to end this one in any case.
        if not failed or backend == "gloo":
            failures.stop()
            if distributed.is_initialized():
                distributed.destroy_process_group()


@contextmanager
def interruptible(insistent: bool) -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM are noted in the list instead of raised, so that the loop can save at the end of an update.

    insistent: a second one raises. A launcher passes on what the terminal sends to all anyway: there it does not.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received and insistent:
            raise KeyboardInterrupt
        received.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
