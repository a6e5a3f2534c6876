"""Weight decay groups, and the moving average."""

from __future__ import annotations

import pytest
import torch

from mt.config import TrainConfig
from mt.training.optimiser import MovingAverage, build_optimiser, load_optimiser_tensors, optimiser_tensors


def test_weight_decay_is_on_matrices_only() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    optimiser = build_optimiser(model, TrainConfig(max_steps=1, weight_decay=0.5))
    decay = {id(p): group["weight_decay"] for group in optimiser.param_groups for p in group["params"]}
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
    def trained(model: torch.nn.Module, optimiser: torch.optim.AdamW, steps: range) -> None:
        for step in steps:
            optimiser.param_groups[0]["lr"] = optimiser.param_groups[1]["lr"] = 0.1
            model(torch.full((1, 3), float(step))).sum().backward()
            optimiser.step()
            optimiser.zero_grad()

    config = TrainConfig(max_steps=1)
    torch.manual_seed(0)
    first = torch.nn.Linear(3, 2)
    optimiser = build_optimiser(first, config)
    trained(first, optimiser, range(3))
    second = torch.nn.Linear(3, 2)
    second.load_state_dict(first.state_dict())
    other = build_optimiser(second, config)
    load_optimiser_tensors(second, other, optimiser_tensors(first, optimiser))
    trained(first, optimiser, range(3, 6))
    trained(second, other, range(3, 6))
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
