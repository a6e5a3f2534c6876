"""Inverse links undo the true optima of the losses."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mt.losses import encouraging, label_smoothed_kl
from mt.losses.targets import (
    DEFINITIONS,
    SmoothedTarget,
    encouraging_inverse_link,
    focal_inverse_link,
    penalty_inverse_link,
    smoothing_inverse_link,
)
from tests.forward_links import encouraging_link, smoothing_link

LOG_ENDS = st.sampled_from([0.0, 0.1, 0.25, 0.4, 0.5])


@st.composite
def distributions(draw: st.DrawFn) -> Tensor:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    size, sharpness = draw(st.integers(2, 300)), draw(st.sampled_from([0.1, 1.0, 4.0, 9.0]))
    return torch.softmax(torch.randn(3, size, generator=generator, dtype=torch.float64) * sharpness, -1)


@settings(max_examples=60, deadline=None)
@given(distributions(), LOG_ENDS)
def test_the_inverse_of_the_encouraging_loss_finds_the_truth_behind_its_optimum(true: Tensor, log_end: float) -> None:
    model = encouraging_link(true, log_end)
    torch.testing.assert_close(model.sum(-1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(encouraging_inverse_link(model, log_end), true, rtol=1e-7, atol=1e-10)
    sorted_model = model.gather(-1, true.argsort(-1))
    assert (sorted_model.diff(dim=-1) >= -1e-12).all()


@settings(max_examples=60, deadline=None)
@given(distributions(), st.sampled_from(DEFINITIONS), st.sampled_from([0.0, 0.05, 0.1, 0.3]))
def test_the_inverse_of_smoothing_finds_the_truth_behind_its_optimum(
    true: Tensor, definition: str, smoothing: float
) -> None:
    size = true.shape[-1]
    if size < 4:
        return
    unigram = torch.arange(1.0, size + 1) if definition == "unigram" else None
    target = SmoothedTarget(definition, smoothing, pad_id=1, vocabulary_size=size, unigram=unigram)
    if definition.endswith("_nopad"):
        true = true.index_fill(-1, torch.tensor([1]), 0)
        true = true / true.sum(-1, keepdim=True)
    model = smoothing_link(true, target)
    torch.testing.assert_close(smoothing_inverse_link(model, target), true, rtol=1e-8, atol=1e-12)


def mean_gradient(true: Tensor, model: Tensor, loss_name: str, log_end: float, definition: str) -> Tensor:
    """Gradient of the expected loss at the logits of `model`, targets drawn from `true`."""
    size = len(true)
    logits = model.log().expand(size, size).clone().requires_grad_()
    targets = torch.arange(size)
    if loss_name == "kl":
        loss = label_smoothed_kl(logits, targets, smoothing=0.1, definition=definition, pad_id=-100)
    else:
        loss = encouraging(logits, targets, log_end=log_end, smoothing=0.1, definition=definition, pad_id=-100)
    return torch.autograd.grad((loss * true).sum(), logits)[0].sum(0)


@pytest.mark.parametrize("definition", ["uniform", "others", "scatter"])
@pytest.mark.parametrize(("loss_name", "log_end"), [("kl", 0.0), ("el", 0.0), ("el", 0.25), ("el", 0.5)])
def test_the_linked_distribution_is_where_the_expected_loss_is_flat(
    definition: str, loss_name: str, log_end: float
) -> None:
    true = torch.softmax(torch.tensor([3.0, 1.0, 0.0, -1.0, 0.5, -2.0], dtype=torch.float64), 0)
    target = SmoothedTarget(definition, 0.1, pad_id=-100, vocabulary_size=6)
    optimum = smoothing_link(true, target)
    if loss_name == "el":
        optimum = encouraging_link(optimum, log_end)
    at_optimum = mean_gradient(true, optimum, loss_name, log_end, definition)
    assert float(at_optimum.abs().max()) < 1e-10
    assert float(mean_gradient(true, true, loss_name, log_end, definition).abs().max()) > 1e-3


def test_a_class_that_never_occurs_stays_at_zero() -> None:
    model = torch.tensor([0.7914806288, 0.2085193712, 0.0], dtype=torch.float64)  # the two-class case of the oracle
    true = encouraging_inverse_link(model, 0.25)
    assert true.tolist() == pytest.approx([0.7, 0.3, 0.0], abs=1e-9)


def test_a_log_end_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="log_end"):
        encouraging_inverse_link(torch.tensor([0.7, 0.3]), 1.1)


@pytest.mark.parametrize("shape", [(6,), (2, 3, 6)])
def test_links_of_distributions_side_by_side_are_those_of_each(shape: tuple[int, ...]) -> None:
    true = torch.randn(shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64).softmax(-1)
    target = SmoothedTarget("others_nopad", 0.1, pad_id=-1, vocabulary_size=6)
    model = smoothing_link(true, target)
    torch.testing.assert_close(smoothing_inverse_link(model, target), true)
    model = encouraging_link(true, 0.25)
    torch.testing.assert_close(encouraging_inverse_link(model, 0.25), true)
    assert torch.equal(encouraging_inverse_link(true, 1.0).argmax(-1), true.argmax(-1))


@settings(max_examples=200, deadline=None)
@given(distributions(), st.floats(0, 0.99))
def test_undoing_the_encouraging_loss_never_changes_an_order_and_above_a_half_creates_ties(
    model: Tensor, log_end: float
) -> None:
    true = encouraging_inverse_link(model, log_end)
    assert (true.gather(-1, model.argsort(-1)).diff(dim=-1) >= -1e-12).all()  # rounding of 1 - p
    middle = torch.tensor([0.55, 0.45], dtype=torch.float64)
    tied = encouraging_inverse_link(middle, max(log_end, 0.55))
    assert tied.tolist() == pytest.approx([0.5, 0.5], abs=1e-15)
    if log_end <= 0.5:  # one optimum: nothing is lost
        assert float(encouraging_inverse_link(middle, log_end).diff()) < -1e-3


def test_links_of_one_class_in_two_are_those_written_out_by_hand() -> None:
    model = torch.tensor([0.8, 0.2], dtype=torch.float64)

    def odds(true: Tensor) -> float:
        return float(true[0] / true[1])

    # focal, gamma 2: p / ((1 - p)^2 - 2 p (1 - p) log p)
    weights = [p / ((1 - p) ** 2 - 2 * p * (1 - p) * math.log(p)) for p in (0.8, 0.2)]
    assert odds(focal_inverse_link(model, 2.0)) == pytest.approx(weights[0] / weights[1])
    # inverse focal, gamma 1: p / (1 + p + p log p)
    weights = [p / (1 + p + p * math.log(p)) for p in (0.8, 0.2)]
    assert odds(focal_inverse_link(model, 1.0, 1.0)) == pytest.approx(weights[0] / weights[1])
    entropy = -0.8 * math.log(0.8) - 0.2 * math.log(0.2)
    expected = 0.8 * (1 + 0.3 * (math.log(0.8) + entropy))
    assert float(penalty_inverse_link(model, 0.3)[0]) == pytest.approx(expected)
    assert penalty_inverse_link(torch.tensor([0.999, 0.001], dtype=torch.float64), 0.3).tolist() == [1.0, 0.0]
