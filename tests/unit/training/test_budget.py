"""Minutes become updates, by hand-computed numbers and by simulated clocks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

import mt.training.resources
from mt.config import TrainConfig
from mt.training.checkpoint import TrainState
from mt.training.optimiser import Plan, first_plan, learning_rate
from mt.training.resources import Budget


class Clock:
    """In the place of `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(mt.training.resources, "time", made)
    return made


def measured(clock: Clock, gone: float, before: float = 0.0, **changes: object) -> Budget:
    """30 updates of half a second, of which the first ten took longer, `gone` seconds after the command began."""
    state = TrainState(step=10, spent=before)
    budget = Budget(TrainConfig(budget_minutes=10, **changes), clock.now - gone + 15, state)  # type: ignore[arg-type]
    clock.now += 5
    budget.take_in()  # the first ten: not counted
    state.step = 30
    clock.now += 10
    budget.take_in()
    budget.measure()
    budget.took(14.0)
    return budget


def test_updates_get_the_time_that_validations_leave(clock: Clock) -> None:
    # 600 s, 1 % in reserve, 40 s gone, 14 s for the last validation: 540 s. An update takes 0.5 s, and 14 s of
    # validation fall on every 350 updates: 0.54 s.
    budget = measured(clock, gone=40, validate_every=350)
    assert budget.state.update_seconds == 0.5 and budget.state.validation_updates == 28
    assert budget.updates(10) == pytest.approx(30 + 540 / 0.54, abs=1)
    # once an epoch of 350 updates: the same; the average is validated too: 14 s less
    assert measured(clock, gone=40).updates(350) == pytest.approx(30 + 540 / 0.54, abs=1)
    budget = measured(clock, gone=40, validate_every=350, average="last")
    assert budget.updates(10) == pytest.approx(30 + 526 / 0.54, abs=1)


def test_time_of_earlier_commands_counts(clock: Clock) -> None:
    budget = measured(clock, gone=10, before=30.0, validate_every=350)
    assert budget.spent == pytest.approx(40)
    assert budget.updates(10) == pytest.approx(30 + 540 / 0.54, abs=1)


def test_two_percent_of_the_budget_are_measured_before_the_first_plan(clock: Clock) -> None:
    state = TrainState(step=10)
    budget = Budget(TrainConfig(budget_minutes=10), clock.now, state)
    for step, enough in ((20, False), (30, True)):
        state.step = step
        clock.now += 6.5
        budget.take_in()
        assert budget.measured_enough is enough


def test_a_budget_that_is_already_spent_gives_one_more_update(clock: Clock) -> None:
    assert measured(clock, gone=700).updates(30) == 31


@pytest.mark.parametrize(("seconds", "expected"), [(0.02, 10), (0.3, 6), (1.5, 1), (20.0, 1)])
def test_a_plan_is_made_about_every_two_seconds(clock: Clock, seconds: float, expected: int) -> None:
    state = TrainState(update_seconds=seconds)
    budget = Budget(TrainConfig(budget_minutes=10), clock.now, state)
    due = [step for step in range(1, 41) if setattr(state, "step", step) is None and budget.is_due]
    assert due == list(range(expected, 41, expected))


VALIDATION = 14.0
"""seconds, without load"""
Load = Callable[[float], float]
"""how many times as long everything takes, by share of the budget that is gone"""


def train(clock: Clock, load: Load, update: float, minutes: float = 10, kills: tuple[int, ...] = ()) -> list[float]:
    """What `Training` does with a budget, on a simulated clock; `kills`: updates after which the command is killed and
    given again, from what it has stored. Returns the learning rates; the clock tells when it has ended."""
    config = TrainConfig(
        budget_minutes=minutes, schedule="cosine", warmup_steps=100, validate_every=300, learning_rate=1.0
    )
    began = clock.now
    state, plan = TrainState(), first_plan(config, 0)
    budget, rates = Budget(config, clock.now, state), list[float]()

    def work(seconds: float) -> None:
        clock.now += seconds * load((clock.now - began) / (60 * minutes))

    work(10.0)  # data
    budget.resume()
    while not 0 < state.budget_steps <= state.step:
        rates.append(learning_rate(state.step + 1, config, plan))
        work(update)
        state.step += 1
        if budget.is_due and not 0 < state.budget_steps <= state.step:
            budget.take_in()
            if budget.measured_enough:
                budget.measure()
                if not state.budget_steps:
                    budget.took(11.0)
                plan = plan.anew(state.step, budget.updates(1000))
                state.budget_steps, state.plan_since, state.plan_share = plan
        if state.step % 300 == 0 or state.step == state.budget_steps:
            budget.take_in()
            before = clock.now
            work(VALIDATION)
            budget.took(clock.now - before)
            budget.resume()
        if state.step in kills:
            budget.take_in()
            state.spent = budget.spent
            budget = Budget(config, clock.now, state)
            plan = Plan(state.budget_steps, state.plan_since, state.plan_share)
    return rates


LOADS: dict[str, Load] = {
    "none": lambda share: 1.0,
    "comes and stays": lambda share: 2.5 if share > 0.3 else 1.0,
    "comes and goes": lambda share: 3.0 if 0.2 < share < 0.6 else 1.0,
    "goes": lambda share: 2.0 if share < 0.5 else 1.0,
    "comes late": lambda share: 4.0 if share > 0.8 else 1.0,
}


@pytest.mark.parametrize("kills", [(), (317, 640)], ids=["whole", "killed twice"])
@pytest.mark.parametrize("update", [0.05, 0.3, 2.0])
@pytest.mark.parametrize("load", list(LOADS))
def test_whatever_load_comes_or_goes_a_run_ends_within_five_percent_at_zero(
    clock: Clock, load: str, update: float, kills: tuple[int, ...]
) -> None:
    began = clock.now
    rates = train(clock, LOADS[load], update, kills=kills)
    last = VALIDATION * LOADS[load](1.0)  # an unexpected load on the last validation itself cannot be planned for
    assert 0.95 * 600 <= clock.now - began <= 1.05 * 600 + (last if load == "comes late" else 0)
    assert rates[-1] == 0.0
    falls = [before - after for before, after in pairwise(rates[100:])]
    assert min(falls) >= 0  # it never rises after the warm-up
    assert max(falls) < 0.1


def test_time_that_becomes_free_is_used(clock: Clock) -> None:
    free = len(train(clock, LOADS["none"], 0.3))
    half = len(train(clock, LOADS["goes"], 0.3))
    assert 0.7 * free < half < 0.76 * free


def test_a_killed_run_goes_on_as_if_it_had_not_been(clock: Clock) -> None:
    whole = train(clock, LOADS["comes and goes"], 0.25)
    assert train(clock, LOADS["comes and goes"], 0.25, kills=(123, 450, 777)) == pytest.approx(whole, rel=1e-6)
