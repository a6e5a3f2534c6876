"""Figures of an evaluation: reliability diagrams, and curves against beam size and the share that is kept.

Conventions of the diagrams after Hollance (github.com/hollance/reliability-diagrams): a line at each bin's accuracy,
a bar from there to its mean confidence (the gap), the diagonal dashed, and below the number of tokens with lines at
overall accuracy (solid) and mean confidence (dotted). Added here: 95 % intervals of the accuracies, a logarithmic
axis of counts, hatching that tells over- from under-confidence without colour, no mark at all for empty bins, and
several systems over one another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from mt.report.inputs import Block
from mt.report.svg import INK, OVER, STYLE, UNDER, label_text, line_style, svg_element


class Curve(NamedTuple):
    """A line of a figure, and its 95 % intervals where they are known."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def reliability_diagram(block: Block, title: str) -> str:
    """A calibration block of results.json as an SVG element."""
    return svg_element(f"diagram {title}", lambda: _draw(block, title), f"{title}: {_describe(block)}")


def reliability_overlay(blocks: Sequence[tuple[str, Block]], title: str) -> str:
    """Several (label, calibration block) over one another, as an SVG element."""
    description = "; ".join(f"{label}: {_describe(block)}" for label, block in blocks)
    return svg_element(f"overlay {title}", lambda: _draw_overlay(blocks, title), f"{title}: {description}")


def reliability_image(block: Block, title: str = "") -> np.ndarray:
    """The diagram of one block as pixels: (height, width, 3) uint8."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with matplotlib.rc_context(STYLE):
        canvas = FigureCanvasAgg(_draw(block, title))
        canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[:, :, :3])


def _describe(block: Block) -> str:
    """What the diagram shows, in a sentence, for those who cannot see it."""
    if not block["tokens"]:
        return "no tokens"
    accuracy, confidence = block["accuracy"], block["confidence"]
    direction = "over-confident" if confidence > accuracy else "under-confident"
    return (
        f"{block['tokens']} tokens, accuracy {accuracy:.3f}, mean confidence {confidence:.3f}: on average {direction} "
        f"by {abs(confidence - accuracy):.3f}; expected calibration error {block['ece']:.4f}"
    )


def _panels(title: str, legend_rows: int = 2) -> tuple[Any, Any, Any]:
    """An empty figure, 4.6 by 5.6 inches: reliability above, counts, and room for a legend below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 5.2 + 0.2 * legend_rows), dpi=100, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [4, 1.3]})
    upper.plot([0, 1], [0, 1], linestyle="--", color=INK, linewidth=0.8, alpha=0.7)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy", title=title)
    lower.set(xlabel="confidence", ylabel="tokens")
    return figure, upper, lower


def _draw(block: Block, title: str) -> Any:
    from matplotlib.patches import Patch

    summary = "no tokens"
    if block["tokens"]:
        summary = f"ECE {block['ece']:.4f}"
        if block.get("noise_floor") is not None:
            summary += f", noise floor {block['noise_floor']:.4f}"
    figure, upper, lower = _panels(f"{title}\n{summary}")
    for each in block["bins"]:
        centre, width = (each["low"] + each["high"]) / 2, (each["high"] - each["low"]) * 0.9
        lower.bar(centre, each["count"], width, facecolor="#888888", alpha=0.5, edgecolor=INK, linewidth=0.5)
        if not each["count"]:
            continue
        accuracy, confidence = each["accuracy"], each["confidence"]
        colour = OVER if confidence > accuracy else UNDER
        gap = {"height": abs(confidence - accuracy), "width": width, "bottom": min(confidence, accuracy)}
        upper.bar(centre, facecolor=colour, alpha=0.25, **gap)
        # the hatching on its own: in an SVG it would fade with the ground it shares a bar with
        upper.bar(centre, **gap, **_hatching(colour))
        upper.plot([centre - width / 2, centre + width / 2], [accuracy, accuracy], color=INK, linewidth=1.6)
        upper.plot([centre, centre], _band(each), color=INK, linewidth=0.8)
    named = ((OVER, "over-confident gap"), (UNDER, "under-confident gap"))
    handles = [Patch(label=label, **_hatching(colour)) for colour, label in named]
    if block["tokens"]:
        for key, name, style in (("accuracy", "overall accuracy", "-"), ("confidence", "mean confidence", ":")):
            handles.append(lower.axvline(block[key], color=INK, linewidth=1.4, linestyle=style, label=name))
        lower.set_yscale("log")
    figure.legend(handles=handles, loc="outside lower center", ncol=2)  # never on the data
    lower.set_ylim(2 * max(1, *(each["count"] for each in block["bins"])), 0.8)  # upside down: counts hang
    return figure


def _band(each: Mapping[str, Any]) -> tuple[float, float]:
    """95 % interval of a bin's accuracy; none is known of the first versions' evaluations."""
    return each.get("band_low", each["accuracy"]), each.get("band_high", each["accuracy"])


def _hatching(colour: str) -> dict[str, Any]:
    """Tells over- from under-confidence without colour."""
    hatch = "////" if colour == OVER else r"\\\\"
    return {"facecolor": "none", "edgecolor": colour, "hatch": hatch, "linewidth": 0.6}


