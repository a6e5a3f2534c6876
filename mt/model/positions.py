"""Positions: absolute sinusoids added to embeddings, or rotations of queries and keys."""

from __future__ import annotations

import torch
from torch import Tensor


def sinusoids(length: int, width: int) -> Tensor:
    """Sinusoidal position embeddings (Vaswani et al. 2017, section 3.5).

    Returns:
        (length, width) float32: sine in the even dimensions, cosine in the odd ones.
    """
    position = torch.arange(length, dtype=torch.float64)[:, None]
    frequency = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angle = position * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).reshape(length, width).float()


def sinusoids_in_halves(length: int, width: int) -> Tensor:
    """As `sinusoids`, with all sines before all cosines (Marian, fairseq, tensor2tensor)."""
    return sinusoids(length, width).view(length, -1, 2).transpose(1, 2).reshape(length, width)


def rotation_table(length: int, head_width: int) -> Tensor:
    """Cosines and sines of the rotary positions (Su et al. 2021, section 3.4.2).

    Returns:
        (2, length, head_width / 2) float32: cosines, then sines.
    """
    position = torch.arange(length, dtype=torch.float64)[:, None]
    frequency = 10000.0 ** (-torch.arange(0, head_width, 2, dtype=torch.float64) / head_width)
    angle = position * frequency
    return torch.stack([angle.cos(), angle.sin()]).float()


def rotate(states: Tensor, table: Tensor) -> Tensor:
    """Rotates each pair of neighbouring dimensions by its position's angle.

    Args:
        states: (batch, heads, length, head_width) queries or keys.
        table: (2, length, head_width / 2), the rows of `rotation_table` for these positions.
    """
    cosine, sine = table.to(states.dtype)
    if states.dtype == torch.float32 and states.device.type == "cpu" and not torch.is_grad_enabled():
        # The product of complex numbers: one pass over the states where the products of halves take seven.
        pairs = torch.view_as_complex(states.unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * torch.complex(cosine, sine)).flatten(-2)
    even, odd = states[..., 0::2], states[..., 1::2]
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1).flatten(-2)
