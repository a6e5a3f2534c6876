"""`train.budget_minutes`: from minutes to a number of updates."""

from __future__ import annotations

import time

from mt.config import TrainConfig

TIMED_UPDATES = 30
"""the count is made after so many updates, or a multiple of it"""

_UNTIMED = 10  # the first few are slower
_SHARE = 0.02  # share of the budget that is timed at least
_RESERVE = 0.01  # share of the budget that is kept for what is not timed: checkpoints, the end of the program


class Budget:
    """The clock of a run with a budget; turns what is left of it into updates, once."""

    def __init__(self, config: TrainConfig, started: float, before: float) -> None:
        """started: `time.monotonic()` when this command began; before: seconds that earlier commands have spent."""
        self.config = config
        self.started = started - before
        self.seen, self.seconds, self.last = 0, 0.0, 0.0

    @property
    def spent(self) -> float:
        """Seconds so far, of this and earlier commands."""
        return time.monotonic() - self.started

    def measure(self, now: float) -> None:
        """Takes in the time of another update, with log and checkpoint, that has ended now (`time.monotonic()`)."""
        self.seen += 1
        self.seconds += now - self.last if self.seen > _UNTIMED else 0.0
        self.last = now

    def leave_out(self, now: float) -> None:
        """What has been done since the last update, and has ended now, is no part of the next one."""
        self.last = now

    @property
    def measured_enough(self) -> bool:
        """Whether the updates so far tell how long the others will take."""
        return self.seconds >= _SHARE * 60 * self.config.budget_minutes

    def updates(self, done: int, validation_seconds: float, updates_per_epoch: int) -> int:
        """How many updates the whole run gets, `done` of them made.

        The time left is for the updates, for a validation every so often, and for those at the end.
        """
        config = self.config
        closing = validation_seconds * (2 if config.average != "none" else 1)
        left = 60 * config.budget_minutes * (1 - _RESERVE) - self.spent - closing
        each = self.seconds / (self.seen - _UNTIMED) + validation_seconds / (config.validate_every or updates_per_epoch)
        return done + max(1, int(left / each))
