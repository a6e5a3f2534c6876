"""The processes of a run: where they come from, what they tell each other, and that one of them has failed.

`torchrun` starts them, or the run itself: on a processor two processes of one thread each are faster than one of two
threads, as most matrices of a small model are too small to share. But for the order of floating-point sums their number
changes nothing: an update has the same batches, each with its own random numbers, and they deal them out.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any, TypeVar, cast
from uuid import uuid4

import torch
from torch import Tensor, distributed
from torch.distributed import FileStore, PrefixStore, Store  # type: ignore[attr-defined]  # public, not marked so
from torch.distributed.rendezvous import rendezvous

from mt.errors import UserError
from mt.processes import side_processes
from mt.progress import log_line

_COUNT, _NOTICE, _SEEN = "failures", "failure", "failure_heard"  # keys of the store
_POLL, _WAIT, _GRACE = 0.5, 3.0, 5.0  # seconds
_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# A machine that vanishes without closing its connections is given up after so long. Processes of one machine, whose
# end is always noticed, wait as long as it takes.
_PATIENCE = timedelta(minutes=30)

Value = TypeVar("Value")


class Failures:
    """How the processes of a run learn that one of them has failed, so that all end, and one line says why.

    Notices go through the store in which the processes found each other. A process that waits for the others in a
    sum may never return from it (NCCL): a thread beside it watches the store and ends the process then.
    """

    def __init__(self, store: Store, world_size: int, machine: str, tells: bool) -> None:
        """machine: where this process writes its errors; tells: whether it says there what has failed elsewhere."""
        self.store, self.world_size, self.machine, self.tells = store, world_size, machine, tells
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def notify(self, message: str) -> bool:
        """Tells the others why this process ends, and waits a moment until they know. False: another was first."""
        with suppress(RuntimeError):  # the store has gone with its process: everybody is about to end
            if self.store.add(_COUNT, 1) > 1:  # atomic: exactly one process is the first
                return False
            self.store.set(_NOTICE, json.dumps([self.machine, message]))
            deadline = time.monotonic() + _WAIT
            while self.store.add(_SEEN, 0) < self.world_size - 1 and time.monotonic() < deadline:  # get would wait
                time.sleep(0.05)
        return True

    def received(self, patience: float = _WAIT) -> BaseException | None:
        """How this process is to end because another one has failed; None without notice after `patience` seconds."""
        deadline = time.monotonic() + patience
        try:
            while not self.store.check([_NOTICE]):
                if time.monotonic() >= deadline:
                    return None
                time.sleep(0.05)
            machine, message = json.loads(self.store.get(_NOTICE))
            self.store.add(_SEEN, 1)
        except RuntimeError:
            return UserError("the process that holds this run together has ended; give the same command again")
        return UserError(message) if self.tells and machine != self.machine else SystemExit(2)

    def watch(self) -> None:
        """From now on this process ends soon after another one has failed, even while it waits for it."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the watch."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while (ending := self.received(patience=0)) is None:
            if self._stopped.wait(_POLL):
                return
        if not self._stopped.wait(_GRACE):  # else the main thread has noticed by itself
            if isinstance(ending, UserError) and self.tells:
                log_line(f"error: {ending}")
            os._exit(2)  # the main thread may hang in a sum, where no exception reaches it


@dataclass(frozen=True)
class Group:
    """This process's place among the processes of a run."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """rank among the processes of this machine"""
    local_world_size: int = 1
    machine: str = ""
    """a name for this machine where a launcher has started the processes; else empty"""
    failures: Failures | None = None
    """None for a process alone"""

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, rank 0, which saves and reports."""
        return self.rank == 0

    @property
    def under_torchrun(self) -> bool:
        """Whether a launcher has started the processes."""
        return bool(self.machine)

    def all_reduce(self, tensor: Tensor) -> None:
        """Adds up a tensor over all processes, in place. Raises UserError when one of them has ended."""
        if self.world_size > 1:
            with self._others():
                distributed.all_reduce(tensor)

    def broadcast(self, value: Value) -> Value:
        """The main process's value, in every process; anything that can be pickled."""
        if self.world_size == 1:
            return value
        box: list[Value | None] = [value if self.is_main else None]
        with self._others():
            distributed.broadcast_object_list(box, src=0)
        return cast(Value, box[0])

    def gather(self, value: Value) -> list[Value]:
        """The values of all processes by rank, in the main process; nothing in the others."""
        if self.world_size == 1:
            return [value]
        box: list[Any] | None = [None] * self.world_size if self.is_main else None
        with self._others():
            distributed.gather_object(value, box, dst=0)
        return box or []

    def signal(self, name: str) -> None:
        """Lets the processes go on that wait for this name."""
        if self.failures is not None:
            self.failures.store.set(name, "done")

    def wait_for_signal(self, name: str) -> None:
        """Waits, for hours if need be, until a process signals this name, or has failed."""
        while self.failures is not None and not self.failures.store.check([name]):
            if ending := self.failures.received(patience=0):
                raise ending
            time.sleep(0.2)

    @contextmanager
    def _others(self) -> Iterator[None]:
        """When the others cannot be reached: raises the reason that one of them gave, if it could."""
        try:
            yield
        except RuntimeError as error:
            lost = UserError(
                f"a training process has ended ({str(error).splitlines()[0][:200]}); if memory ran out, lower "
                "train.batch_tokens and raise train.accumulate, or set train.activation_checkpointing; then give the "
                "same command again"
            )
            raise (self.failures and self.failures.received()) or lost from None


@contextmanager
def torchrun_group() -> Iterator[Group]:
    """This process's place among those that `torchrun` started; alone where no launcher has set its variables."""
    launched = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()
    # Two agents on one machine, as in a test, count as two machines.
    machine = f"{socket.gethostname()} {os.environ.get('GROUP_RANK', '0')}" if launched else ""
    if not launched or os.environ["WORLD_SIZE"] == "1":
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
    restarts need not rise when another machine comes back. Rank 0 names the attempt anew, the others answer with new
    names of their own, and it confirms what it has heard: only living processes can take part in that.
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
    """Starts `world_size - 1` processes that run `work(group, *arguments)` and end with this one; yields its group."""
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
    """Runs in a further process. Requests to end concern rank 0, which tells the others with the next update."""
    for number in _ENDINGS:
        signal.signal(number, signal.SIG_IGN)
    try:
        with _own_group(rank, world_size, meeting_point) as group:
            work(group, *arguments)
    except UserError:
        os._exit(2)  # rank 0 says so


@contextmanager
def _connected(group: Group, store: Store, backend: str, patience: timedelta) -> Iterator[Group]:
    """Inside the block the processes can reach each other, and a failure of one ends all."""
    # The first process of each machine tells what has failed elsewhere. Without a launcher that is rank 0, whatever
    # happens to the others, so that its exit code and its line belong together.
    failures = Failures(store, group.world_size, group.machine or f"process {group.rank}", group.local_rank == 0)
    group, store, failed = replace(group, failures=failures), PrefixStore("group", store), True
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
    """Ctrl-C, SIGTERM and SIGHUP are noted in the list instead of raised, so that the loop can save at the end of an
    update. SIGHUP that is ignored, as under nohup, stays ignored.

    insistent: a second one raises. A launcher passes on what the terminal sends to all anyway: there it does not.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received and insistent:
            raise KeyboardInterrupt
        received.append(number)

    numbers = [number for number in _ENDINGS if (number, signal.getsignal(number)) != (signal.SIGHUP, signal.SIG_IGN)]
    previous = {number: signal.signal(number, note) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
