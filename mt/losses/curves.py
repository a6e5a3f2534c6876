"""The losses as curves over the probability p of the target, computed by the very functions that train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from mt.losses.encouraging import encouraging
from mt.losses.links import dominant_link
from mt.losses.relatives import focal, inverse_focal
from mt.losses.smoothing import label_smoothed_kl

LOG_ENDS = (0.0, 0.25, 0.5, 0.75, 1.0)
NO_PADDING = -100
SMOOTHING = 0.1

LossOfLogits = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Curve:
    """One line of a figure."""

    label: str
    x: list[float]
    y: list[float]
    dashed: bool = False
    """for what is drawn to compare with"""


@dataclass(frozen=True)
class Figure:
    """Curves over one axis."""

    name: str
    """of its file"""
    title: str
    x_label: str
    y_label: str
    y_range: tuple[float, float]
    curves: list[Curve]
    logarithmic: bool = False


def loss_figures() -> list[Figure]:
    """Loss, bonus, gradient at the target's logit and steepness against p; the optimum against the truth."""
    bonus: dict[str, LossOfLogits] = {f"log-end {log_end:g}": _encouraging(log_end) for log_end in LOG_ENDS}
    compared: dict[str, LossOfLogits] = {
        "cross-entropy": partial(label_smoothed_kl, smoothing=0.0, definition="uniform", pad_id=NO_PADDING),
        "focal, γ = 2": partial(focal, gamma=2.0, pad_id=NO_PADDING),
        "inverse focal, γ = 1": partial(inverse_focal, gamma=1.0, pad_id=NO_PADDING),
    }
    values, gradients, steepness, bonuses = [], [], [], []
    for label, loss in {**compared, **bonus}.items():
        p, value, gradient = _along_p(loss)
        dashed = label not in bonus
        values.append(Curve(label, p.tolist(), value.tolist(), dashed))
        gradients.append(Curve(label, p.tolist(), gradient.abs().tolist(), dashed))
        steep = gradient.abs() / (p * (1 - p))  # d p / d z_y = p (1 - p)
        steepness.append(Curve(label, p.tolist(), steep.tolist(), dashed))
        if not dashed:
            bonuses.append(Curve(label, p.tolist(), (value + p.log()).tolist()))
    over_p = "probability p of the target"
    return [
        Figure("loss", "Loss of one token", over_p, "loss in nats", (-4, 4), values),
        Figure("bonus", "Bonus of the Encouraging Loss", over_p, "bonus in nats", (-4, 0.1), bonuses),
        Figure("gradient", "Pull on the target's logit", over_p, "−∂ loss / ∂ logit", (0, 1.4), gradients),
        Figure("steepness", "Steepness over p", over_p, "−∂ loss / ∂ p", (0.3, 300), steepness, True),
        _optimum(),
    ]


def _encouraging(log_end: float) -> LossOfLogits:
    return partial(encouraging, log_end=log_end, smoothing=0.0, definition="uniform", pad_id=NO_PADDING)


def _along_p(loss: LossOfLogits) -> tuple[Tensor, Tensor, Tensor]:
    """p, loss and its derivative by the target's logit, each (points,) float64; two classes."""
    logit = torch.linspace(-6, 6, 241, dtype=torch.float64)
    logits = torch.stack([logit, torch.zeros_like(logit)], 1).requires_grad_()
    value = loss(logits, torch.zeros(len(logit), dtype=torch.int64))
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    return logit.sigmoid(), value.detach(), gradient[:, 0]


def _optimum() -> Figure:
    """What a perfectly trained model gives a token of true probability r, among many unlikely ones."""
    true = torch.linspace(0.005, 0.995, 199, dtype=torch.float64)
    smoothed = (1 - SMOOTHING) * true
    drawn = [
        Curve("cross-entropy", [0.0, 1.0], [0.0, 1.0], True),
        Curve("smoothing 0.1", true.tolist(), smoothed.tolist(), True),
    ]
    for log_end in (0.0, 0.25, 0.5, 0.75, 0.9):
        drawn.append(Curve(f"log-end {log_end:g}", true.tolist(), dominant_link(true, log_end).tolist()))
    both = dominant_link(smoothed, 0.5)
    drawn.append(Curve("log-end 0.5 and\nsmoothing 0.1", true.tolist(), both.tolist(), True))
    return Figure("optimum", "Where the losses lead", "true probability r", "best probability p*", (0, 1), drawn)
