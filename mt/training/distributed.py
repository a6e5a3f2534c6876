"""What the processes of a run tell each other: sums, values, signals, and that one of them has failed.

What is computed does not depend on the number of processes, but for the order of floating-point sums: an update
always consists of the same batches, each with its own random numbers, and the processes deal them out.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, distributed, nn
from torch.distributed import Store  # type: ignore[attr-defined]  # public, but not marked as exported

from mt.errors import UserError

FIGURES = ("tokens", "loss", "nll", "correct", "slots", "filled", "interruptions")
"""what is summed over processes beside the gradients"""

_COUNT, _NOTICE, _SEEN = "failures", "failure", "failure_heard"  # keys of the store
_POLL, _PATIENCE, _GRACE = 0.5, 3.0, 5.0  # seconds

Value = TypeVar("Value")


class Failures:
    """How the processes of a run learn that one of them has failed, so that all end, and one line says why.

    Notices go through the store in which the processes found each other. A process that waits for the others in a
    sum may never return from it (NCCL): a thread beside it watches the store and ends the process then.
    """

    def __init__(self, store: Store, world_size: int, machine: str, tells: bool) -> None:
        """machine: name of the console that this process writes to; tells: whether it says there what has happened
        elsewhere."""
        self.store, self.world_size, self.machine, self.tells = store, world_size, machine, tells
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def notify(self, message: str) -> bool:
        """Tells the others why this process ends, and waits a moment until they know. False: another was first."""
        try:
            if self.store.add(_COUNT, 1) > 1:
                return False
            self.store.set(_NOTICE, json.dumps([self.machine, message]))
            deadline = time.monotonic() + _PATIENCE
            while self.store.add(_SEEN, 0) < self.world_size - 1 and time.monotonic() < deadline:
                time.sleep(0.05)
        except RuntimeError:  # the store has gone with its process: everybody is about to end
            pass
        return True

    def received(self, patience: float = _PATIENCE) -> BaseException | None:
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
        ending = None
        while ending is None:
            if self._stopped.wait(_POLL):
                return
            ending = self.received(patience=0)
        if not self._stopped.wait(_GRACE):  # else the main thread has noticed by itself
            if isinstance(ending, UserError) and self.tells:
                print(f"error: {ending}", file=sys.stderr, flush=True)
            os._exit(2)


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
    """how a failure is passed on; None for a process alone"""

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
        box: list[Any] = [value if self.is_main else None]
        with self._others():
            distributed.broadcast_object_list(box, src=0)
        received: Value = box[0]
        return received

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
            ending = self.failures.received(patience=0)
            if ending is not None:
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


class Gradients:
    """All gradients in one flat buffer, so that one sum over processes and one norm serve for all parameters."""

    def __init__(self, model: nn.Module, group: Group) -> None:
        parameters = list(model.parameters())
        self.group = group
        size = sum(parameter.numel() for parameter in parameters)
        self.buffer = parameters[0].new_zeros(size + len(FIGURES))
        self.flat, self.figures = self.buffer[:size], self.buffer[size:]
        start = 0
        for parameter in parameters:
            parameter.grad = self.flat[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()

    def clear(self) -> None:
        """Sets gradients and figures to 0; the next backward passes add to them."""
        self.buffer.zero_()

    def count(self, **figures: float | Tensor) -> None:
        """Adds to the figures of this update, named as in `FIGURES`."""
        for name, value in figures.items():
            self.figures[FIGURES.index(name)] += value

    def reduce(self) -> dict[str, Tensor]:
        """Sums over all processes and divides the gradients, once, by the tokens of the whole update.

        Returns:
            The figures by name, float64.
        """
        self.group.all_reduce(self.buffer)
        self.flat /= self.figures[FIGURES.index("tokens")]
        return dict(zip(FIGURES, self.figures.double().unbind()))

    def clip(self, largest: float) -> Tensor:
        """Scales the gradients down to norm `largest` (0: leaves them); returns the norm before."""
        norm = self.flat.norm()
        if largest > 0:
            self.flat *= (largest / (norm + 1e-6)).clamp(max=1.0)
        return norm
