"""Word-level distillation through the fused projection, against its definition in plain float64 torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import mt.losses.projection
from mt.config import LossConfig
from mt.losses import LossFunction, build_loss, projected_loss
from mt.losses.distillation import TeacherStates

PAD, CLASSES = 0, 23
CONFIGS = [
    LossConfig(smoothing=0.0),
    LossConfig(smoothing=0.1),
    LossConfig(name="encouraging", reference=True),
    LossConfig(name="focal"),
    LossConfig(name="r_drop", smoothing=0.2),
]


def student(rows: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """hidden (rows, 7), weight (23, 7), bias (23,)."""
    generator = torch.Generator().manual_seed(1)
    shapes = (rows, 7), (CLASSES, 7), (CLASSES,)
    return [torch.randn(*shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def targets_of(count: int) -> Tensor:
    """Every third one is padding."""
    targets = torch.randint(1, CLASSES, (count,), generator=torch.Generator().manual_seed(2))
    targets[1::3] = PAD
    return targets


def teacher_of(count: int, temperature: float, share: float, bias: bool = True) -> TeacherStates:
    """Of another width than the student's."""
    generator = torch.Generator().manual_seed(3)
    shapes = (count, 11), (CLASSES, 11), (CLASSES,)
    hidden, weight, its_bias = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return TeacherStates(hidden, weight, its_bias if bias else None, temperature, share)


def function(config: LossConfig) -> LossFunction:
    return build_loss(config, pad_id=PAD, begin_id=2, vocabulary_size=CLASSES)


