"""Time and memory of a run: minutes become a number of updates, and what training takes is measured."""

from __future__ import annotations

import ctypes
import platform
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from mt.config import TrainConfig
from mt.errors import UserError, out_of_memory
from mt.training.checkpoint import TrainState

_UNTIMED = 10  # the first few updates are slower
_MEASURED = 0.02  # share of the budget that is timed before the first plan
_RESERVE = 0.01  # share of the budget that is kept for what is not timed: checkpoints, the end of the program
_MOST_UPDATES, _SECONDS = 10, 2.0  # a plan is made anew after so many updates, or less where they take longer than this


class Budget:
    """The clock of a run with a budget; turns what is left of it into updates, again and again: other programs may come
    and go. What it has seen is in the state of the run, so that a resumed one goes on with the same plan."""

    def __init__(self, config: TrainConfig, started: float, state: TrainState) -> None:
        """started: `time.monotonic()` when this command began."""
        self.config, self.started, self.state = config, started - state.spent, state
        self.resume()

    @property
    def spent(self) -> float:
        """Seconds so far, of this and earlier commands."""
        return time.monotonic() - self.started

    @property
    def is_due(self) -> bool:
        """Whether a plan is to be made after this update."""
        seconds = self.state.update_seconds
        return (
            self.state.step % (max(1, min(_MOST_UPDATES, int(_SECONDS / seconds))) if seconds else _MOST_UPDATES) == 0
        )

    def resume(self) -> None:
        """Lets the time of updates count from now on."""
        self._last, self._step = time.monotonic(), self.state.step

    def take_in(self) -> None:
        """Takes in the updates since the last call, and their time, with log and checkpoint."""
        state, since, before = self.state, self._last, self._step
        self.resume()
        if state.step > _UNTIMED:
            state.block_seconds += self._last - since
            state.block_updates += state.step - before

    @property
    def measured_enough(self) -> bool:
        """Whether the updates so far tell how long the others will take."""
        state, least = self.state, _MEASURED * 60 * self.config.budget_minutes
        return state.block_updates > 0 and (state.update_seconds > 0 or state.block_seconds >= least)

    def took(self, seconds: float) -> None:
        """Notes how long a validation has taken, in updates: whatever slows the ones down slows the other, too."""
        if self.state.update_seconds:
            self.state.validation_updates = seconds / self.state.update_seconds

    def measure(self) -> None:
        """Makes the speed of the last updates, and half of what was measured before, the speed of the coming ones."""
        state = self.state
        lately = state.block_seconds / state.block_updates
        state.update_seconds = (state.update_seconds + lately) / 2 if state.update_seconds else lately
        state.block_seconds, state.block_updates = 0.0, 0

    def updates(self, updates_per_epoch: int) -> int:
        """How many updates the whole run gets, with the validations between and after them."""
        state, config = self.state, self.config
        closing = state.validation_updates * (2 if config.average != "none" else 1)
        left = (60 * config.budget_minutes * (1 - _RESERVE) - self.spent) / state.update_seconds - closing
        between_validations = config.validate_every or updates_per_epoch
        return state.step + max(1, int(left / (1 + state.validation_updates / between_validations)))


def give_back_memory() -> None:
    """Hands what `keep_freed_memory` has kept back to the system, before work of another kind."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def explained(train: TrainConfig) -> Iterator[None]:
    """Turns the errors of a device or a machine without memory left into a UserError that names what helps."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise UserError(
            f"memory ran out at train.batch_tokens {train.batch_tokens}: lower it and raise train.accumulate "
            f"({train.accumulate}) by as much, or set train.activation_checkpointing to true"
        ) from None


def reset_peak(device: torch.device) -> None:
    """Lets `peak_bytes` count from here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # not Linux, or not allowed: then what came before counts too
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # 5 resets VmHWM


def peak_bytes(device: torch.device) -> int:
    """The most that this process has held: on a GPU its tensors, else its resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").split("\n"):
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
