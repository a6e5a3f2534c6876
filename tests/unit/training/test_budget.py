"""Minutes become updates, by hand-computed numbers."""

from __future__ import annotations

import time

import pytest

from mt.config import TrainConfig
from mt.training.resources import Budget


def budget(started: float, before: float = 0.0, **changes: object) -> Budget:
    made = Budget(TrainConfig(budget_minutes=10, **changes), started, before)  # type: ignore[arg-type]
    add(made, [100.0] * 10 + [0.5] * 20)  # the first ten are slow, and not counted
    return made


def add(made: Budget, seconds: list[float]) -> None:
    for update in seconds:
        made.measure(made.last + update)


def test_updates_get_the_time_that_validations_leave() -> None:
    # 600 s, 1 % in reserve, 40 s gone, 14 s for the last validation: 540 s. An update takes 0.5 s, and 14 s of
    # validation fall on every 350 updates: 0.54 s.
    made = budget(time.monotonic() - 40, validate_every=350)
    assert made.updates(30, 14.0, 10) == pytest.approx(30 + 540 / 0.54, abs=1)
    # once an epoch of 350 updates: the same; the average is validated too: 14 s less
    assert budget(time.monotonic() - 40).updates(30, 14.0, 350) == pytest.approx(30 + 540 / 0.54, abs=1)
    made = budget(time.monotonic() - 40, validate_every=350, average="last")
    assert made.updates(30, 14.0, 10) == pytest.approx(30 + 526 / 0.54, abs=1)


def test_time_of_earlier_commands_counts() -> None:
    made = budget(time.monotonic() - 10, before=30.0, validate_every=350)
    assert made.spent == pytest.approx(40, abs=1)
    assert made.updates(30, 14.0, 10) == pytest.approx(30 + 540 / 0.54, abs=2)


def test_two_percent_of_the_budget_are_measured() -> None:
    made = budget(time.monotonic())  # 20 updates of half a second: 10 s of 12 s
    assert not made.measured_enough
    made.last += 100  # a validation
    add(made, [0.5] * 3)
    assert not made.measured_enough
    add(made, [0.5])
    assert made.measured_enough


def test_a_budget_that_is_already_spent_gives_one_more_update() -> None:
    assert budget(time.monotonic() - 700).updates(30, 14.0, 10) == 31
