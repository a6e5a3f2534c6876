"""What every training loss offers: values a token with autograd, and rows with their gradient in place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Rows(NamedTuple):
    """Figures of some target positions, each (rows,)."""

    loss: Tensor
    """training loss in nats"""
    nll: Tensor
    """-log p of the target, unsmoothed, in nats"""
    correct: Tensor
    """bool: the target class has the highest logit"""


def softmax_(logits: Tensor) -> Tensor:
    """Turns logits (rows, vocabulary) into their softmax in place; returns their log-sum-exp, relative to the
    highest of the row, (rows,). Torch's softmax is faster than its exp, and its highest value tells the sum."""
    torch.softmax(logits, 1, out=logits)
    return logits.amax(1).log_().neg_()


class LossFunction(ABC):
    """A loss of logits and targets that computes its gradient beside its value.

    Called like a function, it returns the loss a token: logits (..., vocabulary) of any float type, targets
    (...) int64 -> (...) float32 nats (float64 in, float64 out), 0 at padding, differentiable once. A loss of
    several passes takes logits (..., passes, vocabulary).
    """

    pad_id: int
    signature: str
    passes: int = 1
    """rows of logits for each target: passes over the same text, each with dropout of its own"""

    @abstractmethod
    def rows_(self, logits: Tensor, targets: Tensor, *, gradient: bool) -> Rows:
        """Figures of rows without padding; overwrites the logits.

        logits (rows * passes, vocabulary) float32 or float64, the passes of a target next to each other, become
        d loss / d logits if `gradient`, else they are left without meaning. targets (rows,) int64.
        """

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss a token, shaped like targets. Raises ValueError if the shapes do not fit."""
        if logits.shape[:-1] != targets.shape + (self.passes,) * (self.passes > 1):
            raise ValueError(f"logits {tuple(logits.shape)} do not fit targets {tuple(targets.shape)}")
        gradient = torch.is_grad_enabled() and logits.requires_grad
        loss: Tensor = _PerToken.apply(logits, targets, self, gradient)  # type: ignore[no-untyped-call]
        return loss


class _PerToken(torch.autograd.Function):
    """Loss a token, its gradient computed beside it."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, function: LossFunction, gradient: bool) -> Tensor:
        wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
        rows = logits.reshape(-1, logits.shape[-1]).to(wide, copy=True)
        flat = targets.reshape(-1)
        padding = flat == function.pad_id
        loss = function.rows_(rows, flat.masked_fill(padding, 0), gradient=gradient).loss
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


class AutogradLoss(LossFunction):
    """A loss that is written as a formula alone; autograd differentiates it, slice by slice of a batch."""

    @abstractmethod
    def formula(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss of rows without padding, (rows,); differentiable. Shapes as in `rows_`."""

    def rows_(self, logits: Tensor, targets: Tensor, *, gradient: bool) -> Rows:
        """See LossFunction.rows_; nll and correct are those of the first pass."""
        first = logits[:: self.passes]
        at_target = first.gather(1, targets[:, None]).squeeze(1)
        nll, correct = first.logsumexp(1) - at_target, first.amax(1) == at_target
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_(gradient)
            loss = self.formula(leaf, targets)
            total = loss.sum()
        if gradient:
            logits.copy_(torch.autograd.grad(total, leaf)[0])
        return Rows(loss.detach(), nll, correct)
