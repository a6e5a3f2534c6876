"""Dropout whose random numbers cost little on a processor."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_LEVELS = 1 << 16


class Dropout(nn.Module):
    """Inverted dropout (Srivastava et al. 2014): zero with `probability`, else scaled to keep the mean.

    On the CPU one 64-bit draw of torch's global generator decides about four elements, which is several times
    faster than a draw for each (`torch.dropout`); the probability is so rounded to a multiple of 1 / 65536. Drawn in
    order by one thread, the result does not depend on the number of threads.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.dropped_levels = round(probability * _LEVELS)

    def forward(self, hidden: Tensor) -> Tensor:
        """(…) float -> the same shape; the input itself in evaluation mode or with probability 0."""
        if not self.training or self.dropped_levels == 0:
            return hidden
        if hidden.device.type != "cpu":
            return functional.dropout(hidden, self.probability, training=True)
        draws = torch.empty((hidden.numel() + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
        levels = draws.view(torch.int16)[: hidden.numel()].view(hidden.shape)
        scale = _LEVELS / (_LEVELS - self.dropped_levels)
        mask = torch.where(levels >= self.dropped_levels - _LEVELS // 2, scale, 0.0).to(hidden.dtype)
        return hidden * mask
