"""What the processes of a run share: sums, values and the gradients of an update.

Each process takes its share of an update's batches. What is computed does not depend on the number of processes, but
for the order of floating-point sums: an update always consists of the same batches, each with its own random numbers.
"""

from __future__ import annotations

import time
from typing import Any, TypeVar

from torch import Tensor, distributed, nn

from mt.errors import UserError
from mt.training.alarm import Alarm

FIGURES = ("tokens", "loss", "nll", "correct", "slots", "filled", "interruptions")
"""what is summed over processes beside the gradients"""

Value = TypeVar("Value")


class Group:
    """This process's place among the processes of a run."""

    def __init__(
        self,
        rank: int = 0,
        world: int = 1,
        *,
        local_rank: int = 0,
        local_world: int = 1,
        machine: str = "",
        alarm: Alarm | None = None,
    ) -> None:
        """
        Args:
            rank: number of this process; world: how many there are.
            local_rank, local_world: the same among those of this machine.
            machine: a name for this machine.
            alarm: how a failure is passed on; None for a process alone.
        """
        self.rank, self.world = rank, world
        self.local_rank, self.local_world = local_rank, local_world
        self.machine = machine
        self.alarm = alarm

    @property
    def leads(self) -> bool:
        """Whether this is the process that saves and reports."""
        return self.rank == 0

    @property
    def launched(self) -> bool:
        """Whether a launcher has started the processes."""
        return bool(self.machine)

    def sum(self, tensor: Tensor) -> None:
        """Adds up a tensor over all processes, in place. Raises UserError when one of them has ended."""
        if self.world > 1:
            try:
                distributed.all_reduce(tensor)
            except RuntimeError as error:
                raise self._lost(error) from None

    def share(self, value: Value) -> Value:
        """The leader's value, in every process; anything that can be pickled."""
        if self.world == 1:
            return value
        box: list[Any] = [value if self.leads else None]
        try:
            distributed.broadcast_object_list(box, src=0)
        except RuntimeError as error:
            raise self._lost(error) from None
        shared: Value = box[0]
        return shared

    def gather(self, value: Value) -> list[Value]:
        """The values of all processes by rank, in the leader; nothing in the others."""
        if self.world == 1:
            return [value]
        box: list[Any] | None = [None] * self.world if self.leads else None
        try:
            distributed.gather_object(value, box, dst=0)
        except RuntimeError as error:
            raise self._lost(error) from None
        return box or []

    def note(self, name: str) -> None:
        """Lets the processes go on that `wait_for` this name."""
        if self.alarm is not None:
            self.alarm.store.set(name, "done")

    def wait_for(self, name: str) -> None:
        """Waits, for hours if need be, until a process notes this name, or has failed."""
        while self.alarm is not None and not self.alarm.store.check([name]):
            ending = self.alarm.heard(patience=0)
            if ending is not None:
                raise ending
            time.sleep(0.2)

    def _lost(self, error: RuntimeError) -> BaseException:
        """What to raise when the others cannot be reached: the reason that one of them gave, if it could."""
        heard = None if self.alarm is None else self.alarm.heard()
        return heard or UserError(
            f"a training process has ended ({str(error).splitlines()[0][:200]}); if memory ran out, lower "
            "train.batch_tokens and raise train.accumulate, or set train.activation_checkpointing; then give the "
            "same command again"
        )


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
