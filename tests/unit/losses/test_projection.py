"""The fused projection against logits in one piece and autograd."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import mt.losses.projection
from mt.config import LossConfig
from mt.losses import LossFunction, build_loss, label_smoothed_kl, projected_loss
from mt.losses.function import RowLosses
from mt.losses.relatives import RDrop
from mt.losses.targets import SmoothedTarget

PAD = 0
CONFIGS = [
    LossConfig(smoothing=0.0),
    LossConfig(definition="scatter"),
    LossConfig(definition="others_nopad"),
    LossConfig(name="encouraging"),
    LossConfig(name="encouraging", log_end=1.0, smoothing=0.0),
    LossConfig(name="encouraging", log_end=0.25, definition="uniform", exclude_special=False),
    LossConfig(name="encouraging", reference=True),
    LossConfig(name="focal"),
    LossConfig(name="inverse_focal"),
    LossConfig(name="confidence_penalty"),
]


def case(count: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """hidden (count, 7), weight (23, 7), bias (23,), targets with padding."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, 7, generator=generator, dtype=torch.float64)
    weight = torch.randn(23, 7, generator=generator, dtype=torch.float64)
    bias = torch.randn(23, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, 23, (count,), generator=generator)
    targets[::4] = PAD
    best = (hidden @ weight.t() + bias).argmax(1)
    targets[1::3] = best[1::3]
    inputs = [tensor.to(dtype).requires_grad_() for tensor in (hidden, weight, bias)]
    return inputs[0], inputs[1], inputs[2], targets


def function(config: LossConfig) -> LossFunction:
    return build_loss(config, pad_id=PAD, begin_id=2, vocabulary_size=23)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(CONFIGS),
    st.integers(1, 20),
    st.integers(0, 999),
    st.sampled_from([1, 3, 5, 64]),
    st.booleans(),
    st.sampled_from([8 * 23, 8 * 23 * 2, 1 << 20]),
)
def test_blocks_give_the_sums_and_gradients_of_the_whole(
    config: LossConfig, count: int, seed: int, block: int, with_bias: bool, slice_bytes: int
) -> None:
    hidden, weight, bias, targets = case(count, seed)
    inputs = [hidden, weight] + ([bias] if with_bias else [])
    loss = function(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mt.losses.projection, "_SLICE_BYTES", slice_bytes)
        patch.setattr(mt.losses.projection, "_BLOCK_BYTES", 8 * 23 * block)
        sums = projected_loss(hidden, weight, bias if with_bias else None, targets, loss=loss, pad_id=PAD)
    gradients = torch.autograd.grad(sums.loss / 7, inputs)

    logits = hidden @ weight.t() + (bias if with_bias else 0)
    dense = loss(logits, targets).sum()
    torch.testing.assert_close(sums.loss, dense)
    for ours, theirs in zip(gradients, torch.autograd.grad(dense / 7, inputs), strict=True):
        torch.testing.assert_close(ours, theirs)
    real = targets != PAD
    nll = torch.nn.functional.cross_entropy(logits[real], targets[real], reduction="sum")
    torch.testing.assert_close(sums.nll, nll.detach())
    assert int(sums.correct) == int((logits.argmax(1) == targets)[real].sum())
    assert int(sums.tokens) == int(real.sum())


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_without_gradient_the_sums_are_the_same(config: LossConfig) -> None:
    hidden, weight, bias, targets = case(9, 1)
    loss = function(config)
    with_gradient = projected_loss(hidden, weight, bias, targets, loss=loss, pad_id=PAD)
    with torch.no_grad():
        without = projected_loss(hidden, weight, bias, targets, loss=loss, pad_id=PAD)
    assert with_gradient.loss.requires_grad and not without.loss.requires_grad
    for ours, theirs in zip(without, with_gradient, strict=True):
        torch.testing.assert_close(ours, theirs.detach())


