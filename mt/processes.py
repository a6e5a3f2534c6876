"""What processes ask of the system: cores, memory that stays theirs, an end that they share with another process."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import threading
import time
from multiprocessing import parent_process

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # names in malloc.h
_PATIENCE = 0.5
"""seconds after which a process notices that the one it works for is gone"""


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_freed_memory() -> bool:
    """Lets the process keep what tensors give back, where the C library is glibc; whether it is.

    By default glibc maps every large tensor anew and unmaps it when it is freed; on a processor the page faults of
    a training step then cost about as much as its arithmetic on the vocabulary, those of a search up to a tenth of
    its time.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 1 << 28)):
        library.mallopt(option, value)
    return True


def serve_parent() -> None:
    """In a process of `multiprocessing`: Ctrl-C is the business of its parent, whose end it shares, however that
    comes about."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None, "nobody to serve"
    threading.Thread(target=_end_with, args=(parent.pid,), daemon=True).start()


def _end_with(parent: int | None) -> None:
    while os.getppid() == parent:
        time.sleep(_PATIENCE)
    os._exit(1)
