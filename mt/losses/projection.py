"""The output projection and the loss in one step, without the logits of the whole batch.

Rows of hidden states are taken block by block: their logits are computed, turned in place into the gradient of
the loss, and multiplied into the gradients of hidden states and weight at once; backward only scales these. A
block has as many rows as matrix products like; the loss works on slices of it, which stay in the shared cache.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mt.losses.function import LossFunction

# Logits that exist at a time, and that the loss works on at a time. Few large steps: on a busy machine threads wait for
# each other after every one.
_BLOCK_BYTES = 128 << 20
_SLICE_BYTES = 16 << 20


class LossSums(NamedTuple):
    """Sums over the tokens that are not padding; scalar tensors."""

    loss: Tensor
    """training loss in nats, float32 (float64 for float64 input); carries the gradient"""
    nll: Tensor
    """-log p of the targets in nats, unsmoothed"""
    correct: Tensor
    """int64: tokens whose target has the highest logit"""
    tokens: Tensor
    """int64: tokens"""


def projected_loss(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, *, loss: LossFunction, pad_id: int
) -> LossSums:
    """Loss sums of logits = hidden @ weight.T + bias.

    Under autocast the products are taken in its type, the loss in float32. The gradient can be asked for once.

    Args:
        hidden: (rows, width); for a loss of several passes that many rows for each target, next to each other.
        weight: (vocabulary, width).
        bias: (vocabulary,) or None.
        targets: (rows,) int64.
        loss: what is summed.
        pad_id: targets that count nothing.

    Raises:
        ValueError: shapes do not fit.
    """
    passes = loss.passes
    fits = hidden.shape[:1] == (passes * targets.numel(),) and weight.shape[1:] == hidden.shape[1:]
    if hidden.dim() != 2 or targets.dim() != 1 or not fits:
        raise ValueError(
            f"hidden {tuple(hidden.shape)}, weight {tuple(weight.shape)} and targets {tuple(targets.shape)} "
            f"do not fit; they must be ({passes} * rows, width), (vocabulary, width) and (rows,)"
        )
    real = targets != pad_id
    tokens = real.sum()
    kept = real.nonzero().squeeze(1)
    if len(kept) < len(targets):
        hidden = hidden.unflatten(0, (-1, passes)).index_select(0, kept).flatten(0, 1)
        targets = targets[kept]
    inputs = [hidden, weight] if bias is None else [hidden, weight, bias]
    gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    total, nll, correct = _Projected.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, targets, loss, gradient
    )
    return LossSums(total, nll, correct, tokens)


class _Projected(torch.autograd.Function):
    """(hidden, weight, bias, targets) -> sums of loss, nll and correct; gradients are made on the way."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        loss: LossFunction,
        gradient: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        device = hidden.device.type
        product = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        with torch.autocast(device, enabled=False):
            blocks = _LogitsBlocks(hidden.to(product), weight.to(product), bias, gradient)
            sums = blocks.run(targets, loss)
        if gradient:
            of_bias = None if bias is None or blocks.of_bias is None else blocks.of_bias.to(bias.dtype)
            ctx.gradients = blocks.of_hidden.to(hidden.dtype), blocks.of_weight.to(weight.dtype), of_bias
        ctx.mark_non_differentiable(sums[1], sums[2])
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, incoming: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("the gradient of a projected loss can be asked for once")
        needed = zip(gradients, ctx.needs_input_grad[:3], strict=True)
        scaled = [grad.mul_(incoming) if grad is not None and need else None for grad, need in needed]
        return *scaled, None, None, None


class _LogitsBlocks:
    """One pass over the rows, with the buffer that all blocks share and the gradients that they add to."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, gradient: bool) -> None:
        self.hidden, self.weight, self.bias, self.gradient = hidden, weight, bias, gradient
        self.wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
        if gradient:
            self.of_hidden = torch.empty_like(hidden)
            self.of_weight = torch.zeros_like(weight, dtype=self.wide)
            self.of_bias = None if bias is None else torch.zeros_like(bias, dtype=self.wide)

    def run(self, targets: Tensor, loss: LossFunction) -> tuple[Tensor, Tensor, Tensor]:
        """Sums of loss, nll (float64 inside, so that long batches lose nothing) and correct."""
        passes, token_bytes = loss.passes, loss.passes * len(self.weight) * self.wide.itemsize
        limit = max(1, _BLOCK_BYTES // token_bytes)
        count = max(1, math.ceil(len(targets) / limit))
        step = max(1, math.ceil(len(targets) / count))  # blocks as equal as can be
        inner_step = max(1, _SLICE_BYTES // token_bytes)
        self.buffer = self.hidden.new_empty(step * passes, len(self.weight), dtype=self.wide)
        figures = [self.buffer.new_zeros((), dtype=torch.float64) for _ in range(2)]
        correct = torch.zeros((), dtype=torch.int64, device=self.buffer.device)
        of_hidden = self.of_hidden if self.gradient else self.hidden
        each = [tensor.split(step * passes) for tensor in (self.hidden, of_hidden)]
        for hidden, of_hidden, block_targets in zip(*each, targets.split(step), strict=True):
            logits = self._logits(hidden)
            slices = zip(logits.split(inner_step * passes), block_targets.split(inner_step), strict=True)
            for part, part_targets in slices:
                rows = loss.rows_(part, part_targets, gradient=self.gradient)
                figures[0] += rows.loss.sum(dtype=torch.float64)
                figures[1] += rows.nll.sum(dtype=torch.float64)
                correct += rows.correct.sum()
            if self.gradient:
                self._add_gradients(hidden, logits, of_hidden)
        return figures[0].to(self.wide), figures[1].to(self.wide), correct

    def _logits(self, hidden: Tensor) -> Tensor:
        logits = self.buffer[: len(hidden)]
        if self.weight.dtype == self.wide:
            torch.mm(hidden, self.weight.t(), out=logits)
        else:
            logits.copy_(hidden @ self.weight.t())
        if self.bias is not None:
            logits += self.bias
        return logits

    def _add_gradients(self, hidden: Tensor, of_logits: Tensor, of_hidden: Tensor) -> None:
        if self.of_bias is not None:
            self.of_bias += of_logits.sum(0)
        narrow = of_logits.to(self.weight.dtype)
        torch.mm(narrow, self.weight, out=of_hidden)
        if self.weight.dtype == self.wide:
            self.of_weight.addmm_(narrow.t(), hidden)
        else:
            self.of_weight += narrow.t() @ hidden