@pytest.mark.parametrize("block", [1, 3, 64])
@pytest.mark.parametrize("slice_bytes", [1, 8 * 23 * 4, 1 << 20])
def test_two_passes_stay_together_in_every_block(block: int, slice_bytes: int) -> None:
    hidden, weight, bias, _ = case(20, 1)
    targets = case(10, 2)[3]
    config = LossConfig(name="r_drop", smoothing=0.2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mt.losses.projection, "_SLICE_BYTES", slice_bytes)
        patch.setattr(mt.losses.projection, "_BLOCK_BYTES", 2 * 8 * 23 * block)
        sums = projected_loss(hidden, weight, bias, targets, loss=function(config), pad_id=PAD)
    gradients = torch.autograd.grad(sums.loss, [hidden, weight, bias])

    logits = hidden @ weight.t() + bias
    first, second = logits[0::2].log_softmax(1), logits[1::2].log_softmax(1)
    real = targets != PAD
    settings = {"smoothing": 0.2, "definition": "uniform_nopad", "pad_id": PAD}
    each = [label_smoothed_kl(log_p, targets, **settings) for log_p in (first, second)]  # type: ignore[arg-type]
    divergence = ((first.exp() - second.exp()) * (first - second)).sum(1)
    dense = (each[0] + each[1] + 2.5 * divergence * real).sum()
    torch.testing.assert_close(sums.loss, dense)
    for ours, theirs in zip(gradients, torch.autograd.grad(dense, [hidden, weight, bias]), strict=True):
        torch.testing.assert_close(ours, theirs)
    nll = -(first + second).gather(1, targets[:, None])[real].sum() / 2
    torch.testing.assert_close(sums.nll, nll.detach())
    assert int(sums.tokens) == int(real.sum())


def test_padding_rows_change_nothing_even_if_they_are_not_numbers() -> None:
    hidden, weight, _, targets = case(8, 2)
    loss = function(CONFIGS[3])
    real = targets != PAD
    alone = projected_loss(hidden[real], weight, None, targets[real], loss=loss, pad_id=PAD)
    expected = torch.autograd.grad(alone.loss, [hidden, weight])
    padded = torch.where(real[:, None], hidden, torch.full_like(hidden, torch.nan))
    sums = projected_loss(padded, weight, None, targets, loss=loss, pad_id=PAD)
    gradients = torch.autograd.grad(sums.loss, [hidden, weight])
    assert torch.equal(sums.loss, alone.loss)
    assert torch.equal(gradients[0], expected[0]) and torch.equal(gradients[1], expected[1])
    assert not gradients[0][~real].any()


def test_a_batch_of_padding_has_no_loss_and_no_gradient() -> None:
    hidden, weight, bias, _ = case(3, 3)
    sums = projected_loss(hidden, weight, bias, torch.full((3,), PAD), loss=function(CONFIGS[3]), pad_id=PAD)
    assert [figure.item() for figure in sums] == [0, 0, 0, 0]
    assert not any(gradient.any() for gradient in torch.autograd.grad(sums.loss, [hidden, weight, bias]))


def test_gradients_of_parts_add_up_to_that_of_the_whole() -> None:
    hidden, weight, bias, targets = case(16, 4, torch.float32)
    loss = function(CONFIGS[3])
    whole = projected_loss(hidden, weight, bias, targets, loss=loss, pad_id=PAD)
    expected = torch.autograd.grad(whole.loss / whole.tokens, weight)[0]
    for part in torch.arange(16).chunk(8):
        sums = projected_loss(hidden[part], weight, bias, targets[part], loss=loss, pad_id=PAD)
        (sums.loss / whole.tokens).backward()
    torch.testing.assert_close(weight.grad, expected, rtol=0, atol=1e-6)


def test_bfloat16_products_keep_the_loss_in_float32() -> None:
    hidden, weight, bias, targets = case(12, 5, torch.float32)
    loss = function(CONFIGS[3])
    exact = projected_loss(hidden, weight, bias, targets, loss=loss, pad_id=PAD)
    expected = torch.autograd.grad(exact.loss, [hidden, weight, bias])
    with torch.autocast("cpu", torch.bfloat16):
        sums = projected_loss(hidden, weight, bias, targets, loss=loss, pad_id=PAD)
    gradients = torch.autograd.grad(sums.loss, [hidden, weight, bias])
    assert sums.loss.dtype == torch.float32
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    torch.testing.assert_close(sums.loss, exact.loss, rtol=0.02, atol=0.05)
    for ours, theirs in zip(gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.1)


def test_the_weight_may_be_tied_to_what_made_the_hidden_states() -> None:
    _, weight, _, targets = case(6, 6)
    inputs = torch.tensor([1, 2, 3, 4, 5, 6])
    loss = function(CONFIGS[2])
    sums = projected_loss(torch.tanh(weight[inputs]), weight, None, targets, loss=loss, pad_id=PAD)
    dense = loss(torch.tanh(weight[inputs]) @ weight.t(), targets).sum()
    torch.testing.assert_close(torch.autograd.grad(sums.loss, weight)[0], torch.autograd.grad(dense, weight)[0])


def test_a_second_backward_is_refused_in_words() -> None:
    hidden, weight, _, targets = case(4, 7)
    sums = projected_loss(hidden, weight, None, targets, loss=function(CONFIGS[0]), pad_id=PAD)
    sums.loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        sums.loss.backward()


