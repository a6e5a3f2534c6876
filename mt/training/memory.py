"""Memory: what training took is measured, what it kept can be given back, and what helps when it runs out is said."""

from __future__ import annotations

import ctypes
import platform
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from mt.config import TrainConfig
from mt.errors import UserError

_CPU_WORDS = ("not enough memory", "can't allocate memory", "DefaultCPUAllocator")  # of a plain RuntimeError


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
        known = isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))
        if not known and not any(words in str(error) for words in _CPU_WORDS):
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
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes(device: torch.device) -> int:
    """The most that this process has held: on a GPU its tensors, else its resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").split("\n"):
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
