"""The output projection and the loss in one step, without the logits of the whole batch.

Rows of hidden states are taken block by block: their logits are computed, turned in place into the gradient of
the loss, and multiplied into the gradients of hidden states and weight at once; backward only scales these. A
block has as many rows as matrix products like; the loss works on slices of it, which stay in the shared cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mt.losses.distillation import TeacherStates, distilled_rows_
from mt.losses.function import LossFunction

# Logits that exist at a time, and that the loss works on at a time for each thread, which stay in a core's cache. Few
# large steps: on a busy machine threads wait for each other after every one.
_BLOCK_BYTES = 128 << 20
_SLICE_BYTES = 4 << 20


class LossSums(NamedTuple):
    """Sums over the tokens that are not padding; scalar tensors."""

    loss: Tensor
    """training loss in nats, float32 (float64 for float64 input); carries the gradient"""
    nll: Tensor
    """-log p of the targets in nats, unsmoothed"""
    correct: Tensor
    """int64: tokens whose target has the highest logit"""
    tokens: Tensor
    """int64: all of them"""


def projected_loss(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    loss: LossFunction,
    pad_id: int,
    teacher: TeacherStates | None = None,
) -> LossSums:
    """Sums of `loss` over logits = hidden @ weight.T + bias, but for targets that are `pad_id`.

    hidden (rows, width), for a loss of several passes that many rows for each target, next to each other; weight
    (vocabulary, width); bias (vocabulary,); targets (rows,) int64. With a teacher, `loss` is mixed with the divergence
    from it. Under autocast the products are taken in its type, the loss in float32. The gradient can be asked for once.
    Raises ValueError where shapes do not fit.
    """
    passes = loss.passes
    fits = hidden.shape[:1] == (passes * targets.numel(),) and weight.shape[1:] == hidden.shape[1:]
    if hidden.dim() != 2 or targets.dim() != 1 or not fits:
        raise ValueError(
            f"hidden {tuple(hidden.shape)}, weight {tuple(weight.shape)} and targets {tuple(targets.shape)} "
            f"do not fit; they must be ({passes} * rows, width), (vocabulary, width) and (rows,)"
        )
    if teacher is not None and (len(teacher.hidden), len(teacher.weight)) != (len(targets), len(weight)):
        raise ValueError(f"hidden and weight of the teacher do not fit {len(targets)} targets, {len(weight)} classes")
    real = targets != pad_id
    kept = real.nonzero().squeeze(1)
    if len(kept) < len(targets):
        hidden = hidden.unflatten(0, (-1, passes)).index_select(0, kept).flatten(0, 1)
        targets = targets[kept]
        teacher = teacher and teacher._replace(hidden=teacher.hidden[kept])
    gradient = torch.is_grad_enabled() and any(x.requires_grad for x in (hidden, weight, bias) if x is not None)
    sums: Any = _Projected.apply(hidden, weight, bias, targets, loss, gradient, teacher)  # type: ignore[no-untyped-call]
    return LossSums(sums[0], sums[1], sums[2], real.sum())


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
        teacher: TeacherStates | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        device = hidden.device.type
        product = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        with torch.autocast(device, enabled=False):  # types are chosen by hand: sums and the loss stay wide
            inputs = hidden.to(product), weight.to(product), bias, targets
            sums, gradients = _sums_and_gradients(*inputs, loss, gradient, teacher)
        if gradient:
            dtypes = hidden.dtype, weight.dtype, weight.dtype if bias is None else bias.dtype
            ctx.gradients = [None if grad is None else grad.to(dtype) for grad, dtype in zip(gradients, dtypes)]
        ctx.mark_non_differentiable(sums[1], sums[2])
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, incoming: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None  # they are scaled in place: a second time would be wrong
        if gradients is None:
            raise RuntimeError("the gradient of a projected loss can be asked for once")
        needed = zip(gradients, ctx.needs_input_grad[:3], strict=True)
        scaled = [grad.mul_(incoming) if grad is not None and need else None for grad, need in needed]
        return *scaled, None, None, None, None


def _logits(rows: Tensor, weight: Tensor, bias: Tensor | None, buffer: Tensor) -> Tensor:
    """Logits of some rows, in as many rows of the buffer, whose type is the wider one."""
    logits = buffer[: len(rows)]
    if weight.dtype == buffer.dtype:
        torch.mm(rows, weight.t(), out=logits)
    else:
        logits.copy_(rows @ weight.t())  # mm cannot write into a wider type
    return logits if bias is None else logits.add_(bias)


def _taught(teacher: TeacherStates, step: int, inner_step: int, product: torch.dtype, like: Tensor) -> Iterator[Tensor]:
    """The teacher's logits in blocks of `step` rows, slice by slice, in the type of `like`."""
    weight = teacher.weight.to(product)
    buffer = like.new_empty(step, len(weight))
    for rows in teacher.hidden.to(product).split(step):
        yield from _logits(rows, weight, teacher.bias, buffer).split(inner_step)


def _sums_and_gradients(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    loss: LossFunction,
    gradient: bool,
    teacher: TeacherStates | None,
) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor | None, ...]]:
    """One pass over the rows, block by block: sums of loss, nll and correct, and gradients of hidden, weight, bias."""
    wide = torch.float64 if weight.dtype == torch.float64 else torch.float32
    passes, token_bytes = loss.passes, (loss.passes + (teacher is not None)) * len(weight) * wide.itemsize
    count = max(1, math.ceil(len(targets) / max(1, _BLOCK_BYTES // token_bytes)))
    step = max(1, math.ceil(len(targets) / count))  # blocks as equal as can be
    inner_step = max(1, torch.get_num_threads() * _SLICE_BYTES // token_bytes)
    buffer = hidden.new_empty(step * passes, len(weight), dtype=wide)
    taught = iter(()) if teacher is None else _taught(teacher, step, inner_step, weight.dtype, buffer)
    # Summed in float64, so that long batches lose nothing.
    total, nll = (buffer.new_zeros((), dtype=torch.float64) for _ in range(2))
    correct = torch.zeros((), dtype=torch.int64, device=buffer.device)
    of_hidden = torch.empty_like(hidden) if gradient else hidden  # else never written: it only fills its place below
    of_weight = torch.zeros_like(weight, dtype=wide) if gradient else None
    of_bias = None if bias is None or not gradient else torch.zeros_like(bias, dtype=wide)
    blocks = zip(hidden.split(step * passes), of_hidden.split(step * passes), targets.split(step), strict=True)
    for rows, of_rows, block_targets in blocks:
        logits = _logits(rows, weight, bias, buffer)
        for part, part_targets in zip(logits.split(inner_step * passes), block_targets.split(inner_step), strict=True):
            if teacher is None:
                losses = loss.rows_(part, part_targets, gradient=gradient)
            else:
                losses = distilled_rows_(loss, part, part_targets, next(taught), teacher, gradient=gradient)
            total += losses.loss.sum(dtype=torch.float64)
            nll += losses.nll.sum(dtype=torch.float64)
            correct += losses.correct.sum()
        if of_weight is None:
            continue
        # The loss has turned the logits into their gradient.
        if of_bias is not None:
            of_bias += logits.sum(0)
        narrow = logits.to(weight.dtype)
        torch.mm(narrow, weight, out=of_rows)
        if weight.dtype == wide:
            of_weight.addmm_(narrow.t(), rows)
        else:
            of_weight += narrow.t() @ rows
    return (total.to(wide), nll.to(wide), correct), (of_hidden, of_weight, of_bias)
