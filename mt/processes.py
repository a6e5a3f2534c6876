"""What processes that work for another one have in common."""

from __future__ import annotations

import os
import signal
import threading
import time

_PATIENCE = 0.5
"""seconds after which a process notices that the one it works for is gone"""


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def serve_parent() -> None:
    """In a process that works for another: Ctrl-C is the business of its parent, whose end it shares, however that
    comes about."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PATIENCE)
    os._exit(1)
