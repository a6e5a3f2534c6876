"""The curves are those of the losses: known points, and the printed table of gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mt.losses.curves import Curve, Figure, loss_figures

FIGURES = {figure.name: figure for figure in loss_figures()}


def at(figure: Figure, label: str, x: float) -> float:
    curve: Curve = next(curve for curve in figure.curves if curve.label == label)
    return float(np.interp(x, curve.x, curve.y))


def test_the_figures_are_the_five_of_the_page() -> None:
    assert list(FIGURES) == ["loss", "bonus", "gradient", "steepness", "optimum"]
    for figure in FIGURES.values():
        for curve in figure.curves:
            assert len(curve.x) == len(curve.y) and all(map(math.isfinite, curve.y))
            assert curve.x == sorted(curve.x)


@pytest.mark.parametrize(
    ("label", "loss", "pull"),
    [  # at p = 3/4, by hand: log-end 1/2 has log(1/2) - 1/2 and (1 - p)(1 + 2 p)
        ("cross-entropy", -math.log(0.75), 0.25),
        ("log-end 1", math.log(0.25 / 0.75), 1.0),
        ("log-end 0.5", -math.log(0.75) + math.log(0.5) - 0.5, 0.625),
        ("log-end 0", -math.log(0.75) - 0.75, 0.4375),
        ("focal, γ = 2", -math.log(0.75) / 16, (1 / 16) * (0.25 - 1.5 * math.log(0.75))),
    ],
)
def test_loss_bonus_gradient_and_steepness_at_a_point(label: str, loss: float, pull: float) -> None:
    assert at(FIGURES["loss"], label, 0.75) == pytest.approx(loss, abs=2e-3)
    assert at(FIGURES["gradient"], label, 0.75) == pytest.approx(pull, abs=2e-3)
    assert at(FIGURES["steepness"], label, 0.75) == pytest.approx(pull / (0.75 * 0.25), abs=1e-2)
    if label.startswith("log-end"):
        assert at(FIGURES["bonus"], label, 0.75) == pytest.approx(loss + math.log(0.75), abs=2e-3)


def test_optima_at_seven_tenths() -> None:
    best = {"cross-entropy": 0.7, "smoothing 0.1": 0.63, "log-end 0.5": 0.8643, "log-end 0": 0.8084}
    for label, expected in best.items():
        assert at(FIGURES["optimum"], label, 0.7) == pytest.approx(expected, abs=1e-3)
