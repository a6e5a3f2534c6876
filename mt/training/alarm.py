"""How the processes of a run learn that one of them has failed, so that all end, and one line says why.

News goes through the store in which the processes found each other. A process that waits for the others in a sum may
never return from it (NCCL): a thread beside it watches the store and ends the process then.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

from torch._C._distributed_c10d import Store

from mt.errors import UserError

_COUNT, _NEWS, _HEARD = "failures", "failure", "failure_heard"
_POLL, _NEWS_PATIENCE, _GRACE = 0.5, 3.0, 5.0  # seconds


class Alarm:
    """One process's view on the failures of a run."""

    def __init__(self, store: Store, world: int, machine: str, speaks: bool) -> None:
        """
        Args:
            store: shared by all processes.
            world: how many processes there are.
            machine: name of the console that this process writes to.
            speaks: whether this process tells there what has happened elsewhere.
        """
        self.store, self.world, self.machine, self.speaks = store, world, machine, speaks
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def sound(self, message: str) -> bool:
        """Tells the others why this process ends, and waits a moment until they know. False: another was first."""
        try:
            if self.store.add(_COUNT, 1) > 1:
                return False
            self.store.set(_NEWS, json.dumps([self.machine, message]))
            deadline = time.monotonic() + _NEWS_PATIENCE
            while self.store.add(_HEARD, 0) < self.world - 1 and time.monotonic() < deadline:
                time.sleep(0.05)
        except RuntimeError:  # the store has gone with its process: everybody is about to end
            pass
        return True

    def heard(self, patience: float = _NEWS_PATIENCE) -> BaseException | None:
        """How this process is to end because another one has failed; None without news after `patience` seconds."""
        deadline = time.monotonic() + patience
        try:
            while not self.store.check([_NEWS]):
                if time.monotonic() >= deadline:
                    return None
                time.sleep(0.05)
            machine, message = json.loads(self.store.get(_NEWS))
            self.store.add(_HEARD, 1)
        except RuntimeError:
            return UserError("the process that holds this run together has ended; give the same command again")
        return UserError(message) if self.speaks and machine != self.machine else SystemExit(2)

    def watch(self) -> None:
        """From now on this process ends soon after another one has failed, even while it waits for it."""
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the watch."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(_POLL):
            ending = self.heard(patience=0)
            if ending is None:
                continue
            if not self._stopped.wait(_GRACE):  # else the main thread has noticed by itself
                if isinstance(ending, UserError) and self.speaks:
                    print(f"error: {ending}", file=sys.stderr, flush=True)
                os._exit(2)
            return
