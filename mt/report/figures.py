"""Reliability diagrams: accuracy against confidence, bin by bin.

Conventions after the reliability diagrams of Hollance (github.com/hollance/reliability-diagrams): a line at each
bin's accuracy, a bar from there to its mean confidence (the gap), the diagonal dashed, and below the number of
tokens with lines at overall accuracy (solid) and mean confidence (dotted). Added here: 95 % Wilson intervals of
the accuracies, a logarithmic axis of counts, hatching that tells over- from under-confidence without colour,
and no mark at all for empty bins.
"""

from __future__ import annotations

import html
import math
import re
from io import StringIO
from typing import Any

import numpy as np

INK = "#010203"
"""stands for the page's text colour while matplotlib draws; `currentColor` afterwards"""
OVER, UNDER = "#d1495b", "#3a7ca5"
HATCHES = {OVER: "////", UNDER: "\\\\\\\\"}


def wilson_interval(correct: float, count: float, deviations: float = 1.959963984540054) -> tuple[float, float]:
    """Interval of a proportion (Wilson 1927): `correct` of `count`, 95 % unless told otherwise."""
    share, square = correct / count, deviations * deviations
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = deviations / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def reliability_diagram(result: dict[str, Any], title: str) -> str:
    """A calibration block of results.json as an SVG element, the same text for the same input.

    Text stays text; the ink is `currentColor` on a transparent ground, so that it follows the page around it.
    """
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": f"diagram {title}"}):
        figure = _draw(result, title)
        buffer = StringIO()
        figure.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )  # fmt: skip
    return _inline(buffer.getvalue(), f"{title}: {describe(result)}")


def reliability_image(result: dict[str, Any], title: str = "") -> np.ndarray:
    """The same diagram as pixels: (height, width, 3) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(_draw(result, title))
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[:, :, :3])


def describe(result: dict[str, Any]) -> str:
    """What the diagram shows, in a sentence, for those who cannot see it."""
    if not result["tokens"]:
        return "no tokens"
    gap = result["confidence"] - result["accuracy"]
    direction = "over-confident" if gap > 0 else "under-confident"
    return (
        f"{result['tokens']} tokens, accuracy {result['accuracy']:.3f}, mean confidence {result['confidence']:.3f}: "
        f"on average {direction} by {abs(gap):.3f}; expected calibration error {result['ece']:.4f}"
    )


def _draw(result: dict[str, Any], title: str) -> Any:
    """The figure, 4.6 by 5.4 inches: reliability above, counts below."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"hatch.linewidth": 0.6, "font.family": "sans-serif", "font.size": 9}):
        figure = Figure(figsize=(4.6, 5.4), dpi=100, layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [4, 1.3]})
        _draw_reliability(upper, result)
        _draw_counts(lower, result)
        upper.set_title(title, color=INK, fontsize=10)
        for axes in (upper, lower):
            axes.tick_params(colors=INK)
            axes.patch.set_alpha(0)
            for spine in axes.spines.values():
                spine.set_color(INK)
            axes.xaxis.label.set_color(INK)
            axes.yaxis.label.set_color(INK)
    return figure


def _draw_reliability(axes: Any, result: dict[str, Any]) -> None:
    axes.plot([0, 1], [0, 1], linestyle="--", color=INK, linewidth=0.8, alpha=0.7)
    for each in result["bins"]:
        if not each["count"]:
            continue
        centre, width = (each["low"] + each["high"]) / 2, each["high"] - each["low"]
        accuracy, confidence = each["accuracy"], each["confidence"]
        colour = OVER if confidence > accuracy else UNDER
        gap = {"height": abs(confidence - accuracy), "width": width * 0.9, "bottom": min(confidence, accuracy)}
        axes.bar(centre, facecolor=colour + "44", **gap)
        # the hatching on its own: in an SVG it would fade with the ground it shares a bar with
        axes.bar(centre, facecolor="none", edgecolor=colour, hatch=HATCHES[colour], linewidth=0.6, **gap)
        axes.plot([centre - width * 0.45, centre + width * 0.45], [accuracy, accuracy], color=INK, linewidth=1.6)
        low, high = wilson_interval(accuracy * each["count"], each["count"])
        axes.plot([centre, centre], [low, high], color=INK, linewidth=0.8)
    handles = [_patch(OVER, "over-confident gap"), _patch(UNDER, "under-confident gap")]
    legend = axes.legend(handles=handles, loc="upper left", fontsize=8, frameon=False, labelcolor=INK)
    legend.set_zorder(5)
    ece = f"ECE = {100 * result['ece']:.2f} %" if result["tokens"] else "no tokens"
    axes.text(0.97, 0.04, ece, ha="right", va="bottom", color=INK, fontsize=11, transform=axes.transAxes)
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")


def _patch(colour: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(facecolor="none", edgecolor=colour, hatch=HATCHES[colour], label=label, linewidth=0.6)


def _draw_counts(axes: Any, result: dict[str, Any]) -> None:
    counts = [each["count"] for each in result["bins"]]
    for each in result["bins"]:
        centre, width = (each["low"] + each["high"]) / 2, each["high"] - each["low"]
        axes.bar(centre, each["count"], width * 0.9, facecolor="#8888", edgecolor=INK, linewidth=0.5)
    if result["tokens"]:
        axes.axvline(result["accuracy"], color=INK, linewidth=1.4, label="overall accuracy")
        axes.axvline(result["confidence"], color=INK, linewidth=1.4, linestyle=":", label="mean confidence")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.42), ncol=2, fontsize=8, frameon=False, labelcolor=INK)
        axes.set_yscale("log")
    axes.set(ylim=(max([1, *counts]) * 2, 0.8), xlabel="confidence", ylabel="tokens")  # upside down: counts hang


def _inline(svg: str, description: str) -> str:
    """The bare <svg> element, fit to stand beside others in one page."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # matplotlib names its groups figure_1, axes_1 ...: the same in every figure, and nothing refers to them
    svg = re.sub(r'(<g) id="[a-zA-Z0-9.]+_\d+"', r"\1", svg)
    svg = svg.replace(INK, "currentColor")
    label = html.escape(description, quote=True)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
