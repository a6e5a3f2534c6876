"""The learning rate at hand-computed updates."""

from __future__ import annotations

import pytest

from mt.config import TrainConfig
from mt.training.optimiser import learning_rate


def config(schedule: str, **changes: float) -> TrainConfig:
    options = {"max_steps": 1000, "learning_rate": 0.01, "warmup_steps": 100, **changes}
    return TrainConfig(schedule=schedule, **options)


@pytest.mark.parametrize("schedule", ["inverse_sqrt", "cosine", "constant"])
def test_warm_up_is_linear_from_zero_to_the_peak(schedule: str) -> None:
    assert learning_rate(1, config(schedule), 1000) == pytest.approx(0.0001)
    assert learning_rate(50, config(schedule), 1000) == pytest.approx(0.005)
    assert learning_rate(100, config(schedule), 1000) == pytest.approx(0.01)


def test_inverse_square_root_halves_when_steps_quadruple() -> None:
    assert learning_rate(400, config("inverse_sqrt"), 1000) == pytest.approx(0.005)
    assert learning_rate(900, config("inverse_sqrt"), 1000) == pytest.approx(0.01 / 3)


def test_cosine_is_halfway_in_the_middle_and_final_at_the_end() -> None:
    cosine = config("cosine", final_learning_rate=0.002)
    assert learning_rate(550, cosine, 1000) == pytest.approx(0.006)
    assert learning_rate(1000, cosine, 1000) == pytest.approx(0.002)
    assert learning_rate(1500, cosine, 1000) == pytest.approx(0.002)


def test_constant_stays_at_the_peak() -> None:
    assert learning_rate(999, config("constant"), 1000) == 0.01


@pytest.mark.parametrize("schedule", ["inverse_sqrt", "cosine", "constant"])
def test_without_warm_up_the_first_update_has_the_peak(schedule: str) -> None:
    assert learning_rate(1, config(schedule, warmup_steps=0), 100_000) == pytest.approx(0.01, rel=1e-6)


def test_warmup_stable_decay_falls_in_a_straight_line_at_the_end() -> None:
    decay = config("warmup_stable_decay", decay_share=0.2, final_learning_rate=0.002)
    assert learning_rate(50, decay, 1000) == pytest.approx(0.005)
    assert learning_rate(100, decay, 1000) == learning_rate(800, decay, 1000) == 0.01
    assert learning_rate(900, decay, 1000) == pytest.approx(0.006)
    assert learning_rate(1000, decay, 1000) == learning_rate(1100, decay, 1000) == pytest.approx(0.002)


@pytest.mark.parametrize("schedule", ["cosine", "warmup_stable_decay"])
def test_no_decay_begins_while_the_end_is_not_known(schedule: str) -> None:
    assert learning_rate(900, config(schedule), 0) == 0.01
