"""Inverse links: the true probabilities r behind what a perfectly trained model puts out under a loss.

A loss' link takes r to the distribution p that minimises its expected value. Cross-entropy's is the identity, a
smoothed target's is affine. The Encouraging Loss with hard targets has its minimum where
r_k (1 / p_k + 1 / (1 - min(p_k, log_end))) is the same for all classes. With both, and the same smoothing of the
bonus, the smoothed r takes the place of r: compose the two inverses.

Up to log_end 1/2 the Encouraging Loss is convex in p: one optimum, in the order of r. Above, the optimum need not
be unique, and undoing the link may reorder classes.

All take and give (..., vocabulary) float tensors that sum to 1 over the last dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mt.losses.targets import SmoothedTarget


def smoothing_inverse_link(model: Tensor, target: SmoothedTarget) -> Tensor:
    """True probabilities behind a label-smoothed optimum: max(p - base, 0), normalised."""
    prior = target.prior_at(torch.arange(target.vocabulary_size, device=model.device), model.dtype)
    # Any target class that may get mass has the same weights.
    weights = target.weights(prior.argmax().view(1), model.dtype)
    kept = (model * (weights.gold + weights.base * prior.sum()) - weights.base * prior).clamp(min=0)
    return kept / kept.sum(-1, keepdim=True)


def encouraging_inverse_link(model: Tensor, log_end: float) -> Tensor:
    """True probabilities behind an optimum of the Encouraging Loss: proportional to p (1 - m) / (1 - m + p) with
    m = min(p, log_end). Any log_end in [0, 1]; see above for what is lost beyond 1/2. Raises ValueError."""
    if not 0 <= log_end <= 1:
        raise ValueError(f"log_end is {log_end!r}; it must be 0 to 1")
    room = 1 - model.clamp(max=log_end)
    true = model * room / (room + model)
    return true / true.sum(-1, keepdim=True)
