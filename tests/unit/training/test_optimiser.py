"""Weight decay groups, and the moving average."""

from __future__ import annotations

import pytest
import torch

from mt.config import TrainConfig
from mt.training.optimiser import MovingAverage, Optimiser, build_optimiser


def test_weight_decay_is_on_matrices_only() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    optimiser = build_optimiser(model, TrainConfig(max_steps=1, weight_decay=0.5))
    groups = [group for part in optimiser.parts for group in part.param_groups]
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
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


def test_muon_gets_the_matrices_inside_the_layers_and_adamw_the_rest() -> None:
    model = torch.nn.ModuleDict({"embedding": torch.nn.Embedding(5, 4), "layer": torch.nn.Linear(4, 3)})
    adamw, muon = build_optimiser(model, TrainConfig(max_steps=1, optimiser="muon")).parts
    assert [p is model["layer"].weight for group in muon.param_groups for p in group["params"]] == [True]
    others = [p for group in adamw.param_groups for p in group["params"]]
    assert len(others) == 2 and any(p is model["embedding"].weight for p in others)


def test_the_update_of_muon_is_as_large_as_adamws() -> None:
    model = torch.nn.ModuleDict({"layer": torch.nn.Linear(64, 32, bias=False)})
    before = model["layer"].weight.detach().clone()
    torch.manual_seed(0)
    model["layer"](torch.randn(100, 64)).square().sum().backward()
    build_optimiser(model, TrainConfig(max_steps=1, optimiser="muon")).step(0.1)
    size = (model["layer"].weight.detach() - before).square().mean().sqrt()
    assert float(size) == pytest.approx(0.1 * 0.2, rel=0.25)  # 0.2: root mean square of AdamW's updates in practice


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_optimiser_state_survives_saving_bit_for_bit(name: str) -> None:
    def trained(model: torch.nn.Module, optimiser: Optimiser, steps: range) -> None:
        for step in steps:
            model(torch.full((1, 3), float(step))).sum().backward()
            optimiser.step(0.1)
            model.zero_grad()

    config = TrainConfig(max_steps=1, optimiser=name)
    torch.manual_seed(0)
    first = torch.nn.Linear(3, 2)
    optimiser = build_optimiser(first, config)
    trained(first, optimiser, range(3))
    second = torch.nn.Linear(3, 2)
    second.load_state_dict(first.state_dict())
    other = build_optimiser(second, config)
    other.load(second, optimiser.tensors(first))
    trained(first, optimiser, range(3, 6))
    trained(second, other, range(3, 6))
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
