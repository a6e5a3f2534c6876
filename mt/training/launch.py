"""Where the processes of a run come from: started by `torchrun`, on one machine or several, or by the run itself.

On a processor two processes of one thread each are faster than one process of two threads: most matrices of a small
model are too small to share. A run that is alone there starts its own.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import torch
from torch import distributed
from torch._C._distributed_c10d import FileStore, PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from mt.errors import UserError
from mt.processes import serve_parent
from mt.training.alarm import Alarm
from mt.training.parallel import Group

_PATIENCE = timedelta(minutes=30)
"""a machine that vanishes without closing its connections is given up after so long; processes of one machine, whose
end is always noticed, wait as long as it takes"""


@contextmanager
def launched_group() -> Iterator[Group]:
    """This process's place among those that `torchrun` started; alone where no launcher has set its variables."""
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        yield Group()
        return
    # Two agents on one machine, as in a test, count as two machines.
    machine = f"{socket.gethostname()} {os.environ.get('GROUP_RANK', '0')}"
    if os.environ["WORLD_SIZE"] == "1":
        yield Group(machine=machine)
        return
    found, rank, world = next(rendezvous("env://", timeout=_PATIENCE))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    found = _of_this_attempt(found, rank, world)
    group = Group(
        rank,
        world,
        local_rank=local_rank,
        local_world=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        machine=machine,
        alarm=Alarm(found, world, machine, speaks=local_rank == 0),
    )
    with _together(group, found, "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", _PATIENCE):
        yield group


def _of_this_attempt(store: Store, rank: int, world: int) -> Store:
    """A part of the store that no earlier attempt has written into.

    `torchrun` begins again with the same store after a failure, and old addresses in it lead nowhere. The leader gives
    the attempt a new name, the others answer to it with new names of their own, and it confirms what it has heard:
    only processes that are alive now can take part in that.
    """
    own, deadline = uuid4().hex, time.monotonic() + _PATIENCE.total_seconds()
    if rank == 0:
        store.set("attempt", own)
    while time.monotonic() < deadline:
        if rank == 0:
            answers = [store.get(f"answer {r}").decode() for r in range(1, world) if store.check([f"answer {r}"])]
            if sum(answer.startswith(own) for answer in answers) == world - 1:
                store.set("confirmed", " ".join([own, *answers]))
                return PrefixStore(own, store)
        elif store.check(["attempt"]):
            store.set(f"answer {rank}", f"{store.get('attempt').decode()}-{own}")
            confirmed = store.get("confirmed").decode() if store.check(["confirmed"]) else ""
            if own in confirmed:
                return PrefixStore(confirmed.split()[0], store)
        time.sleep(0.05)
    raise UserError(f"process {rank} of {world} has waited {_PATIENCE} for the others; start all of them")


@contextmanager
def own_processes(world: int, work: Callable[..., None], *arguments: Any) -> Iterator[Group]:
    """Starts `world - 1` further processes that run `work(group, *arguments)`; yields this process's place, rank 0.

    They end with this process, however it ends.
    """
    if world == 1:
        yield Group()
        return
    os.environ.setdefault("GLOO_SOCKET_IFNAME", _loopback())
    context = get_context("spawn")
    with TemporaryDirectory() as folder:
        meeting_point = str(Path(folder) / "meeting_point")
        others = [
            context.Process(target=_start, args=(rank, world, meeting_point, work, arguments), daemon=True)
            for rank in range(1, world)
        ]
        for process in others:
            process.start()
        try:
            with _own_group(0, world, meeting_point) as group:
                yield group
            for process in others:
                process.join(timeout=60)
        finally:
            for process in others:
                process.kill()


@contextmanager
def _own_group(rank: int, world: int, meeting_point: str) -> Iterator[Group]:
    store = FileStore(meeting_point, world)
    # What happens to any of them is the leader's to tell, so that its exit code and its line belong together.
    alarm = Alarm(store, world, "" if rank == 0 else f"process {rank}", speaks=rank == 0)
    group = Group(rank, world, local_rank=rank, local_world=world, alarm=alarm)
    with _together(group, store, "gloo", timedelta(days=7)):
        yield group


def _start(rank: int, world: int, meeting_point: str, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Runs in a further process. Ctrl-C is the leader's business: it tells the others with the next update."""
    serve_parent()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with _own_group(rank, world, meeting_point) as group:
            work(group, *arguments)
    except UserError:
        os._exit(2)  # the leader says so


@contextmanager
def _together(group: Group, store: Store, backend: str, patience: timedelta) -> Iterator[None]:
    """Inside the block the processes can reach each other, and a failure of one ends all."""
    alarm = group.alarm
    assert alarm is not None
    failed = True
    try:
        _connect(group, store, backend, patience)
        alarm.watch()
        yield
        group.share(None)  # the store goes with the first of them
        failed = False
    except UserError as error:
        if alarm.sound(str(error)):
            raise
        raise alarm.heard() or error from None
    except Exception as error:
        alarm.sound(f"a training process has failed: {type(error).__name__}: {error}")
        raise
    finally:
        # NCCL would wait here for the failed process; the alarm stays to end this one in any case.
        if not failed or backend == "gloo":
            alarm.stop()
            if distributed.is_initialized():
                distributed.destroy_process_group()


def _connect(group: Group, store: Store, backend: str, patience: timedelta) -> None:
    try:
        distributed.init_process_group(
            backend, store=PrefixStore("group", store), rank=group.rank, world_size=group.world, timeout=patience
        )
    except RuntimeError as error:
        raise UserError(
            f"process {group.rank} cannot reach the others ({str(error).splitlines()[0][:200]}); name the network "
            "interface between the machines in GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME, and open its ports"
        ) from None


def _loopback() -> str:
    """Name of the loopback interface: the processes of one machine need no other."""
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in ("lo", "lo0") if name in names), names[0])
