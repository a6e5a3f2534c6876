"""The learning rate at hand-computed updates."""

from __future__ import annotations

import pytest

from mt.config import TrainConfig
from mt.training.optimiser import Plan, first_plan, learning_rate


def config(schedule: str, **changes: float) -> TrainConfig:
    options = {"max_steps": 1000, "learning_rate": 0.01, "warmup_steps": 100, **changes}
    return TrainConfig(schedule=schedule, **options)


def rate(step: int, config: TrainConfig, steps: int) -> float:
    return learning_rate(step, config, first_plan(config, steps))


@pytest.mark.parametrize("schedule", ["inverse_sqrt", "cosine", "constant"])
def test_warm_up_is_linear_from_zero_to_the_peak(schedule: str) -> None:
    assert rate(1, config(schedule), 1000) == pytest.approx(0.0001)
    assert rate(50, config(schedule), 1000) == pytest.approx(0.005)
    assert rate(100, config(schedule), 1000) == pytest.approx(0.01)


def test_inverse_square_root_halves_when_steps_quadruple() -> None:
    assert rate(400, config("inverse_sqrt"), 1000) == pytest.approx(0.005)
    assert rate(900, config("inverse_sqrt"), 1000) == pytest.approx(0.01 / 3)


def test_cosine_is_halfway_in_the_middle_and_final_at_the_end() -> None:
    cosine = config("cosine", final_learning_rate=0.002)
    assert rate(550, cosine, 1000) == pytest.approx(0.006)
    assert rate(1000, cosine, 1000) == pytest.approx(0.002)
    assert rate(1500, cosine, 1000) == pytest.approx(0.002)


def test_constant_stays_at_the_peak() -> None:
    assert rate(999, config("constant"), 1000) == 0.01


@pytest.mark.parametrize("schedule", ["inverse_sqrt", "cosine", "constant"])
def test_without_warm_up_the_first_update_has_the_peak(schedule: str) -> None:
    assert rate(1, config(schedule, warmup_steps=0), 100_000) == pytest.approx(0.01, rel=1e-6)


def test_warmup_stable_decay_falls_in_a_straight_line_at_the_end() -> None:
    decay = config("warmup_stable_decay", decay_share=0.2, final_learning_rate=0.002)
    assert rate(50, decay, 1000) == pytest.approx(0.005)
    assert rate(100, decay, 1000) == 0.01 and rate(800, decay, 1000) == pytest.approx(0.01)
    assert rate(900, decay, 1000) == pytest.approx(0.006)
    assert rate(1000, decay, 1000) == rate(1100, decay, 1000) == pytest.approx(0.002)


@pytest.mark.parametrize("schedule", ["cosine", "warmup_stable_decay"])
def test_no_decay_begins_while_the_end_is_not_known(schedule: str) -> None:
    assert rate(900, config(schedule), 0) == 0.01


@pytest.mark.parametrize("schedule", ["cosine", "warmup_stable_decay"])
def test_a_plan_made_anew_goes_on_where_the_learning_rate_is_and_ends_at_zero(schedule: str) -> None:
    decay = config(schedule, decay_share=0.5)
    plan = first_plan(decay, 1000)
    for step, steps in ((50, 900), (600, 700), (650, 2000), (1900, 1950)):
        before = learning_rate(step, decay, plan)
        plan = plan.anew(step, steps)
        assert learning_rate(step, decay, plan) == pytest.approx(before, rel=1e-12)
    assert learning_rate(1949, decay, plan) > 0
    assert learning_rate(1950, decay, plan) == learning_rate(2000, decay, plan) == 0.0


def test_a_plan_spreads_what_is_left_evenly() -> None:
    plan = Plan(1000, 100)
    assert plan.share_at(100) == 0 and plan.share_at(1000) == 1 and plan.share_at(550) == 0.5
    assert plan.anew(50, 700) == Plan(700, 100, 0.0)  # in the warm-up nothing has decayed
    later = plan.anew(550, 650)
    assert later == Plan(650, 550, 0.5) and later.share_at(600) == 0.75
