"""Every loss against a plain dense formula in float64, differentiated by autograd."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mt.losses import encouraging, label_smoothed_kl
from mt.losses.targets import DEFINITIONS

PAD, BEGIN = 0, 2


def dense_target(
    targets: Tensor,
    size: int,
    definition: str,
    smoothing: float,
    excluded: tuple[int, ...] = (),
    unigram: Tensor | None = None,
) -> Tensor:
    """q (rows, size) of section 1.1's table, written out class by class."""
    q = torch.zeros(len(targets), size, dtype=torch.float64)
    out = set(excluded) | ({PAD} if definition.endswith("_nopad") else set())
    for row, gold in enumerate(targets.tolist()):
        allowed = [k for k in range(size) if k not in out]
        others = [k for k in allowed if k != gold]
        if definition in ("uniform", "uniform_nopad"):
            q[row, allowed] = smoothing / len(allowed)
            q[row, gold] += 1 - smoothing
        elif definition in ("others", "others_nopad"):
            q[row, others] = smoothing / len(others)
            q[row, gold] = 1 - smoothing
        elif definition == "scatter":
            q[row, allowed] = smoothing / len(allowed)
            q[row, gold] = 1 - smoothing
        else:
            assert unigram is not None
            mass = sum(float(unigram[k]) for k in allowed)
            for k in allowed:
                q[row, k] = smoothing * float(unigram[k]) / mass
            q[row, gold] += 1 - smoothing
    return q


def dense_kl(logits: Tensor, targets: Tensor, q: Tensor) -> Tensor:
    terms = torch.xlogy(q, q) - q * torch.log_softmax(logits, -1)
    return terms.sum(-1) * (targets != PAD)


def dense_encouraging(
    logits: Tensor, targets: Tensor, q: Tensor, bonus_q: Tensor, log_end: float, excluded: tuple[int, ...]
) -> Tensor:
    log_p = torch.log_softmax(logits, -1)
    p = log_p.exp()
    # log(1 - p) by leaving each class out of the log-sum-exp
    size = logits.shape[-1]
    alone = torch.eye(size, dtype=torch.bool)
    without = logits[..., None, :].masked_fill(alone, -torch.inf).logsumexp(-1)
    without = without - logits.logsumexp(-1, keepdim=True)
    if log_end < 1:
        room = 1 - log_end
        tangent = torch.log(torch.tensor(room, dtype=logits.dtype)) - (p - log_end) / room
        without = torch.where(p > log_end, tangent, without)
    bonus_q = bonus_q.clone()
    bonus_q[:, list(excluded)] = 0
    return (-(q * log_p) + bonus_q * without).sum(-1) * (targets != PAD)


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(loss.sum(), of)[0]


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    actual, expected = actual.detach(), expected.detach()
    assert torch.isfinite(actual).all()
    difference = (actual.double() - expected.double()).abs().max()
    assert float(difference) <= tolerance * max(1.0, float(expected.abs().max()))


@st.composite
def rows(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of some rows, their targets (some padding), and unigram frequencies."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    count, size = draw(st.integers(1, 6)), draw(st.integers(6, 40))
    scale = draw(st.sampled_from([0.1, 1.0, 5.0, 15.0]))
    logits = torch.randn(count, size, generator=generator, dtype=torch.float64) * scale
    targets = torch.randint(0, size, (count,), generator=generator)
    if draw(st.booleans()):  # the target is the arg-max
        targets = logits.argmax(1)
    unigram = torch.rand(size, generator=generator, dtype=torch.float64) + 0.01
    return logits, targets, unigram


SMOOTHING = st.sampled_from([0.0, 0.01, 0.1, 0.3, 0.9])
LOG_ENDS = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.6, 0.75, 0.9, 1.0])
EXCLUDED: st.SearchStrategy[tuple[int, ...]] = st.sampled_from([(), (PAD, BEGIN)])


@settings(max_examples=120, deadline=None)
@given(rows(), SMOOTHING, st.sampled_from(DEFINITIONS))
def test_kl_and_its_gradient_are_the_dense_formula(
    rows: tuple[Tensor, Tensor, Tensor], smoothing: float, definition: str
) -> None:
    logits, targets, frequencies = rows
    unigram = frequencies if definition == "unigram" else None
    q = dense_target(targets, logits.shape[1], definition, smoothing, unigram=unigram)
    reference = logits.clone().requires_grad_()
    expected = dense_kl(reference, targets, q)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        ours = logits.to(dtype).requires_grad_()
        loss = label_smoothed_kl(ours, targets, smoothing=smoothing, definition=definition, pad_id=PAD, unigram=unigram)
        assert loss.dtype == dtype
        assert_close(loss, expected, tolerance)
        assert_close(gradient(loss, ours), gradient(dense_kl(reference, targets, q), reference), tolerance)


