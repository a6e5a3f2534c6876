"""The Encouraging Loss as its authors' translation code computes it, for comparison with the exact form.

The published criterion takes log(max(1 - p, 1e-5)) of a float32 softmax: where the clamp binds, the bonus stands
still and has no gradient. With log_end below 1 the clamp lies beyond the tangent's start and never shows; with
log_end 1 it takes the gradient of every token whose p is above 0.99999, the very tokens the bonus is for.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mt.losses.function import AutogradLoss
from mt.losses.targets import SmoothedTarget

CLAMP = 1e-5


class ReferenceEncouraging(AutogradLoss):
    """sum_k q_k (-log p_k + B(p_k)) with B clamped, differentiated by autograd."""

    def __init__(
        self, target: SmoothedTarget, bonus: SmoothedTarget, log_end: float, pad_id: int, signature: str = ""
    ) -> None:
        if not 0 <= log_end <= 1:
            raise ValueError(f"log_end is {log_end!r}; it must be 0 to 1")
        self.target = target
        self.bonus = bonus
        self.log_end = log_end
        self.pad_id = pad_id
        self.signature = signature

    def formula(self, logits: Tensor, targets: Tensor) -> Tensor:
        """See AutogradLoss.formula."""
        log_p = torch.log_softmax(logits, 1)
        p = log_p.exp()
        bonus = (1 - p).clamp(min=CLAMP).log()
        if self.log_end < 1:
            room = 1 - self.log_end
            bonus = torch.where(p > self.log_end, math.log(room) - (p - self.log_end) / room, bonus)
        return _expected(bonus, targets, self.bonus) - _expected(log_p, targets, self.target)


def _expected(values: Tensor, targets: Tensor, target: SmoothedTarget) -> Tensor:
    """Sum over classes of q_k values_k: (rows, vocabulary) -> (rows,)."""
    weights = target.weights(targets, values.dtype)
    prior = target.prior_at(torch.arange(values.shape[1], device=values.device), values.dtype)
    at_target = values.gather(1, targets[:, None]).squeeze(1)
    return weights.gold * at_target + weights.base * (values @ prior)
