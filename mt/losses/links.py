"""Links: what a perfectly trained model puts out under a loss for true probabilities r, and back.

Cross-entropy's link is the identity, a smoothed target's is affine. The Encouraging Loss with hard targets has
its minimum where r_k (1 / p_k + 1 / (1 - min(p_k, log_end))) is the same for all classes. With both, and the same
smoothing of the bonus, the smoothed r takes the place of r: compose the two links.

Up to log_end 1/2 the Encouraging Loss is convex in p: one optimum, in the order of r. Above, the optimum need not
be unique and may reorder classes; only the inverse and the form for one dominant class are offered there.

All take and give (..., vocabulary) float tensors that sum to 1 over the last dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mt.losses.targets import SmoothedTarget

_HALVINGS = 80  # of an interval of logarithms: more than float64 can tell apart


def smoothing_link(true: Tensor, target: SmoothedTarget) -> Tensor:
    """Optimum of the label-smoothed loss: the mean smoothed target, normalised where it is not (`scatter`)."""
    prior, base, gold = _affine(true, target)
    mixed = gold * true + base * prior
    return mixed / mixed.sum(-1, keepdim=True)


def smoothing_inverse_link(model: Tensor, target: SmoothedTarget) -> Tensor:
    """True probabilities behind a label-smoothed optimum: max(p - base, 0), normalised."""
    prior, base, gold = _affine(model, target)
    kept = (model * (gold + base * prior.sum()) - base * prior).clamp(min=0)
    return kept / kept.sum(-1, keepdim=True)


def encouraging_link(true: Tensor, log_end: float) -> Tensor:
    """Optimum of the Encouraging Loss, by bisection; computed in float64. Raises ValueError for log_end > 1/2,
    where it need not be unique."""
    if not 0 <= log_end <= 0.5:
        raise ValueError(f"log_end is {log_end!r}; the link is unique only for 0 to 0.5")
    wide = true.double()
    highest = wide.amax(-1, keepdim=True)
    # the multiplier between: the likeliest class gets p = 1, and it gets 1 / vocabulary
    room = 1 - log_end
    share = 1 / true.shape[-1]
    low = (highest * (1 + 1 / room)).log()
    high = (highest * (1 / share + 1 / (1 - min(share, log_end)))).log()
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        too_much = _at_multiplier(wide, middle.exp(), log_end).sum(-1, keepdim=True) > 1
        low, high = torch.where(too_much, middle, low), torch.where(too_much, high, middle)
    p = _at_multiplier(wide, high.exp(), log_end)
    return (p / p.sum(-1, keepdim=True)).to(true.dtype)


def encouraging_inverse_link(model: Tensor, log_end: float) -> Tensor:
    """True probabilities behind an optimum of the Encouraging Loss: proportional to p (1 - m) / (1 - m + p) with
    m = min(p, log_end). Any log_end in [0, 1]; see above for what is lost beyond 1/2."""
    if not 0 <= log_end <= 1:
        raise ValueError(f"log_end is {log_end!r}; it must be 0 to 1")
    room = 1 - model.clamp(max=log_end)
    true = model * room / (room + model)
    return true / true.sum(-1, keepdim=True)


def dominant_link(true: Tensor, log_end: float) -> Tensor:
    """Optimal probability of one class with true probability `true` (any shape, below 1) among a great many
    classes that are each unlikely; closed form, any log_end below 1."""
    if not 0 <= log_end < 1:
        raise ValueError(f"log_end is {log_end!r}; it must be at least 0 and below 1")
    room = 1 - log_end
    below = true / (1 - true)
    gap = true - room
    above = (gap + (gap * gap + 4 * true * true * room).sqrt()) / (2 * true)
    return torch.where(below <= log_end, below, above)


def dominant_inverse_link(model: Tensor, log_end: float) -> Tensor:
    """Inverse of dominant_link."""
    room = 1 - log_end
    above = room * model / (room + model * (1 - model))
    return torch.where(model <= log_end, model / (1 + model), above)


def _at_multiplier(true: Tensor, multiplier: Tensor, log_end: float) -> Tensor:
    """p_k with true_k (1 / p_k + 1 / (1 - min(p_k, log_end))) = multiplier."""
    room = 1 - log_end
    steepness = multiplier / true  # infinite, and p 0, where the class never occurs
    beyond = 1 / (steepness - 1 / room)
    # 1 / (p (1 - p)) = steepness; in this form nothing cancels
    inside = 2 / (steepness * (1 + (1 - 4 / steepness).clamp(min=0).sqrt()))
    return torch.where(beyond > log_end, beyond, inside)


def _affine(like: Tensor, target: SmoothedTarget) -> tuple[Tensor, Tensor, Tensor]:
    """prior (vocabulary,), base and gold of a target class that may get mass."""
    classes = torch.arange(target.vocabulary_size, device=like.device)
    prior = target.prior_at(classes, like.dtype)
    weights = target.weights(prior.argmax().view(1), like.dtype)
    return prior, weights.base, weights.gold