@settings(max_examples=200, deadline=None)
@given(rows(), SMOOTHING, st.one_of(st.none(), SMOOTHING), st.sampled_from(DEFINITIONS), LOG_ENDS, EXCLUDED)
def test_encouraging_and_its_gradient_are_the_dense_formula(
    rows: tuple[Tensor, Tensor, Tensor],
    smoothing: float,
    bonus_smoothing: float | None,
    definition: str,
    log_end: float,
    excluded: tuple[int, ...],
) -> None:
    logits, targets, frequencies = rows
    unigram = frequencies if definition == "unigram" else None
    size = logits.shape[1]
    q = dense_target(targets, size, definition, smoothing, excluded, unigram)
    bonus_q = (
        q if bonus_smoothing is None else dense_target(targets, size, definition, bonus_smoothing, excluded, unigram)
    )

    def expected(reference: Tensor) -> Tensor:
        return dense_encouraging(reference, targets, q, bonus_q, log_end, excluded)

    reference = logits.clone().requires_grad_()
    for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-5)):
        ours = logits.to(dtype).requires_grad_()
        loss = encouraging(
            ours,
            targets,
            log_end=log_end,
            smoothing=smoothing,
            definition=definition,
            pad_id=PAD,
            bonus_smoothing=bonus_smoothing,
            excluded_ids=excluded,
            unigram=unigram,
        )
        assert loss.dtype == dtype
        assert_close(loss, expected(reference), tolerance)
        assert_close(gradient(loss, ours), gradient(expected(reference), reference), tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("margin", [10.0, -10.0, 60.0, -60.0, 1e4, -1e4])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("log_end", [0.0, 0.5, 1.0])
def test_extreme_margins_give_finite_values_and_gradients(
    dtype: torch.dtype, margin: float, smoothing: float, log_end: float
) -> None:
    logits = torch.zeros(3, 7, dtype=dtype)
    logits[0, 1] = margin  # the target
    logits[1, 3] = margin  # another class
    logits[2, 1:4] = margin  # three tied
    logits.requires_grad_()
    targets = torch.tensor([1, 1, 1])
    losses = [
        encouraging(logits, targets, log_end=log_end, smoothing=smoothing, definition="uniform", pad_id=PAD),
        label_smoothed_kl(logits, targets, smoothing=smoothing, definition="others", pad_id=PAD),
    ]
    for loss in losses:
        grad = gradient(loss, logits)
        assert torch.isfinite(loss).all() and torch.isfinite(grad).all()
        assert grad.dtype == dtype
        assert float(grad.float().abs().max()) <= 12  # at most 1 + 1 / (1 - log_end), or 1 without tangent
        assert float(grad.double().sum().abs()) <= 2e-2  # q sums to 1, up to the rounding of half precision


def test_pure_encouraging_loss_keeps_its_gradient_where_probability_rounds_to_one() -> None:
    logits = torch.tensor([[1e4, 0.0, 0.0, 0.0, 0.0]], requires_grad=True)
    for smoothing in (0.0, 0.1):
        loss = encouraging(
            logits, torch.tensor([0]), log_end=1.0, smoothing=smoothing, definition="uniform", pad_id=-100
        )
        # uniform q: gold 1 - 4e where e = smoothing / 5, others e. At this margin p_other = 0,
        # -log p_other = 1e4, log(1 - p_gold) = log 4 - 1e4
        e = smoothing / 5
        expected = (1 - 4 * e) * (torch.log(torch.tensor(4.0)) - 1e4) + 4 * e * 1e4
        torch.testing.assert_close(loss[0], expected)
        pull = (1 - 4 * e) / 4 - e  # shared out over the four others, less what smoothing asks for
        expected_gradient = torch.tensor([[-4 * pull, pull, pull, pull, pull]])
        torch.testing.assert_close(gradient(loss, logits), expected_gradient)


def test_the_gradient_of_a_certain_token_is_exact_where_its_probability_rounds_to_one() -> None:
    logits = torch.tensor([[30.0, 0.0]], requires_grad=True)
    loss = encouraging(logits, torch.tensor([0]), log_end=0.5, smoothing=0.0, definition="uniform", pad_id=-100)
    # (1 - p)(1 + p / (1 - log_end)) with p = 1 in float32
    expected = 3 / (1 + torch.tensor(30.0).double().exp())
    torch.testing.assert_close(
        gradient(loss, logits).double(), torch.stack([-expected, expected])[None], rtol=1e-5, atol=0
    )
