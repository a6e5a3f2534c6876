"""Weight decay groups, and the moving average."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mt.config import TrainConfig
from mt.errors import UserError
from mt.training.optimiser import MovingAverage, Optimiser


def test_weight_decay_is_on_matrices_only() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    optimiser = Optimiser(model, TrainConfig(max_steps=1, weight_decay=0.5))
    decay = {id(p): group["weight_decay"] for group in optimiser.adamw.param_groups for p in group["params"]}
    assert [decay[id(p)] for p in model.parameters()] == [0.5, 0.0, 0.0, 0.0]


def test_moving_average_follows_its_recursion() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 1.0)
    average = MovingAverage(model, 0.5)
    expected = 1.0
    for step, value in enumerate([2.0, 4.0, 8.0], start=1):
        torch.nn.init.constant_(model.weight, value)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    with average.applied():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 8.0


def test_optimiser_state_survives_saving_bit_for_bit() -> None:
    def trained(model: torch.nn.Module, optimiser: Optimiser, steps: range) -> None:
        for step in steps:
            model(torch.full((1, 3), float(step))).sum().backward()
            optimiser.step(0.1)
            model.zero_grad()

    config = TrainConfig(max_steps=1)
    torch.manual_seed(0)
    first = torch.nn.Linear(3, 2)
    optimiser = Optimiser(first, config)
    trained(first, optimiser, range(3))
    second = torch.nn.Linear(3, 2)
    second.load_state_dict(first.state_dict())
    other = Optimiser(second, config)
    other.load(optimiser.tensors(), Path("training.safetensors"))
    trained(first, optimiser, range(3, 6))
    trained(second, other, range(3, 6))
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)


def test_state_of_another_model_is_refused_with_the_name_of_its_file() -> None:
    optimiser = Optimiser(torch.nn.Linear(3, 2), TrainConfig(max_steps=1))
    with pytest.raises(UserError, match="^training.safetensors: no state of the optimiser that fits weight"):
        optimiser.load({}, Path("training.safetensors"))
