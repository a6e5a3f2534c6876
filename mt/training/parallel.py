"""Processes that train one model together, each on its share of an update's batches.

On a processor, two processes of one thread each are faster than one process of two threads: most matrices of a
small model are too small to share. What is computed does not depend on the number of processes, but for the order
of floating-point sums: an update always consists of the same batches, each with its own random numbers.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, distributed, nn

from mt.errors import UserError

FIGURES = ("tokens", "loss", "nll", "correct", "slots", "filled", "interruptions")
"""what is summed over processes beside the gradients"""


class Group:
    """This process's place among the processes of a run."""

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank = rank
        self.world = world

    @property
    def leads(self) -> bool:
        """Whether this is the process that validates, saves and reports."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> None:
        """Adds up a tensor over all processes, in place. Raises UserError when one of them has ended."""
        if self.world > 1:
            try:
                distributed.all_reduce(tensor)
            except RuntimeError as error:
                raise UserError(
                    f"a training process has ended ({str(error).splitlines()[0][:200]}); free memory if it ran out, "
                    "and give the same command again"
                ) from None

    def agree(self, value: int) -> int:
        """The leader's value, in every process."""
        if self.world == 1:
            return value
        box = torch.tensor([value if self.leads else 0], dtype=torch.int64)
        self.sum(box)
        return int(box)


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
        self.group.sum(self.buffer)
        self.flat /= self.figures[FIGURES.index("tokens")]
        return dict(zip(FIGURES, self.figures.double().unbind()))

    def clip(self, largest: float) -> Tensor:
        """Scales the gradients down to norm `largest` (0: leaves them); returns the norm before."""
        norm = self.flat.norm()
        if largest > 0:
            self.flat *= (largest / (norm + 1e-6)).clamp(max=1.0)
        return norm


@contextmanager
def processes(world: int, work: Callable[..., None], *arguments: Any) -> Iterator[Group]:
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
            _join(0, world, meeting_point)
            yield Group(0, world)
            for process in others:
                process.join(timeout=60)
        finally:
            for process in others:
                process.kill()
            if distributed.is_initialized():
                distributed.destroy_process_group()


def _join(rank: int, world: int, meeting_point: str) -> None:
    distributed.init_process_group(
        "gloo", init_method=f"file://{meeting_point}", rank=rank, world_size=world, timeout=timedelta(days=7)
    )


def _start(rank: int, world: int, meeting_point: str, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Runs in a further process. Ctrl-C is the leader's business: it tells the others with the next update."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.name == "posix" and hasattr(ctypes.CDLL(None), "prctl"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: killed when the leader dies
    _join(rank, world, meeting_point)
    try:
        work(Group(rank, world), *arguments)
    except UserError:
        os._exit(1)  # the leader is gone, or meets the same error and says so


def _loopback() -> str:
    """Name of the loopback interface: the processes of one machine need no other."""
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in ("lo", "lo0") if name in names), names[0])
