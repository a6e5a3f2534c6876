"""The model: padding, neighbours and the cache change nothing; variants build and differ."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from mt.config import ModelConfig
from mt.errors import UserError
from mt.model.attention import attend, rotate, rotation_table, sinusoids
from mt.model.transformer import Transformer

SMALL = ModelConfig(
    width=32,
    encoder_layers=2,
    decoder_layers=2,
    encoder_feed_forward=64,
    decoder_feed_forward=48,
    encoder_heads=2,
    decoder_heads=4,
)
VARIANTS = [
    dataclasses.replace(SMALL, norm=norm, activation=activation, positions=positions, tie=tie)
    for norm, activation, positions, tie in itertools.product(
        ("pre", "post"), ("relu", "swiglu"), ("sinusoidal", "rotary"), ("none", "target", "all")
    )
] + [dataclasses.replace(SMALL, activation="gelu")]
SOURCE = torch.tensor([[4, 5, 6, 7, 3], [7, 8, 3, 0, 0]])
TARGET = torch.tensor([[2, 9, 10, 11], [2, 12, 13, 0]])


def build(config: ModelConfig) -> Transformer:
    torch.manual_seed(1)
    return Transformer(config, 40, 40, pad_id=0).eval()


@pytest.mark.parametrize("config", VARIANTS, ids=str)
def test_steps_give_the_logits_of_teacher_forcing(config: ModelConfig) -> None:
    model = build(config)
    expected = model.logits(model(SOURCE, TARGET))
    state = model.start(model.encode(SOURCE))
    state.expand(3)
    steps = [model.step(TARGET[:, position].repeat_interleave(3), state) for position in range(4)]
    torch.testing.assert_close(torch.stack(steps, dim=1)[::3], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", VARIANTS, ids=str)
def test_padding_and_neighbours_do_not_change_a_sentence(config: ModelConfig) -> None:
    model = build(config)
    together = model.logits(model(SOURCE, TARGET))[1, :3]
    alone = model.logits(model(SOURCE[1:, :3], TARGET[1:, :3]))[0]
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_a_position_does_not_see_the_target_after_it() -> None:
    model = build(SMALL)
    changed = TARGET.clone()
    changed[:, 2:] = 20
    before, after = model(SOURCE, TARGET), model(SOURCE, changed)
    torch.testing.assert_close(before[:, :2], after[:, :2])
    assert (before[0, 2] - after[0, 2]).abs().max() > 1e-3


def test_every_source_token_reaches_the_output() -> None:
    model = build(SMALL)
    for position in range(5):
        changed = SOURCE.clone()
        changed[0, position] = 30
        assert (model(SOURCE, TARGET)[0] - model(changed, TARGET)[0]).abs().max() > 1e-4


def test_reordering_and_dropping_rows_follows_the_beams() -> None:
    """Beams of two sentences take different tokens, swap places, then the first sentence leaves."""
    model = build(SMALL)
    state = model.start(model.encode(SOURCE))
    state.expand(2)
    model.step(torch.tensor([2, 2, 2, 2]), state)
    model.step(torch.tensor([9, 10, 12, 14]), state)
    state.reorder(torch.tensor([1, 0, 3, 3]))
    state.select(torch.tensor([2, 3]))
    logits = model.step(torch.tensor([15, 16]), state)
    targets = torch.tensor([[2, 14, 15], [2, 14, 16]])
    expected = model.logits(model(SOURCE[[1, 1]], targets))[:, 2]
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_the_cache_grows_past_its_first_capacity() -> None:
    model = build(SMALL)
    target = torch.randint(4, 40, (1, 70), generator=torch.Generator().manual_seed(3))
    state = model.start(model.encode(SOURCE[:1]))
    steps = [model.step(target[:, position], state) for position in range(70)]
    torch.testing.assert_close(torch.stack(steps, dim=1), model.logits(model(SOURCE[:1], target)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("tie", "matrices"), [("none", 3), ("target", 2), ("all", 1)])
def test_tying_shares_the_embedding_matrices(tie: str, matrices: int) -> None:
    model = build(dataclasses.replace(SMALL, tie=tie))
    assert sum(parameter.shape == (40, 32) for parameter in model.parameters()) == matrices


def test_three_way_tying_of_unequal_vocabularies_is_refused() -> None:
    with pytest.raises(UserError, match="tokenizer.joint"):
        Transformer(SMALL, 40, 41, pad_id=0)


def test_initial_logits_have_about_unit_scale() -> None:
    model = Transformer(ModelConfig(width=128), 2000, 2000, pad_id=0).eval()
    assert 0.5 < model.logits(model(SOURCE, TARGET)).std() < 2.0


def test_sinusoids_follow_the_formula() -> None:
    table = sinusoids(7, 6)
    assert table[5, 2].item() == pytest.approx(torch.sin(torch.tensor(5 / 10000 ** (2 / 6))).item(), abs=1e-6)
    assert table[5, 3].item() == pytest.approx(torch.cos(torch.tensor(5 / 10000 ** (2 / 6))).item(), abs=1e-6)


def test_rotary_products_depend_on_the_distance_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 8, generator=generator, dtype=torch.float64)
    table = rotation_table(50, 8).double()

    def product(i: int, j: int) -> torch.Tensor:
        return (rotate(query, table[:, i : i + 1]) * rotate(key, table[:, j : j + 1])).sum()

    torch.testing.assert_close(product(3, 8), product(40, 45), atol=1e-5, rtol=1e-5)
    assert abs(product(3, 8) - product(3, 9)) > 1e-3


def test_rotation_in_inference_equals_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(2, 5, 3, 4, 8, generator=generator).permute(2, 0, 3, 1, 4)[1]
    table = rotation_table(5, 8)
    even, odd, cosine, sine = states[..., 0::2], states[..., 1::2], *table
    expected = torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1).flatten(-2)
    with torch.no_grad():
        torch.testing.assert_close(rotate(states, table), expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(rotate(states, table), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("masked", ["nothing", "keys", "scores"])
def test_few_queries_attend_as_many_do(masked: str) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 3, 5, 8, generator=generator, requires_grad=True)
    keys, values = torch.randn(2, 2, 3, 7, 8, generator=generator)
    mask = None
    if masked == "keys":
        mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1] * 7]).bool()[:, None, None]
    elif masked == "scores":
        mask = torch.zeros(2, 1, 5, 7).masked_fill(torch.rand(2, 1, 5, 7, generator=generator) < 0.5, -torch.inf)
        mask[..., 0] = 0
    expected = attend(query, keys, values, mask)  # with a gradient: torch's own function
    with torch.no_grad():
        torch.testing.assert_close(attend(query, keys, values, mask), expected, atol=1e-6, rtol=1e-6)
