"""Time and memory of a run: minutes become a number of updates, and what training took is measured."""

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

TIMED_UPDATES = 30
"""the count is made after so many updates, or a multiple of it"""

_UNTIMED = 10  # the first few are slower
_SHARE = 0.02  # share of the budget that is timed at least
_RESERVE = 0.01  # share of the budget that is kept for what is not timed: checkpoints, the end of the program


class Budget:
    """The clock of a run with a budget; turns what is left of it into updates, once."""

    def __init__(self, config: TrainConfig, started: float, before: float) -> None:
        """started: `time.monotonic()` when this command began; before: seconds that earlier commands have spent."""
        self.config, self.started = config, started - before
        self.seen, self.seconds = 0, 0.0
        self.last = 0.0  # when the last update, or what followed it and is no part of the next one, ended

    @property
    def spent(self) -> float:
        """Seconds so far, of this and earlier commands."""
        return time.monotonic() - self.started

    def measure(self, now: float) -> None:
        """Takes in the time of another update, with log and checkpoint, that has ended now (`time.monotonic()`)."""
        self.seen += 1
        self.seconds += now - self.last if self.seen > _UNTIMED else 0.0
        self.last = now

    @property
    def measured_enough(self) -> bool:
        """Whether the updates so far tell how long the others will take."""
        return self.seconds >= _SHARE * 60 * self.config.budget_minutes

    def updates(self, done: int, validation_seconds: float, updates_per_epoch: int) -> int:
        """How many updates the whole run gets, `done` of them made, with the validations between and after them."""
        closing = validation_seconds * (2 if self.config.average != "none" else 1)
        left = 60 * self.config.budget_minutes * (1 - _RESERVE) - self.spent - closing
        between_validations = self.config.validate_every or updates_per_epoch
        each = self.seconds / (self.seen - _UNTIMED) + validation_seconds / between_validations
        return done + max(1, int(left / each))


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