def divergence(logits: Tensor, teacher: TeacherStates, real: Tensor) -> Tensor:
    """Sum over real targets and their passes of T^2 sum_k t_k (log t_k - log s_k)."""
    t = teacher.temperature
    taught = teacher.hidden @ teacher.weight.t() + (0 if teacher.bias is None else teacher.bias)
    log_t = torch.log_softmax(taught / t, 1).repeat_interleave(len(logits) // len(taught), 0)
    log_s = torch.log_softmax(logits / t, 1)
    each = (log_t.exp() * (log_t - log_s)).sum(1) * real.repeat_interleave(len(logits) // len(taught))
    return t * t * each.sum()


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize(("block", "with_bias"), [(1, True), (3, False), (3, True), (100, True)])
def test_value_and_gradients_are_those_of_the_mix(
    config: LossConfig, share: float, temperature: float, block: int, with_bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, count = function(config), 10
    inputs = student(count * loss.passes)[: 3 if with_bias else 2]
    targets, teacher = targets_of(count), teacher_of(count, temperature, share, with_bias)
    bias, real = inputs[2] if with_bias else None, targets != PAD
    monkeypatch.setattr(mt.losses.projection, "_BLOCK_BYTES", 8 * CLASSES * (loss.passes + 1) * block)
    monkeypatch.setattr(mt.losses.projection, "_SLICE_BYTES", 8 * CLASSES * (loss.passes + 1) * 2)
    sums = projected_loss(inputs[0], inputs[1], bias, targets, loss=loss, pad_id=PAD, teacher=teacher)
    gradients = torch.autograd.grad(sums.loss / 7, inputs)
    with torch.no_grad():
        without = projected_loss(inputs[0], inputs[1], bias, targets, loss=loss, pad_id=PAD, teacher=teacher)

    logits = inputs[0] @ inputs[1].t() + (0 if bias is None else bias)
    labels = loss(logits.unflatten(0, (-1, loss.passes)) if loss.passes > 1 else logits, targets).sum()
    dense = (1 - share) * labels + share * divergence(logits, teacher, real)
    torch.testing.assert_close(sums.loss, dense, rtol=1e-10, atol=1e-10)
    for ours, theirs in zip(gradients, torch.autograd.grad(dense / 7, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    nll = torch.nn.functional.cross_entropy(
        logits[real.repeat_interleave(loss.passes)], targets[real].repeat_interleave(loss.passes), reduction="sum"
    )
    torch.testing.assert_close(sums.nll, nll.detach() / loss.passes)  # the student's, unsmoothed, whatever the mix
    first = logits[:: loss.passes]
    assert int(sums.correct) == int((first.argmax(1) == targets)[real].sum())
    for ours, theirs in zip(without, sums, strict=True):
        torch.testing.assert_close(ours, theirs.detach())


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_without_a_share_the_teacher_changes_nothing(config: LossConfig) -> None:
    loss = function(config)
    hidden, weight, bias = student(9 * loss.passes)
    found = []
    for teacher in (None, teacher_of(9, 2.0, 0.0)):
        sums = projected_loss(hidden, weight, bias, targets_of(9), loss=loss, pad_id=PAD, teacher=teacher)
        found.append([sums.loss, *torch.autograd.grad(sums.loss, [hidden, weight, bias])])
    for plain, taught in zip(*found, strict=True):
        torch.testing.assert_close(taught, plain, rtol=1e-14, atol=0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_from_a_teacher_that_is_the_student_there_is_nothing_to_learn(temperature: float, dtype: torch.dtype) -> None:
    inputs = student(9, dtype)
    hidden, weight, bias = (each.detach() for each in inputs)
    teacher = TeacherStates(hidden, weight, bias, temperature, 1.0)
    sums = projected_loss(*inputs, targets_of(9), loss=function(CONFIGS[1]), pad_id=PAD, teacher=teacher)
    assert sums.loss.item() == 0 and sums.nll > 1
    assert not any(gradient.any() for gradient in torch.autograd.grad(sums.loss, inputs))


def test_the_teacher_gets_no_gradient_and_keeps_its_states() -> None:
    hidden, weight, bias = student(9)
    teacher = teacher_of(9, 1.0, 0.5)
    kept = [each.clone() for each in teacher[:3]]  # type: ignore[union-attr]
    for each in teacher[1:3]:
        each.requires_grad_()  # type: ignore[union-attr]
    loss = function(CONFIGS[1])
    projected_loss(hidden, weight, bias, targets_of(9), loss=loss, pad_id=PAD, teacher=teacher).loss.backward()
    assert hidden.grad is not None and weight.grad is not None and bias.grad is not None
    for each, before in zip(teacher[:3], kept, strict=True):
        assert each.grad is None and torch.equal(each, before)  # type: ignore[union-attr]


@pytest.mark.parametrize("margin", [60.0, 1e4, -1e4])
def test_sure_teachers_and_sure_students_stay_finite(margin: float) -> None:
    sure = torch.zeros(1, 6)
    sure[0, 2] = margin
    for hidden, taught in ((sure, torch.zeros(1, 6)), (torch.zeros(1, 6), sure), (sure, -sure)):
        leaf = hidden.clone().requires_grad_()
        teacher = TeacherStates(taught, torch.eye(6), None, 1.0, 0.5)
        loss = build_loss(CONFIGS[0], pad_id=PAD, begin_id=1, vocabulary_size=6)
        sums = projected_loss(leaf, torch.eye(6), None, torch.tensor([2]), loss=loss, pad_id=PAD, teacher=teacher)
        assert sums.loss.isfinite() and torch.autograd.grad(sums.loss, leaf)[0].isfinite().all()


def test_bfloat16_products_of_both_keep_the_divergence_in_float32() -> None:
    inputs = student(12, torch.float32)
    hidden, weight, bias, *mix = teacher_of(12, 2.0, 0.5)
    teacher = TeacherStates(hidden.float(), weight.float(), bias.float(), *mix)  # type: ignore[union-attr]
    loss, found = function(CONFIGS[1]), []
    for bfloat16 in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            sums = projected_loss(*inputs, targets_of(12), loss=loss, pad_id=PAD, teacher=teacher)
        found.append([sums.loss, *torch.autograd.grad(sums.loss, inputs)])
    for exact, rounded in zip(*found, strict=True):
        assert rounded.dtype == torch.float32 and not torch.equal(rounded, exact)
        torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.1)


def test_a_batch_of_padding_has_no_divergence_either() -> None:
    inputs, teacher = student(3), teacher_of(3, 1.0, 0.5)
    loss, targets = function(CONFIGS[1]), torch.full((3,), PAD)
    sums = projected_loss(*inputs, targets, loss=loss, pad_id=PAD, teacher=teacher)
    assert [figure.item() for figure in sums] == [0, 0, 0, 0]
    assert not any(gradient.any() for gradient in torch.autograd.grad(sums.loss, inputs))


def test_a_teacher_of_other_tokens_or_another_vocabulary_is_refused() -> None:
    inputs, teacher, loss = student(4), teacher_of(4, 1.0, 0.5), function(CONFIGS[0])
    for wrong in (teacher._replace(hidden=teacher.hidden[:3]), teacher._replace(weight=teacher.weight[:-1])):
        with pytest.raises(ValueError, match="teacher do not fit 4 targets, 23 classes"):
            projected_loss(*inputs, targets_of(4), loss=loss, pad_id=PAD, teacher=wrong)
