"""Encoder and decoder layers: attention and feed-forward, each inside a residual with layer norm."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from mt.config import ModelConfig
from mt.model.attention import CrossAttention, SelfAttention, initialised
from mt.model.cache import DecoderState
from mt.model.linear import Linear

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "swiglu": functional.silu,
}

_LEVELS = 1 << 16  # of probability, in a draw of 16 bits


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
        draws = torch.empty((hidden.numel() + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)  # all 64 bits
        levels = draws.view(torch.int16)[: hidden.numel()].view(hidden.shape)
        scale = _LEVELS / (_LEVELS - self.dropped_levels)  # of the rounded probability: keeps the mean exactly
        # int16 has a sign: levels begin at -32768.
        mask = torch.where(levels >= self.dropped_levels - _LEVELS // 2, scale, 0.0).to(hidden.dtype)
        return hidden * mask


class FeedForward(nn.Module):
    """Position-wise feed-forward layer (Vaswani et al. 2017, section 3.3), or gated (Shazeer 2020).

    Weights start Xavier uniform, biases 0.
    """

    def __init__(self, config: ModelConfig, inner: int) -> None:
        super().__init__()
        self.activation = _ACTIVATIONS[config.activation]
        self.gated = config.activation == "swiglu"
        self.input = Linear(config.width, 2 * inner if self.gated else inner)
        self.output = Linear(inner, config.width)
        self.input.wide_output = False
        self.dropout = Dropout(config.activation_dropout)
        for linear in (self.input, self.output):
            initialised(linear)

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, width) -> (…, width)."""
        inner = self.input(hidden)
        if self.gated:
            gate, value = inner.chunk(2, dim=-1)
            inner = self.activation(gate) * value
        else:
            inner = self.activation(inner)
        return self.output(self.dropout(inner))


class Residual(nn.Module):
    """x + dropout(f(norm(x))) (pre-norm, Xiong et al. 2020) or norm(x + dropout(f(x))) (post-norm)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.pre = config.norm == "pre"
        self.norm = nn.LayerNorm(config.width)
        self.dropout = Dropout(config.dropout)

    def forward(self, hidden: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """(…, width) -> (…, width)."""
        if self.pre:
            return hidden + self.dropout(sublayer(self.norm(hidden)))
        return self.norm(hidden + self.dropout(sublayer(hidden)))


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config.width, config.encoder_heads, config.attention_dropout)
        self.feed_forward = FeedForward(config, config.encoder_feed_forward)
        self.attention_residual = Residual(config)
        self.feed_forward_residual = Residual(config)

    def forward(self, hidden: Tensor, mask: Tensor | None, rotation: Tensor | None) -> Tensor:
        """(batch, source_length, width) in and out; `mask` and `rotation` as in `SelfAttention.forward`."""
        hidden = self.attention_residual(hidden, lambda x: self.attention(x, mask, False, rotation))
        return self.feed_forward_residual(hidden, self.feed_forward)


class DecoderLayer(nn.Module):
    """Masked self-attention, attention to the source, then feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config.width, config.decoder_heads, config.attention_dropout)
        self.cross = CrossAttention(config.width, config.decoder_heads, config.attention_dropout)
        self.feed_forward = FeedForward(config, config.decoder_feed_forward)
        self.attention_residual = Residual(config)
        self.cross_residual = Residual(config)
        self.feed_forward_residual = Residual(config)

    def forward(self, hidden: Tensor, memory: Tensor, mask: Tensor | None, rotation: Tensor | None) -> Tensor:
        """Teacher forcing: (batch, target_length, width) in and out.

        Padding stands to the right of the target, where no real position sees it: the causal mask is enough.
        """
        hidden = self.attention_residual(hidden, lambda x: self.attention(x, None, True, rotation))
        projected = self.cross.project_memory(memory)
        hidden = self.cross_residual(hidden, lambda x: self.cross(x, projected, mask))
        return self.feed_forward_residual(hidden, self.feed_forward)

    def step(self, hidden: Tensor, state: DecoderState, index: int, rotation: Tensor | None) -> Tensor:
        """One position of every row: (sentences, beams, width) in and out; `index`: number of this layer."""
        cache, projected = state.cache[index], state.memory[index]
        groups = hidden.view(cache.size(1), -1, hidden.size(-1))
        groups = self.attention_residual(
            groups, lambda x: self.attention.step(x, cache, state.length, state.visible, rotation)
        )
        # The beams of a sentence stand as queries before its one memory, which is never copied per beam.
        hidden = self.cross_residual(groups.view(hidden.shape), lambda x: self.cross(x, projected, state.mask))
        return self.feed_forward_residual(hidden, self.feed_forward)
