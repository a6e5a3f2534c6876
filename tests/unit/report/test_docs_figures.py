"""The figures of the docs: all that the pages link to, as they were committed, and with the losses' known points."""

from __future__ import annotations

import math
import re
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

DOCS = Path(__file__).resolve().parents[3] / "docs"


@pytest.fixture(scope="module")
def draw() -> dict[str, Any]:
    """What docs/figures/draw.py defines."""
    return runpy.run_path(str(DOCS / "figures" / "draw.py"))


def words_of(svg: str) -> list[str]:
    """Labels and ticks; coordinates may differ in the last digits with another matplotlib."""
    return re.findall(r"<text[^>]*>([^<]*)<", svg)


def test_every_figure_that_the_docs_link_to_is_drawn_as_it_was_committed(draw: dict[str, Any]) -> None:
    """Run docs/figures/draw.py after a change of the losses or of the drawing."""
    drawn = draw["figures"]()
    linked = {
        name for page in DOCS.glob("*.md") for name in re.findall(r"\(figures/([^)]+)\)", page.read_text("utf-8"))
    }
    assert linked == drawn.keys()
    for name, svg in drawn.items():
        committed = (DOCS / "figures" / name).read_text(encoding="utf-8")
        assert len(committed) < 100_000
        assert words_of(committed) == words_of(svg) and len(words_of(svg)) > 8


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
def test_the_curves_of_the_losses_pass_through_points_by_hand(
    draw: dict[str, Any], label: str, loss: float, pull: float
) -> None:
    figures = draw["loss_figures"]()

    def at(figure: str) -> float:
        curve = next(curve for curve in figures[figure][1] if curve.label == label)
        return float(np.interp(0.75, curve.x, curve.y))

    assert at("loss") == pytest.approx(loss, abs=2e-3)
    assert at("gradient") == pytest.approx(pull, abs=2e-3)
    assert at("steepness") == pytest.approx(pull / (0.75 * 0.25), abs=1e-2)
    if label.startswith("log-end"):
        assert at("bonus") == pytest.approx(loss + math.log(0.75), abs=2e-3)


def test_the_optima_at_seven_tenths_are_those_by_hand(draw: dict[str, Any]) -> None:
    curves = {curve.label: curve for curve in draw["loss_figures"]()["optimum"][1]}
    for label, best in {
        "cross-entropy": 0.7,
        "smoothing 0.1": 0.63,
        "log-end 0.5": 0.8643,
        "log-end 0": 0.8084,
    }.items():
        assert float(np.interp(0.7, curves[label].x, curves[label].y)) == pytest.approx(best, abs=1e-3)
