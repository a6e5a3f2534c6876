"""Figures of curves, as SVG text."""

from __future__ import annotations

from io import StringIO
from typing import Any

INK, GROUND = "#1a1a1a", "#ffffff"
DASHES = [(0, (5, 2)), (0, (2, 1.5)), (0, (6, 2, 1, 2))]
"""of the lines to compare with; dashes tell them apart without colour too"""


def draw_curves(figure: dict[str, Any]) -> str:
    """An SVG document of a figure: title, x_label, y_label, y_range (low, high), logarithmic, and curves, each with
    label, x, y and dashed. Text stays text; the same figure gives the same document."""
    import matplotlib

    style = {"svg.fonttype": "none", "svg.hashsalt": figure["name"], "font.family": "sans-serif", "font.size": 9}
    with matplotlib.rc_context(style):
        buffer = StringIO()
        plot(figure).savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Title": figure["title"]})
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"


def plot(figure: dict[str, Any]) -> Any:
    """The figure as matplotlib draws it, 6 by 3.6 inches."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(6, 3.6), layout="constrained", facecolor=GROUND)
    axes = drawn.subplots()
    compared = [curve for curve in figure["curves"] if curve["dashed"]]
    family = [curve for curve in figure["curves"] if not curve["dashed"]]
    for curve, dashes in zip(compared, DASHES):
        axes.plot(curve["x"], curve["y"], color=INK, linewidth=1.2, linestyle=dashes, label=curve["label"])
    for number, curve in enumerate(family):
        colour = colormaps["viridis"](0.82 * number / max(1, len(family) - 1))
        axes.plot(curve["x"], curve["y"], color=colour, linewidth=1.8, label=curve["label"], zorder=1.5)
    axes.set(title=figure["title"], xlabel=figure["x_label"], ylabel=figure["y_label"], xlim=(0, 1))
    axes.set_yscale("log" if figure["logarithmic"] else "linear")
    axes.set_ylim(*figure["y_range"])
    axes.grid(color=INK, alpha=0.12, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    drawn.legend(loc="outside right upper", frameon=False, handlelength=2.6)
    return drawn
