"""The published, clamped form of the Encouraging Loss, and what the clamp costs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mt.losses import encouraging


def loss_and_gradient(logits: list[float], log_end: float, smoothing: float, reference: bool) -> tuple[Tensor, Tensor]:
    leaf = torch.tensor([logits], requires_grad=True)
    loss = encouraging(
        leaf,
        torch.tensor([0]),
        log_end=log_end,
        smoothing=smoothing,
        definition="uniform",
        pad_id=-100,
        reference=reference,
    )
    return loss.detach(), torch.autograd.grad(loss.sum(), leaf)[0]


def test_where_the_clamp_binds_the_bonus_stands_still() -> None:
    loss, gradient = loss_and_gradient([60.0, 0.0, 0.0, 0.0, 0.0], 1.0, 0.0, True)
    assert float(loss) == pytest.approx(math.log(1e-5), abs=1e-4)  # -log p = 0
    assert float(gradient.abs().max()) < 1e-20  # what cross-entropy leaves of it
    loss, gradient = loss_and_gradient([60.0, 0.0, 0.0, 0.0, 0.0], 1.0, 0.0, False)
    assert float(loss) == pytest.approx(math.log(4) - 60, abs=1e-4)
    assert gradient.tolist() == [[-1.0, 0.25, 0.25, 0.25, 0.25]]


@pytest.mark.parametrize("log_end", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_where_it_does_not_bind_both_forms_agree(log_end: float, smoothing: float) -> None:
    for logits in ([2.0, -1.0, 0.5, 0.0, 1.0], [-2.0, 0.0, 1.0, 0.0, 0.0], [6.0, 0.0, 0.0, 0.0, 0.0]):
        published = loss_and_gradient(logits, log_end, smoothing, True)
        exact = loss_and_gradient(logits, log_end, smoothing, False)
        torch.testing.assert_close(published[0], exact[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(published[1], exact[1], rtol=1e-3, atol=1e-5)


def test_the_published_code_excludes_no_class() -> None:
    with pytest.raises(ValueError, match="excluded_ids"):
        encouraging(
            torch.zeros(1, 5),
            torch.tensor([1]),
            log_end=1.0,
            smoothing=0.1,
            definition="uniform",
            pad_id=0,
            excluded_ids=(0,),
            reference=True,
        )
