"""Curves of an evaluation: against beam size, and against the share of translations that are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from mt.report.inputs import Block
from mt.report.svg import line_style, svg_element


class Curve(NamedTuple):
    """One line of a plot."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


class Panel(NamedTuple):
    """A figure of the search grid: its key in an entry, its name, what it is multiplied by, and decimals."""

    key: str
    title: str
    factor: int = 1
    digits: int = 2
    from_zero: bool = False
    """0 is the best: the axis starts there"""


GRID_PANELS = (
    Panel("bleu", "BLEU"),
    Panel("length_ratio", "length ratio", digits=3),
    Panel("empties", "empty translations", digits=0, from_zero=True),
    Panel("repetitions", "repetitions", from_zero=True),
    Panel("ece_inference", "inference ECE, %", 100, from_zero=True),
    Panel("ece_eos", "end-of-sentence ECE, %", 100, from_zero=True),
    Panel("ece_teacher_forced", "teacher-forced ECE, %", 100, from_zero=True),
    Panel("mean_score", "mean score, nats", digits=3),
)
"""what is drawn against beam size"""


def search_grid_plots(grid: Sequence[Mapping[str, Any]]) -> list[str]:
    """One SVG element for each figure that the grid knows at two beam sizes or more; a line per length penalty."""
    plots = []
    for panel in GRID_PANELS:
        lines: dict[str, list[tuple[int, float]]] = {}
        for entry in grid:
            points = lines.setdefault(penalty_name(entry), [])
            if entry.get(panel.key) is not None:
                points.append((entry["beam"], panel.factor * entry[panel.key]))
        curves = [Curve(name, *zip(*sorted(points))) for name, points in lines.items() if len(points) > 1]
        if curves:
            axis = partial(_beam_axis, from_zero=panel.from_zero)
            plots.append(_curve_plot(f"sweep {panel.key}", panel.title, curves, axis))
    return plots


def penalty_name(entry: Mapping[str, Any]) -> str:
    """The length penalty of an entry of the grid, with its exponent where it has one."""
    name, alpha = entry.get("length_penalty") or "none", entry.get("length_alpha")
    return name if alpha is None or name == "none" else f"{name} {alpha:g}"


def risk_coverage_plot(curves: Sequence[tuple[str, Block]], title: str) -> str:
    """(label, block with `risk_coverage`) as an SVG element: share of wrong tokens among the surest ones."""
    known = [(label, block["risk_coverage"]) for label, block in curves]
    drawn = [Curve(f"{label}  area {each['aurc']:.3f}", each["coverage"], each["risk"]) for label, each in known]
    axis = partial(_share_axis, kept="tokens", y_label="share of them wrong")
    return _curve_plot(f"risk {title}", title, drawn, axis, marked=False)


def selective_plot(curves: Sequence[tuple[str, list[dict[str, Any]]]], metric: str, title: str) -> str:
    """(label, `sequence.selective`) as an SVG element: quality of the most confident translations."""
    points = [(label, [(each["coverage"], each[metric]) for each in entries]) for label, entries in curves]
    drawn = [Curve(label, *zip(*each)) for label, each in points]
    return _curve_plot(f"selective {title}", title, drawn, partial(_share_axis, kept="lines"))


def _curve_plot(
    name: str, title: str, curves: Sequence[Curve], axis: Callable[[Any, Sequence[Curve]], None], marked: bool = True
) -> str:
    """Curves as an SVG element, 3.4 by 2.5 inches; `axis` sets up the axes, `marked`: a mark at each point."""

    def draw() -> Any:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(3.4, 2.5), layout="constrained")
        axes = figure.subplots()
        for number, curve in enumerate(curves):
            style = line_style(number) | ({} if marked else {"marker": ""})
            axes.plot(curve.x, curve.y, label=curve.label, **style)
        axes.set_title(title)
        axis(axes, curves)
        axes.grid()
        axes.spines[["top", "right"]].set_visible(False)
        if len(curves) > 1 or not marked:
            axes.legend(handlelength=3)
        return figure

    return svg_element(name, draw, f"{title}: " + "; ".join(_in_words(curve) for curve in curves))


def _beam_axis(axes: Any, curves: Sequence[Curve], from_zero: bool) -> None:
    """Beam sizes double from tick to tick."""
    beams = sorted({beam for curve in curves for beam in curve.x})
    axes.set_xlabel("beam size")
    axes.set_xscale("log", base=2)
    axes.set_xticks(beams, [f"{beam:g}" for beam in beams])
    axes.minorticks_off()
    if from_zero:
        axes.set_ylim(0, 1.15 * max(max(curve.y) for curve in curves) or 1)


def _share_axis(axes: Any, _: Sequence[Curve], kept: str, y_label: str = "") -> None:
    axes.set(xlabel=f"share of {kept} kept, the surest first", ylabel=y_label, xlim=(0, 1.02))
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])


def _in_words(curve: Curve) -> str:
    if len(curve.x) > 12:
        return f"{curve.label}: from {curve.y[0]:.4g} at {curve.x[0]:.3g} to {curve.y[-1]:.4g} at {curve.x[-1]:.3g}"
    return f"{curve.label}: " + ", ".join(f"{y:.4g} at {x:.3g}" for x, y in zip(curve.x, curve.y))
