"""Reliability diagrams: accuracy against confidence, bin by bin.

Conventions after the reliability diagrams of Hollance (github.com/hollance/reliability-diagrams): a line at each
bin's accuracy, a bar from there to its mean confidence (the gap), the diagonal dashed, and below the number of
tokens with lines at overall accuracy (solid) and mean confidence (dotted). Added here: 95 % intervals of the
accuracies, a logarithmic axis of counts, hatching that tells over- from under-confidence without colour, no mark
at all for empty bins, and several systems over one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mt.metrics.noise import wilson_interval
from mt.report.svg import INK, OVER, STYLE, UNDER, line_style, svg_element

HATCHES = {OVER: "////", UNDER: "\\\\\\\\"}


def reliability_diagram(result: dict[str, Any], title: str, name: str = "") -> str:
    """A calibration block of results.json as an SVG element; `name` tells diagrams of one title apart."""
    return svg_element(f"diagram {name or title}", lambda: _draw(result, title), f"{title}: {describe(result)}")


def reliability_overlay(results: Sequence[tuple[str, dict[str, Any]]], title: str, name: str = "") -> str:
    """Several (label, calibration block) over one another, as an SVG element."""
    description = "; ".join(f"{label}: {describe(block)}" for label, block in results)
    return svg_element(f"overlay {name or title}", lambda: _draw_overlay(results, title), f"{title}: {description}")


def reliability_image(result: dict[str, Any], title: str = "") -> np.ndarray:
    """The diagram of one block as pixels: (height, width, 3) uint8."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with matplotlib.rc_context(STYLE):
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


def _panels() -> tuple[Any, Any, Any]:
    """An empty figure, 4.6 by 5.4 inches: reliability above, counts below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 5.4), dpi=100, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [4, 1.3]})
    upper.plot([0, 1], [0, 1], linestyle="--", color=INK, linewidth=0.8, alpha=0.7)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    lower.set(xlabel="confidence", ylabel="tokens")
    return figure, upper, lower


def _draw(result: dict[str, Any], title: str) -> Any:
    figure, upper, lower = _panels()
    _draw_bins(upper, result)
    _draw_counts(lower, result)
    upper.set_title(title)
    return figure


def _draw_bins(axes: Any, result: dict[str, Any]) -> None:
    for each in result["bins"]:
        if not each["count"]:
            continue
        centre, width = (each["low"] + each["high"]) / 2, each["high"] - each["low"]
        accuracy, confidence = each["accuracy"], each["confidence"]
        colour = OVER if confidence > accuracy else UNDER
        gap = {"height": abs(confidence - accuracy), "width": width * 0.9, "bottom": min(confidence, accuracy)}
        axes.bar(centre, facecolor=colour, alpha=0.25, **gap)
        # the hatching on its own: in an SVG it would fade with the ground it shares a bar with
        axes.bar(centre, facecolor="none", edgecolor=colour, hatch=HATCHES[colour], linewidth=0.6, **gap)
        axes.plot([centre - width * 0.45, centre + width * 0.45], [accuracy, accuracy], color=INK, linewidth=1.6)
        axes.plot([centre, centre], accuracy_band(each), color=INK, linewidth=0.8)
    handles = [_patch(OVER, "over-confident gap"), _patch(UNDER, "under-confident gap")]
    axes.legend(handles=handles, loc="upper left").set_zorder(5)
    ece = f"ECE {100 * result['ece']:.2f} %" if result["tokens"] else "no tokens"
    if result["tokens"] and result.get("noise_floor") is not None:
        ece += f"\nnoise floor {100 * result['noise_floor']:.2f} %"
    axes.text(0.97, 0.04, ece, ha="right", va="bottom", fontsize=11, transform=axes.transAxes)


def accuracy_band(each: dict[str, Any]) -> tuple[float, float]:
    """95 % interval of a bin's accuracy: as measured over sentences where known, else Wilson's."""
    low, high = each.get("band_low"), each.get("band_high")
    if low is not None and high is not None:
        return float(low), float(high)
    return wilson_interval(each["accuracy"] * each["count"], each["count"])


def _patch(colour: str, label: str) -> Any:
    from matplotlib.patches import Patch

    return Patch(facecolor="none", edgecolor=colour, hatch=HATCHES[colour], label=label, linewidth=0.6)


def _draw_counts(axes: Any, result: dict[str, Any]) -> None:
    counts = [each["count"] for each in result["bins"]]
    for each in result["bins"]:
        centre, width = (each["low"] + each["high"]) / 2, each["high"] - each["low"]
        axes.bar(centre, each["count"], width * 0.9, facecolor="#888888", alpha=0.5, edgecolor=INK, linewidth=0.5)
    if result["tokens"]:
        axes.axvline(result["accuracy"], color=INK, linewidth=1.4, label="overall accuracy")
        axes.axvline(result["confidence"], color=INK, linewidth=1.4, linestyle=":", label="mean confidence")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.42), ncol=2)
        axes.set_yscale("log")
    axes.set_ylim(max([1, *counts]) * 2, 0.8)  # upside down: counts hang


def _draw_overlay(results: Sequence[tuple[str, dict[str, Any]]], title: str) -> Any:
    figure, upper, lower = _panels()
    highest = 1
    for number, (label, result) in enumerate(results):
        filled = [each for each in result["bins"] if each["count"]]
        style = line_style(number)
        x, y = [each["confidence"] for each in filled], [each["accuracy"] for each in filled]
        bands = [accuracy_band(each) for each in filled]
        upper.fill_between(
            x, [low for low, _ in bands], [high for _, high in bands], color=style["color"], alpha=0.15, linewidth=0
        )
        upper.plot(x, y, label=f"{label}  ECE {100 * result['ece']:.2f} %", **style)
        edges = [result["bins"][0]["low"], *(each["high"] for each in result["bins"])]
        counts = [max(each["count"], 0.5) for each in result["bins"]]
        lower.stairs(counts, edges, baseline=0.5, color=style["color"], linestyle=style["linestyle"], linewidth=1.3)
        highest = max([highest, *counts])
    upper.legend(loc="upper left")
    upper.set_title(title)
    lower.set_yscale("log")
    lower.set_ylim(highest * 2, 0.8)
    return figure