def test_shapes_that_do_not_fit_are_named() -> None:
    hidden, weight, _, targets = case(4, 8)
    with pytest.raises(ValueError, match="do not fit"):
        projected_loss(hidden, weight[:, :3], None, targets, loss=function(CONFIGS[0]), pad_id=PAD)
    with pytest.raises(ValueError, match="do not fit"):
        projected_loss(hidden, weight, None, targets[:2], loss=function(CONFIGS[0]), pad_id=PAD)


@pytest.mark.slow
def test_a_compiled_function_gives_the_same_gradient() -> None:
    hidden, weight, _, targets = case(6, 9)
    loss = function(CONFIGS[3])

    def total(hidden: Tensor, weight: Tensor) -> Tensor:
        return projected_loss(torch.tanh(hidden), weight, None, targets, loss=loss, pad_id=PAD).loss

    compiled = torch.compile(total, backend="aot_eager")
    expected = torch.autograd.grad(total(hidden, weight), [hidden, weight])
    for ours, theirs in zip(torch.autograd.grad(compiled(hidden, weight), [hidden, weight]), expected):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "config",
    [config for config in CONFIGS if config.name != "encouraging" or not config.settings()["smoothing"]],
    ids=str,
)
def test_a_target_that_shares_the_highest_logit_is_correct_and_one_just_below_is_not(config: LossConfig) -> None:
    logits = torch.full((3, 23), -1.0, dtype=torch.float64)
    logits[0, [3, 5]] = 2.0  # tied
    logits[1, 3], logits[1, 5] = 2.0, 2.0 - 1e-6
    logits[2, 3], logits[2, 5] = 2.0 - 1e-6, 2.0
    for target, correct in ((3, 2), (5, 2), (7, 0)):
        sums = projected_loss(
            logits, torch.eye(23).double(), None, torch.full((3,), target), loss=function(config), pad_id=PAD
        )
        assert int(sums.correct) == correct


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_blocks_give_the_same_sums_without_gradient(config: LossConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, bias, targets = case(9, 1)
    whole = projected_loss(hidden, weight, bias, targets, loss=function(config), pad_id=PAD)
    monkeypatch.setattr(mt.losses.projection, "_BLOCK_BYTES", 8 * 23 * 2)
    with torch.no_grad():
        blocks = projected_loss(hidden, weight, bias, targets, loss=function(config), pad_id=PAD)
    for ours, theirs in zip(blocks, whole, strict=True):
        torch.testing.assert_close(ours, theirs.detach())


def test_a_gradient_is_computed_where_something_needs_it_and_else_not(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = case(6, 2)
    targets, loss, asked = inputs[3], function(CONFIGS[3]), []
    rows = loss.rows_

    def spy(logits: Tensor, targets: Tensor, *, gradient: bool) -> RowLosses:
        asked.append(gradient)
        return rows(logits, targets, gradient=gradient)

    monkeypatch.setattr(loss, "rows_", spy)
    for needed in ((), (0,), (1,), (2,), (0, 1, 2)):
        hidden, weight, bias = (each.detach().clone().requires_grad_(n in needed) for n, each in enumerate(inputs[:3]))
        sums = projected_loss(hidden, weight, bias, targets, loss=loss, pad_id=PAD)
        assert asked.pop() == sums.loss.requires_grad == bool(needed)
        assert not sums.nll.requires_grad and not sums.correct.requires_grad
        with torch.no_grad():
            projected_loss(hidden, weight, bias, targets, loss=loss, pad_id=PAD)
        assert not asked.pop()


def test_rows_widths_and_dimensions_that_do_not_fit_are_refused_each() -> None:
    hidden, weight, _, targets = case(4, 8)
    loss = function(CONFIGS[0])
    square = torch.zeros(2, 2, dtype=torch.int64)
    for misfit in (
        (hidden[:3], weight, targets),
        (hidden, weight[:, :3], targets),
        (hidden.unflatten(1, (7, 1)), weight.unflatten(1, (7, 1)), targets),
        (hidden, weight, square),
        (hidden.flatten(), weight.flatten(), targets.repeat(7)),
    ):
        with pytest.raises(ValueError, match="do not fit"):
            projected_loss(misfit[0], misfit[1], None, misfit[2], loss=loss, pad_id=PAD)
    two = RDrop(SmoothedTarget("uniform", 0.1, pad_id=PAD, vocabulary_size=23), 1.0, PAD)
    with pytest.raises(ValueError, match=r"2 \* rows"):
        projected_loss(hidden, weight, None, targets, loss=two, pad_id=PAD)
