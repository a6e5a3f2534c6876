"""Word-level knowledge distillation (Hinton et al. 2015; Kim and Rush 2016, section 3.1): a student learns, beside the
labels, the whole distribution that a teacher gives each token. With softmax(z / T) of the logits z of both, whose
gradients fall with 1 / T^2, and T^2 to make up for that (Hinton et al., section 2):

    (1 - share) loss + share T^2 KL(teacher_T || student_T)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mt.losses.function import LossFunction, RowLosses


class TeacherStates(NamedTuple):
    """The teacher's side of a batch; it gets no gradient. hidden (rows, its width), a row a target; weight (vocabulary,
    its width); bias (vocabulary,); share: of the divergence in the loss, 0 to 1."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None
    temperature: float
    share: float


def distilled_rows_(
    loss: LossFunction, logits: Tensor, targets: Tensor, taught: Tensor, teacher: TeacherStates, *, gradient: bool
) -> RowLosses:
    """As `loss.rows_`, of the mix; nll and correct are the student's own. taught: the teacher's logits, (rows,
    vocabulary), overwritten. Of a loss of several passes each is distilled, and their divergences are summed."""
    temperature, share = teacher.temperature, teacher.share
    of_teacher = torch.log_softmax(taught.div_(temperature), 1)[:, None]
    of_student = torch.log_softmax(logits / temperature, 1).unflatten(0, (-1, loss.passes))
    p = of_teacher.exp()
    divergence = (p * (of_teacher - of_student)).sum((1, 2))
    rows = loss.rows_(logits, targets, gradient=gradient)
    if gradient:
        apart = of_student.exp_().sub_(p).flatten(0, 1)
        logits.mul_(1 - share).add_(apart, alpha=share * temperature)  # of T^2 KL: T (student_T - teacher_T)
    return rows._replace(loss=(1 - share) * rows.loss + share * temperature**2 * divergence)
