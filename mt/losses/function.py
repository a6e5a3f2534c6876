"""What every training loss offers: a loss for each token with autograd, and rows with their gradient in place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_BLOCK = 128  # classes


class RowLosses(NamedTuple):
    """Figures of some target positions, each (rows,)."""

    loss: Tensor
    """training loss in nats"""
    nll: Tensor
    """-log p of the target, unsmoothed, in nats"""
    correct: Tensor
    """bool: the target class has the highest logit"""


def softmax_(logits: Tensor) -> Tensor:
    """Turns logits (rows, vocabulary) into softmax in place; returns log-sum-exp less the row's highest, (rows,)."""
    # Torch's softmax is faster than its exp. Its highest value is 1 / sum exp (z - highest): it tells the sum.
    torch.softmax(logits, 1, out=logits)
    return logits.amax(1).log_().neg_()


def highest_class(logits: Tensor) -> Tensor:
    """argmax over classes, (rows, vocabulary) -> (rows,) int64: the first of equal ones. Torch looks at one value at a
    time; maxima of blocks are found six times as fast (measured, AVX-512, 32,000 classes)."""
    blocks = logits.shape[1] // _BLOCK
    if blocks < 2:
        return logits.argmax(1)
    whole, rest = logits.split([blocks * _BLOCK, logits.shape[1] - blocks * _BLOCK], dim=1)
    maxima = whole.unflatten(1, (blocks, _BLOCK)).amax(2)
    if rest.shape[1]:
        maxima = torch.cat([maxima, rest.amax(1, keepdim=True)], dim=1)
    first = (maxima.argmax(1) * _BLOCK).clamp(max=logits.shape[1] - _BLOCK)
    columns = first[:, None] + torch.arange(_BLOCK, device=logits.device)
    return first + logits.gather(1, columns).argmax(1)


class LossFunction(ABC):
    """A loss of logits and targets that computes its gradient beside its value.

    Called like a function, it returns the loss of each token: logits (..., vocabulary) of any float type, targets
    (...) int64 -> (...) float32 nats (float64 in, float64 out), 0 at padding, differentiable once. A loss of
    several passes takes logits (..., passes, vocabulary).
    """

    passes: int = 1
    """rows of logits for each target: passes over the same text, each with dropout of its own"""
    signature: str = ""
    """what it computes, in one string for logs and reports"""

    def __init__(self, pad_id: int) -> None:
        self.pad_id = pad_id

    @abstractmethod
    def rows_(self, logits: Tensor, targets: Tensor, *, gradient: bool) -> RowLosses:
        """Figures of rows without padding: logits (rows * passes, vocabulary) float32 or float64, the passes of a
        target next to each other; targets (rows,) int64. The logits become d loss / d logits if `gradient`, else they
        are left without meaning."""

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss of each token, shaped like targets. Raises ValueError if the shapes do not fit."""
        if logits.shape[:-1] != targets.shape + (self.passes,) * (self.passes > 1):
            raise ValueError(f"logits {tuple(logits.shape)} do not fit targets {tuple(targets.shape)}")
        gradient = torch.is_grad_enabled() and logits.requires_grad
        loss: Tensor = _PerToken.apply(logits, targets, self, gradient)  # type: ignore[no-untyped-call]
        return loss


class _PerToken(torch.autograd.Function):
    """Loss of each token, its gradient computed beside it."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, function: LossFunction, gradient: bool) -> Tensor:
        wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
        rows = logits.reshape(-1, logits.shape[-1]).to(wide, copy=True)  # `rows_` overwrites them
        flat = targets.reshape(-1)
        padding = flat == function.pad_id
        loss = function.rows_(rows, flat.masked_fill(padding, 0), gradient=gradient).loss  # any class: dropped below
        if gradient:
            rows.view(len(flat), -1)[padding] = 0
            ctx.save_for_backward(rows)
            ctx.logits_like = (logits.shape, logits.dtype)
        return loss.masked_fill(padding, 0).view(targets.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:
        (rows,) = ctx.saved_tensors
        shape, dtype = ctx.logits_like
        scaled = rows.view(incoming.numel(), -1) * incoming.reshape(-1, 1)
        return scaled.to(dtype).view(shape), None, None, None
