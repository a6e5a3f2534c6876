"""Reliability diagrams: accuracy against confidence, bin by bin.

Conventions after the reliability diagrams of Hollance (github.com/hollance/reliability-diagrams): a line at each
bin's accuracy, a bar from there to its mean confidence (the gap), the diagonal dashed, and below the number of
tokens with lines at overall accuracy (solid) and mean confidence (dotted). Added here: 95 % intervals of the
accuracies, a logarithmic axis of counts, hatching that tells over- from under-confidence without colour, no mark
at all for empty bins, and several systems over one another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mt.report.inputs import Block
from mt.report.svg import INK, OVER, STYLE, UNDER, line_style, svg_element

# They tell over- from under-confidence without colour.
HATCHES = {OVER: "////", UNDER: "\\\\\\\\"}


def reliability_diagram(block: Block, title: str) -> str:
    """A calibration block of results.json as an SVG element."""
    return svg_element(f"diagram {title}", lambda: _draw(block, title), f"{title}: {describe(block)}")


def reliability_overlay(blocks: Sequence[tuple[str, Block]], title: str) -> str:
    """Several (label, calibration block) over one another, as an SVG element."""
    description = "; ".join(f"{label}: {describe(block)}" for label, block in blocks)
    return svg_element(f"overlay {title}", lambda: _draw_overlay(blocks, title), f"{title}: {description}")


def reliability_image(block: Block, title: str = "") -> np.ndarray:
    """The diagram of one block as pixels: (height, width, 3) uint8."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with matplotlib.rc_context(STYLE):
        canvas = FigureCanvasAgg(_draw(block, title))
        canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[:, :, :3])


def describe(block: Block) -> str:
    """What the diagram shows, in a sentence, for those who cannot see it."""
    if not block["tokens"]:
        return "no tokens"
    accuracy, confidence = block["accuracy"], block["confidence"]
    direction = "over-confident" if confidence > accuracy else "under-confident"
    return (
        f"{block['tokens']} tokens, accuracy {accuracy:.3f}, mean confidence {confidence:.3f}: on average {direction} "
        f"by {abs(confidence - accuracy):.3f}; expected calibration error {block['ece']:.4f}"
    )


def _panels(title: str) -> tuple[Any, Any, Any]:
    """An empty figure, 4.6 by 5.4 inches: reliability above, counts below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 5.4), dpi=100, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [4, 1.3]})
    upper.plot([0, 1], [0, 1], linestyle="--", color=INK, linewidth=0.8, alpha=0.7)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", title=title)
    lower.set(xlabel="confidence", ylabel="tokens")
    return figure, upper, lower


def _draw(block: Block, title: str) -> Any:
    from matplotlib.patches import Patch

    figure, upper, lower = _panels(title)
    for each in block["bins"]:
        centre, width = (each["low"] + each["high"]) / 2, (each["high"] - each["low"]) * 0.9
        lower.bar(centre, each["count"], width, facecolor="#888888", alpha=0.5, edgecolor=INK, linewidth=0.5)
        if each["count"]:
            _draw_bin(upper, each, centre, width)
    named = ((OVER, "over-confident gap"), (UNDER, "under-confident gap"))
    handles = [Patch(label=label, **_hatching(colour)) for colour, label in named]
    upper.legend(handles=handles, loc="upper left").set_zorder(5)
    summary = "no tokens"
    if block["tokens"]:
        summary = f"ECE {100 * block['ece']:.2f} %"
        if block.get("noise_floor") is not None:
            summary += f"\nnoise floor {100 * block['noise_floor']:.2f} %"
        lower.axvline(block["accuracy"], color=INK, linewidth=1.4, label="overall accuracy")
        lower.axvline(block["confidence"], color=INK, linewidth=1.4, linestyle=":", label="mean confidence")
        lower.legend(loc="upper center", bbox_to_anchor=(0.5, -0.42), ncol=2)
        lower.set_yscale("log")
    upper.text(0.97, 0.04, summary, ha="right", va="bottom", fontsize=11, transform=upper.transAxes)
    lower.set_ylim(2 * max(1, *(each["count"] for each in block["bins"])), 0.8)  # upside down: counts hang
    return figure


def _draw_bin(axes: Any, each: Mapping[str, Any], centre: float, width: float) -> None:
    accuracy, confidence = each["accuracy"], each["confidence"]
    colour = OVER if confidence > accuracy else UNDER
    gap = {"height": abs(confidence - accuracy), "width": width, "bottom": min(confidence, accuracy)}
    axes.bar(centre, facecolor=colour, alpha=0.25, **gap)
    # the hatching on its own: in an SVG it would fade with the ground it shares a bar with
    axes.bar(centre, **gap, **_hatching(colour))
    axes.plot([centre - width / 2, centre + width / 2], [accuracy, accuracy], color=INK, linewidth=1.6)
    axes.plot([centre, centre], _band(each), color=INK, linewidth=0.8)


def _band(each: Mapping[str, Any]) -> tuple[float, float]:
    """95 % interval of a bin's accuracy; none is known of the first versions' evaluations."""
    return each.get("band_low", each["accuracy"]), each.get("band_high", each["accuracy"])


def _hatching(colour: str) -> dict[str, Any]:
    return {"facecolor": "none", "edgecolor": colour, "hatch": HATCHES[colour], "linewidth": 0.6}


def _draw_overlay(blocks: Sequence[tuple[str, Block]], title: str) -> Any:
    figure, upper, lower = _panels(title)
    for number, (label, block) in enumerate(blocks):
        filled = [each for each in block["bins"] if each["count"]]
        style = line_style(number)
        confidence, accuracy = [each["confidence"] for each in filled], [each["accuracy"] for each in filled]
        lows, highs = zip(*(_band(each) for each in filled))
        upper.fill_between(confidence, lows, highs, color=style["color"], alpha=0.15, linewidth=0)
        upper.plot(confidence, accuracy, label=f"{label}  ECE {100 * block['ece']:.2f} %", **style)
        edges = [block["bins"][0]["low"], *(each["high"] for each in block["bins"])]
        counts = [max(each["count"], 0.5) for each in block["bins"]]
        lower.stairs(counts, edges, baseline=0.5, color=style["color"], linestyle=style["linestyle"], linewidth=1.3)
    upper.legend(loc="upper left")
    lower.set_yscale("log")
    lower.set_ylim(2 * max(each["count"] for _, block in blocks for each in block["bins"]), 0.8)
    return figure
