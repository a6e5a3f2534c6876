"""Figures of curves: deterministic, with text that stays text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mt.cli.plot_losses import main
from mt.report.curves import draw_curves

FIGURE: dict[str, Any] = {
    "name": "two",
    "title": "Two lines",
    "x_label": "across",
    "y_label": "up",
    "y_range": (0.1, 10),
    "logarithmic": True,
    "curves": [
        {"label": "ours", "x": [0.0, 1.0], "y": [1.0, 2.0], "dashed": False},
        {"label": "theirs", "x": [0.0, 1.0], "y": [2.0, 1.0], "dashed": True},
    ],
}


def test_the_same_figure_is_the_same_text_and_its_words_stay_words() -> None:
    svg = draw_curves(FIGURE)
    assert svg == draw_curves(FIGURE)
    for word in ("Two lines", "across", "up", "ours", "theirs"):
        assert f">{word}<" in svg
    assert "stroke-dasharray" in svg


def words_of(svg: str) -> list[str]:
    """Labels and ticks; coordinates may differ in the last digits with another matplotlib."""
    return [line.partition(">")[2] for line in svg.splitlines() if "<text" in line]


def test_the_shipped_figures_are_what_the_code_draws(tmp_path: Path) -> None:
    """Run tools/plot_losses.py after a change of the losses or of the drawing."""
    main(["--output", str(tmp_path)])
    shipped = Path(__file__).resolve().parents[3] / "docs/figures"
    drawn = sorted(tmp_path.iterdir())
    assert len(drawn) == 5
    for path in drawn:
        committed = (shipped / path.name).read_text(encoding="utf-8")
        assert len(committed) < 100_000
        assert words_of(committed) == words_of(path.read_text(encoding="utf-8"))