def _draw_overlay(blocks: Sequence[tuple[str, Block]], title: str) -> Any:
    figure, upper, lower = _panels(title, len(blocks))
    for number, (label, block) in enumerate(blocks):
        filled, style = [each for each in block["bins"] if each["count"]], line_style(number)
        confidence, accuracy = [each["confidence"] for each in filled], [each["accuracy"] for each in filled]
        lows, highs = zip(*(_band(each) for each in filled))
        upper.fill_between(confidence, lows, highs, color=style["color"], alpha=0.15, linewidth=0)
        name = label.replace("$", r"\$")  # begins no formula
        upper.plot(confidence, accuracy, label=f"{name}  ECE {block['ece']:.4f}", **style)
        edges = [block["bins"][0]["low"], *(each["high"] for each in block["bins"])]
        counts = [max(each["count"], 0.5) for each in block["bins"]]
        lower.stairs(counts, edges, baseline=0.5, color=style["color"], linestyle=style["linestyle"], linewidth=1.3)
    figure.legend(loc="outside lower center", handlelength=3)
    lower.set_yscale("log")
    lower.set_ylim(2 * max(each["count"] for _, block in blocks for each in block["bins"]), 0.8)
    return figure


class Panel(NamedTuple):
    """A figure of the search grid: its key in an entry, its name and decimals."""

    key: str
    title: str
    digits: int = 2
    span: float = 0.0
    """the axis covers so much at least: no zoom makes a difference of what is none; 0: it starts at 0, which is best"""


GRID_PANELS = (
    Panel("bleu", "BLEU", span=4.0),
    Panel("length_ratio", "length ratio", digits=3, span=0.1),
    Panel("empties", "empty translations", digits=0),
    Panel("repetitions", "repetitions", digits=0),
    Panel("ece_inference", "output ECE", digits=4),
    Panel("ece_eos", "end-of-sentence ECE", digits=4),
    Panel("mean_score", "mean score, nats", digits=3, span=0.2),
)


def grid_panels(grid: Sequence[Mapping[str, Any]]) -> list[Panel]:
    """What is shown against beam size: all that is known and not 0 everywhere."""
    return [panel for panel in GRID_PANELS if any(entry.get(panel.key) for entry in grid)]


def search_grid_plots(grid: Sequence[Mapping[str, Any]]) -> list[str]:
    """One SVG element for each figure that the grid knows at two beam sizes or more; a line per length penalty."""
    plots = []
    for panel in grid_panels(grid):
        lines: dict[str, list[tuple[float, ...]]] = {}
        for entry in grid:
            figures = [entry.get(panel.key + end) for end in ("", "_low", "_high")]
            if figures[0] is not None:
                known = [figure for figure in figures if figure is not None]
                lines.setdefault(penalty_name(entry), []).append((entry["beam"], *known))
        several = {name: sorted(points) for name, points in lines.items() if len(points) > 1}
        if curves := [Curve(name, *zip(*points)) for name, points in several.items()]:
            axis = partial(_beam_axis, span=panel.span)
            plots.append(_curve_plot(f"sweep {panel.key}", panel.title, curves, axis))
    return plots


def penalty_name(entry: Mapping[str, Any]) -> str:
    """The length penalty of an entry of the grid, with its exponent where it has one."""
    name, alpha = entry.get("length_penalty") or "none", entry.get("length_alpha")
    return label_text(name if alpha is None or name == "none" else f"{name} {alpha:g}")


def selective_plot(curves: Sequence[tuple[str, list[dict[str, Any]]]], metric: str, title: str) -> str:
    """(label, `sequence.selective`) as an SVG element: quality of the most confident translations."""
    drawn: list[Curve] = []
    for label, entries in curves:
        drawn.append(Curve(label, [each["coverage"] for each in entries], [each[metric] for each in entries]))
    return _curve_plot(f"selective {title}", title, drawn, _share_axis)


def _curve_plot(name: str, title: str, curves: Sequence[Curve], axis: Callable[[Any, Sequence[Curve]], None]) -> str:
    """Curves as an SVG element, 3.4 by 2.5 inches and more for a legend; `axis` sets up the axes."""

    def draw() -> Any:
        from matplotlib.figure import Figure

        legend_rows = -(-len(curves) // 3) if len(curves) > 1 else 0
        figure = Figure(figsize=(3.4, 2.5 + 0.18 * legend_rows), layout="constrained")
        axes = figure.subplots()
        for number, (label, x, y, low, high) in enumerate(curves):
            style = line_style(number)
            if len(high) == len(x):  # against beam size: bars of several lines beside one another
                x = np.array(x) * 1.07 ** (number - (len(curves) - 1) / 2)
                axes.vlines(x, low, high, color=style["color"], linewidth=1, alpha=0.6)
            axes.plot(x, y, label=label.replace("$", r"\$"), **style)
        axes.set_title(title)
        axis(axes, curves)
        axes.grid()
        axes.spines[["top", "right"]].set_visible(False)
        if len(curves) > 1:
            figure.legend(loc="outside lower center", handlelength=3, ncol=3)
        return figure

    return svg_element(name, draw, f"{title}: " + "; ".join(map(_in_words, curves)))


def _beam_axis(axes: Any, curves: Sequence[Curve], span: float) -> None:
    """Beam sizes double from tick to tick; `span` as of a Panel."""
    beams = sorted({beam for curve in curves for beam in curve.x})
    axes.set_xlabel("beam size")
    axes.set_xscale("log", base=2)
    axes.set_xticks(beams, [f"{beam:g}" for beam in beams])
    axes.minorticks_off()
    low, high = axes.get_ylim()
    room = max(0.0, span - high + low) / 2
    axes.set_ylim(*((low - room, high + room) if span else (0, high)))


def _share_axis(axes: Any, _: Sequence[Curve]) -> None:
    axes.set(xlabel="share of lines kept, the surest first", xlim=(0, 1.02))
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])


def _in_words(curve: Curve) -> str:
    return f"{curve.label}: " + ", ".join(f"{height:.4g} at {place:.3g}" for place, height in zip(curve.x, curve.y))
