"""Dropout: share, scale, gradient, reproducibility."""

from __future__ import annotations

import torch

from mt.model.layers import Dropout


def test_share_and_mean_are_as_stated() -> None:
    torch.manual_seed(0)
    dropped = Dropout(0.3)(torch.ones(1000, 1001))
    share = (dropped == 0).double().mean().item()
    assert abs(share - 0.3) < 0.002  # four standard deviations of a million draws
    kept = dropped[dropped > 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / 0.7), atol=1e-4, rtol=0)


def test_elements_are_dropped_independently() -> None:
    """Neighbours share a 64-bit draw: the joint frequencies must still be products."""
    torch.manual_seed(0)
    dropped = (Dropout(0.5)(torch.ones(250_000, 4)) == 0).double()
    correlation = torch.corrcoef(dropped.T)
    assert (correlation - torch.eye(4)).abs().max() < 0.01


def test_gradient_passes_where_the_value_passes() -> None:
    torch.manual_seed(0)
    hidden = torch.ones(7, 5, requires_grad=True)
    output = Dropout(0.4)(hidden)
    output.sum().backward()
    assert hidden.grad is not None
    torch.testing.assert_close(hidden.grad, output.detach())


def test_the_global_generator_decides() -> None:
    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return Dropout(0.5)(torch.ones(100))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_evaluation_and_probability_zero_return_the_input() -> None:
    hidden = torch.ones(3)
    assert Dropout(0.0)(hidden) is hidden
    assert Dropout(0.9).eval()(hidden) is hidden
