"""Focal, inverse focal, confidence penalty and R-Drop against autograd of their definitions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mt.losses import LossFunction
from mt.losses.projection import projected_loss
from mt.losses.relatives import ConfidencePenalty, Focal, InverseFocal, RDrop
from mt.losses.targets import SmoothedTarget

TARGETS = torch.tensor([3, 1, 0, 4, 6])


def logits_of(seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(5, 7, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()


def of_target(shape: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def dense(logits: Tensor) -> Tensor:
        log_p = torch.log_softmax(logits, -1).gather(1, TARGETS[:, None]).squeeze(1)
        return shape(log_p) * (TARGETS != 0)

    return dense


def penalty(logits: Tensor) -> Tensor:
    log_p = torch.log_softmax(logits, -1)
    entropy = -(log_p.exp() * log_p).sum(1)
    return (-log_p.gather(1, TARGETS[:, None]).squeeze(1) - 0.3 * entropy) * (TARGETS != 0)


@pytest.mark.parametrize(
    ("ours", "dense"),
    [
        (Focal(2.0, 0), of_target(lambda log_p: -((1 - log_p.exp()) ** 2) * log_p)),
        (Focal(0.5, 0), of_target(lambda log_p: -((1 - log_p.exp()) ** 0.5) * log_p)),
        (InverseFocal(1.5, 0, 0.7), of_target(lambda log_p: -((1 + 0.7 * log_p.exp()) ** 1.5) * log_p)),
        (ConfidencePenalty(0.3, 0), penalty),
    ],
    ids=["focal 2", "focal 0.5", "anti-focal", "confidence penalty"],
)
def test_value_and_gradient_are_those_of_the_definition(ours: LossFunction, dense: Callable[[Tensor], Tensor]) -> None:
    for seed in range(5):
        exact = logits_of(seed)
        expected = dense(exact)
        expected_gradient = torch.autograd.grad(expected.sum(), exact)[0]
        for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 2e-5)):
            logits = logits_of(seed, dtype)
            loss = ours(logits, TARGETS)
            torch.testing.assert_close(loss.double(), expected, rtol=tolerance, atol=tolerance)
            found = torch.autograd.grad(loss.sum(), logits)[0].double()
            torch.testing.assert_close(found, expected_gradient, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("margin", [60.0, -60.0, 1e4, -1e4])
def test_extreme_margins_stay_finite(margin: float) -> None:
    logits = torch.zeros(1, 6)
    logits[0, 2] = margin
    logits.requires_grad_()
    target = torch.tensor([2])
    for loss in (
        Focal(0.5, 0)(logits, target),
        InverseFocal(2.0, 0)(logits, target),
        ConfidencePenalty(0.1, 0)(logits, target),
    ):
        gradient = torch.autograd.grad(loss.sum(), logits)[0]
        assert torch.isfinite(loss).all() and torch.isfinite(gradient).all()


def test_rdrop_pulls_two_passes_together_and_masks_padding() -> None:
    first, second = logits_of(1), logits_of(2)
    target = SmoothedTarget("uniform_nopad", 0.1, pad_id=0, vocabulary_size=7)
    both = torch.stack([first, second], 1)
    loss = RDrop(target, 5.0, 0)(both, TARGETS)
    assert loss.shape == TARGETS.shape and loss[2] == 0
    p, q = torch.log_softmax(first, 1), torch.log_softmax(second, 1)
    divergence = ((p.exp() - q.exp()) * (p - q)).sum(1)  # both directions at once
    apart = loss - RDrop(target, 0.0, 0)(both, TARGETS)
    torch.testing.assert_close(apart, 2.5 * divergence * (TARGETS != 0))
    gradients = torch.autograd.grad(loss.sum(), [first, second])
    assert all(gradient.any() and not gradient[2].any() for gradient in gradients)


def test_relatives_fit_the_fused_projection() -> None:
    hidden, weight = logits_of(3), torch.randn(9, 7, dtype=torch.float64, requires_grad=True)
    for function in (Focal(2.0, 0), ConfidencePenalty(0.2, 0)):
        sums = projected_loss(hidden, weight, None, TARGETS, loss=function, pad_id=0)
        dense = function(hidden @ weight.t(), TARGETS).sum()
        torch.testing.assert_close(sums.loss, dense)
        torch.testing.assert_close(torch.autograd.grad(sums.loss, weight)[0], torch.autograd.grad(dense, weight)[0])


def test_inverse_focal_has_the_scale_of_its_authors_unless_told_otherwise() -> None:
    torch.testing.assert_close(
        InverseFocal(1.5, 0)(logits_of(4), TARGETS), InverseFocal(1.5, 0, 1.0)(logits_of(4), TARGETS)
    )


@pytest.mark.parametrize("gradient", [False, True])
def test_rdrop_is_its_definition_with_the_first_pass_deciding_what_is_correct(gradient: bool) -> None:
    logits = torch.stack([logits_of(1).detach(), logits_of(2).detach()], 1).requires_grad_(gradient)
    target = SmoothedTarget("uniform", 0.1, pad_id=-100, vocabulary_size=7)

    def dense(logits: Tensor) -> Tensor:
        log_p = logits.log_softmax(-1)
        q = torch.full((5, 7), 0.1 / 7, dtype=torch.float64).scatter_add(
            1, TARGETS[:, None], torch.full((5, 1), 0.9, dtype=torch.float64)
        )
        smoothed = (q * (q.log() - log_p.transpose(0, 1))).sum(-1).sum(0)
        first, second = log_p[:, 0], log_p[:, 1]
        kl = (first.exp() * (first - second)).sum(1) + (second.exp() * (second - first)).sum(1)
        return smoothed + 3.0 / 2 * kl

    loss = RDrop(target, 3.0, -100)
    torch.testing.assert_close(loss(logits, TARGETS), dense(logits))
    if gradient:
        ours, theirs = (
            torch.autograd.grad(each(logits).sum(), logits)[0] for each in (lambda x: loss(x, TARGETS), dense)
        )
        torch.testing.assert_close(ours, theirs)
    rows = loss.rows_(logits.detach().flatten(0, 1).clone(), TARGETS, gradient=gradient)
    assert rows.correct.tolist() == (logits[:, 0].argmax(1) == TARGETS).tolist()
    torch.testing.assert_close(rows.nll, -logits.log_softmax(-1)[torch.arange(5), :, TARGETS].mean(1).detach())
