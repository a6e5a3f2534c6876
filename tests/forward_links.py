"""The forward links: what a perfectly trained model puts out; the oracle of the inverse ones in mt.losses.targets."""

from __future__ import annotations

import torch
from torch import Tensor

from mt.losses.targets import SmoothedTarget

HALVINGS = 80  # of an interval of logarithms: more than float64 can tell apart


def smoothing_link(true: Tensor, target: SmoothedTarget) -> Tensor:
    """Optimum of the label-smoothed loss: the mean smoothed target, normalised where it is not (`scatter`)."""
    prior = target.prior_at(torch.arange(target.vocabulary_size), true.dtype)
    weights = target.weights(prior.argmax().view(1), true.dtype)
    mixed = weights.gold * true + weights.base * prior
    return mixed / mixed.sum(-1, keepdim=True)


def encouraging_link(true: Tensor, log_end: float) -> Tensor:
    """Optimum of the Encouraging Loss for log_end up to 1/2, where it is unique: bisection of the multiplier with
    which all true_k (1 / p_k + 1 / (1 - min(p_k, log_end))) are equal and the p_k sum to 1."""
    assert 0 <= log_end <= 0.5
    wide, share = true.double(), 1 / true.shape[-1]
    highest = wide.amax(-1, keepdim=True)
    # Between: the likeliest class gets p = 1, and it gets 1 / vocabulary.
    low = (highest * (1 + 1 / (1 - log_end))).log()
    high = (highest * (1 / share + 1 / (1 - min(share, log_end)))).log()
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        too_much = _at_multiplier(wide, middle.exp(), log_end).sum(-1, keepdim=True) > 1
        low, high = torch.where(too_much, middle, low), torch.where(too_much, high, middle)
    p = _at_multiplier(wide, high.exp(), log_end)
    return (p / p.sum(-1, keepdim=True)).to(true.dtype)


def _at_multiplier(true: Tensor, multiplier: Tensor, log_end: float) -> Tensor:
    steepness = multiplier / true  # infinite, and p 0, where the class never occurs
    beyond = 1 / (steepness - 1 / (1 - log_end))
    # 1 / (p (1 - p)) = steepness; in this form nothing cancels
    inside = 2 / (steepness * (1 + (1 - 4 / steepness).clamp(min=0).sqrt()))
    return torch.where(beyond > log_end, beyond, inside)
