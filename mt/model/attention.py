"""Multi-head attention (Vaswani et al. 2017, section 3.2) on torch's scaled_dot_product_attention, and positions:
absolute sinusoids added to embeddings, or rotations of queries and keys."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from mt.model.linear import Linear

# Of a search's step on a processor, where plain products took three quarters of the time of torch's function
# (measured, 100 sentences of 5 beams, AVX-512).
_FEW_QUERIES = 16
# Torch's softmax over less than a vector of the processor took four to ten times as long (measured, AVX-512).
_FEWEST_KEYS = 16


def initialised(linear: Linear) -> Linear:
    """Xavier uniform (Glorot & Bengio 2010) over the whole matrix; biases 0.

    Queries, keys and values of one matrix so start at the bound of a single layer, 1 / sqrt(2) of what three
    separate ones would have.
    """
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


class SelfAttention(nn.Module):
    """Attention of a sequence to itself; queries, keys and values come out of one matrix product."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.input = initialised(Linear(width, 3 * width))
        self.output = initialised(Linear(width, width))

    def project(self, hidden: Tensor, rotation: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, length, width) -> queries, keys and values, each (batch, heads, length, head_width)."""
        batch, length, width = hidden.shape
        states = self.input(hidden).view(batch, length, 3, self.heads, width // self.heads)
        turned = states.permute(2, 0, 3, 1, 4)
        if rotation is None:
            return turned.unbind()
        return *rotate(turned[:2], rotation).unbind(), turned[2]

    def forward(self, hidden: Tensor, mask: Tensor | None, causal: bool, rotation: Tensor | None) -> Tensor:
        """Attends; (batch, length, width) in and out. `mask`: (batch, 1, 1, length) bool, true at the keys that may be
        seen, None: all; `causal`: each position sees only itself and what stands before it; `rotation`: rotary table of
        these positions, or None."""
        query, key, value = self.project(hidden, rotation)
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, is_causal=causal
        )
        return self.output(mixed.transpose(1, 2).flatten(2))

    def step(
        self, hidden: Tensor, cache: Tensor, length: int, visible: Tensor | None, rotation: Tensor | None
    ) -> Tensor:
        """One position on top of `length` cached ones, (groups, rows of a group, width) in and out; writes its keys and
        values to the cache, (2, groups, heads, slots, head_width), see `DecoderState`. `visible`: (groups, 1, rows of a
        group, slots), added to the scores, None: all slots in use are seen; `rotation`: rotary table of this one
        position, or None."""
        query, key, value = self.project(hidden, rotation)
        start, end = length * hidden.size(1), (length + 1) * hidden.size(1)
        cache[0, :, :, start:end] = key
        cache[1, :, :, start:end] = value
        keys, values = cache[:, :, :, :end]
        mixed = attend(query, keys, values, None if visible is None else visible[..., :end])
        return self.output(mixed.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Attention of the decoder to the encoder's output."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = initialised(Linear(width, width))
        self.memory = initialised(Linear(width, 2 * width))
        self.output = initialised(Linear(width, width))

    def project_memory(self, memory: Tensor) -> Tensor:
        """(batch, source_length, width) -> keys and values (2, batch, heads, source_length, head_width)."""
        batch, length, width = memory.shape
        return self.memory(memory).view(batch, length, 2, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)

    def forward(self, hidden: Tensor, projected: Tensor, mask: Tensor | None) -> Tensor:
        """Attends; (batch, length, width) in and out. In a beam search the `length` queries are the beams of a
        sentence, which share one memory. `projected`: keys and values from `project_memory`; `mask`: (batch, 1, 1,
        source_length) bool, true at real source tokens, None: all real."""
        batch, length, width = hidden.shape
        query = self.query(hidden).view(batch, length, self.heads, width // self.heads).transpose(1, 2)
        keys, values = projected.unbind()  # one gradient for both, where indexing would add up two
        mixed = attend(query, keys, values, mask, self.dropout if self.training else 0.0)
        return self.output(mixed.transpose(1, 2).flatten(2))


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, dropout: float = 0.0) -> Tensor:
    """Scaled dot-product attention; (batch, heads, …, head_width) all. `mask` as torch's function takes it."""
    few = query.device.type == "cpu" and query.size(2) <= _FEW_QUERIES
    if not few or dropout or torch.is_grad_enabled():
        return functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask, dropout_p=dropout)
    scores = (query * query.size(-1) ** -0.5) @ keys.transpose(-1, -2)
    if mask is not None and mask.dtype == torch.bool:
        scores.masked_fill_(~mask, -torch.inf)
    elif mask is not None:
        scores += mask
    keys_given = scores.size(-1)
    if keys_given < _FEWEST_KEYS:
        scores = functional.pad(scores, (0, _FEWEST_KEYS - keys_given), value=-torch.inf)
    return scores.softmax(-1)[..., :keys_given] @ values


def sinusoids(length: int, width: int) -> Tensor:
    """Sinusoidal position embeddings (Vaswani et al. 2017, section 3.5): (length, width) float32, sine in the even
    dimensions, cosine in the odd ones."""
    position = torch.arange(length, dtype=torch.float64)[:, None]
    angle = position * 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).reshape(length, width).float()


def sinusoids_in_halves(length: int, width: int) -> Tensor:
    """As `sinusoids`, with all sines before all cosines (Marian, fairseq, tensor2tensor)."""
    return sinusoids(length, width).view(length, -1, 2).transpose(1, 2).reshape(length, width)


def rotation_table(length: int, head_width: int) -> Tensor:
    """Rotary positions (Su et al. 2021, section 3.4.2): (2, length, head_width / 2) float32, cosines, then sines."""
    return sinusoids(length, head_width).view(length, -1, 2).permute(2, 0, 1).flip(0).contiguous()


def rotate(states: Tensor, table: Tensor) -> Tensor:
    """Rotates each pair of neighbouring dimensions of queries or keys (…, length, head_width) by its position's angle;
    `table`: the rows of `rotation_table` for these positions."""
    cosine, sine = table.to(states.dtype)
    if states.dtype == torch.float32 and states.device.type == "cpu":
        # The product of complex numbers: one pass over the states where the products of halves take seven.
        pairs = torch.view_as_complex(states.unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * torch.complex(cosine, sine)).flatten(-2)
    even, odd = states[..., 0::2], states[..., 1::2]
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1).flatten(-2)
