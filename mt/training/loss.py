"""A batch's way through the model, and its teacher's, to loss and gradients."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mt.losses.distillation import TeacherStates
from mt.losses.function import LossFunction
from mt.losses.projection import LossSums, projected_loss
from mt.model.transformer import Transformer
from mt.training.data import Batch
from mt.training.optimiser import Gradients


class Teacher(NamedTuple):
    """A model in evaluation mode from whose distributions another one learns, see `mt.losses.distillation`."""

    model: Transformer
    temperature: float
    share: float


def _states(model: Transformer, batch: Batch, passes: int, bfloat16: bool) -> Tensor:
    """States of the real target positions, (tokens * passes, width), the passes of a position next to each other."""
    device = batch.source.device.type
    model.use_bfloat16_products(bfloat16 and device == "cpu")
    # A loss of several passes sees every sentence as often, each time with dropout of its own.
    source, target_input = (each.repeat(passes, 1) for each in (batch.source, batch.target_input))
    with torch.autocast(device, torch.bfloat16, enabled=bfloat16 and device != "cpu"):
        hidden = model(source, target_input)
    hidden = hidden.unflatten(0, (passes, -1)).flatten(1, 2).transpose(0, 1)
    if batch.positions is not None:
        hidden = hidden.index_select(0, batch.positions)
    return hidden.flatten(0, 1)


def batch_loss(
    model: Transformer, batch: Batch, loss: LossFunction, bfloat16: bool = False, teacher: Teacher | None = None
) -> LossSums:
    """Loss sums over the real target tokens of a batch. `bfloat16`: products in it; on a GPU, under autocast, other
    operations, too, on a processor no others, see `mt.model.linear`."""
    taught = None
    if teacher is not None:  # first, while no other states are in memory
        with torch.no_grad():
            states = _states(teacher.model, batch, 1, bfloat16)
        taught = TeacherStates(states, teacher.model.output_weight, teacher.model.output_bias, *teacher[1:])
    hidden, weight, bias = _states(model, batch, loss.passes, bfloat16), model.output_weight, model.output_bias
    with torch.autocast(batch.source.device.type, torch.bfloat16, enabled=bfloat16):
        return projected_loss(hidden, weight, bias, batch.targets, loss=loss, pad_id=model.pad_id, teacher=taught)


def add_gradients(
    model: Transformer,
    batch: Batch,
    loss: LossFunction,
    gradients: Gradients,
    bfloat16: bool = False,
    teacher: Teacher | None = None,
) -> None:
    """Adds the gradient of the batch's loss sum, and its figures; the one division comes with `Gradients.reduce`."""
    sums = batch_loss(model, batch, loss, bfloat16, teacher)
    sums.loss.backward()
    gradients.count(loss=sums.loss.detach(), nll=sums.nll, correct=sums.correct)
    gradients.count(tokens=batch.tokens, slots=batch.slots, filled=batch.filled)
