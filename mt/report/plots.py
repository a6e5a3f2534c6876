"""Curves of an evaluation: against beam size, and against the share of translations that are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mt.report.svg import line_style, svg_element


class Curve(NamedTuple):
    """One line of a plot."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


SWEEP_PANELS = (
    ("bleu", "BLEU", 1),
    ("length_ratio", "length ratio", 1),
    ("empties", "empty translations", 1),
    ("repetitions", "repetitions", 1),
    ("ece_inference", "inference ECE, %", 100),
    ("ece_eos", "end-of-sentence ECE, %", 100),
    ("ece_teacher_forced", "teacher-forced ECE, %", 100),
    ("mean_score", "mean score, nats", 1),
)
"""what is drawn against beam size: key of a sweep entry, its name, and what it is multiplied by"""
FROM_ZERO = {"empties", "repetitions", "ece_inference", "ece_eos", "ece_teacher_forced"}
"""what is nothing at its best: the axis starts at 0"""


def sweep_plots(sweep: list[dict[str, Any]]) -> list[str]:
    """One SVG element for each figure that the sweep knows at two beam sizes or more; a line per length penalty."""
    plots = []
    for key, title, factor in SWEEP_PANELS:
        curves = []
        for penalty in dict.fromkeys(penalty_name(entry) for entry in sweep):
            known = sorted(
                (entry["beam"], factor * entry[key])
                for entry in sweep
                if penalty_name(entry) == penalty and entry.get(key) is not None
            )
            if len(known) > 1:
                curves.append(Curve(penalty, [beam for beam, _ in known], [value for _, value in known]))
        if curves:
            prepare = _beam_axis_from_zero if key in FROM_ZERO else _beam_axis
            plots.append(curve_plot(f"sweep {key}", title, curves, x_label="beam size", prepare=prepare))
    return plots


def penalty_name(entry: dict[str, Any]) -> str:
    """The length penalty of a sweep entry, with its exponent where it has one."""
    name, alpha = entry.get("length_penalty") or "none", entry.get("length_alpha")
    return name if alpha is None or name == "none" else f"{name} {alpha:g}"


def risk_coverage_plot(curves: Sequence[tuple[str, dict[str, Any]]], title: str, name: str = "") -> str:
    """(label, block with `risk_coverage`) as an SVG element: share of wrong tokens among the surest ones."""
    drawn = [
        Curve(f"{label}  area {_area(block):.3f}", block["risk_coverage"]["coverage"], block["risk_coverage"]["risk"])
        for label, block in curves
    ]
    return curve_plot(
        f"risk {name or title}",
        title,
        drawn,
        x_label="share of tokens kept, the surest first",
        y_label="share of them wrong",
        prepare=_share_axis,
        marked=False,
    )


def selective_plot(curves: Sequence[tuple[str, list[dict[str, Any]]]], metric: str, title: str, name: str = "") -> str:
    """(label, `sequence.selective`) as an SVG element: quality of the most confident translations."""
    drawn = [
        Curve(label, [each["coverage"] for each in entries], [each[metric] for each in entries])
        for label, entries in curves
    ]
    return curve_plot(
        f"selective {name or title}", title, drawn, x_label="share of lines kept, the surest first", prepare=_share_axis
    )


def curve_plot(
    name: str,
    title: str,
    curves: Sequence[Curve],
    *,
    x_label: str,
    y_label: str = "",
    prepare: Callable[[Any, Sequence[Curve]], None],
    marked: bool = True,
) -> str:
    """Curves as an SVG element, 3.4 by 2.5 inches; `marked`: a mark at each point."""

    def draw() -> Any:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(3.4, 2.5), layout="constrained")
        axes = figure.subplots()
        for number, curve in enumerate(curves):
            style = line_style(number) | ({} if marked else {"marker": ""})
            axes.plot(curve.x, curve.y, label=curve.label, **style)
        axes.set(title=title, xlabel=x_label, ylabel=y_label)
        prepare(axes, curves)
        axes.grid()
        axes.spines[["top", "right"]].set_visible(False)
        if len(curves) > 1 or not marked:
            axes.legend(handlelength=3)
        return figure

    return svg_element(name, draw, f"{title}: " + "; ".join(_in_words(curve) for curve in curves))


def dumbbell(confidence: float, accuracy: float) -> str:
    """A small SVG element for a table: accuracy (full) and confidence (hollow) on a line from 0 to 1."""
    x_accuracy, x_confidence = 4 + 112 * accuracy, 4 + 112 * confidence
    return (
        '<svg class="dumbbell" aria-hidden="true" viewBox="0 0 120 12" width="120" height="12">'
        '<path d="M4 6H116" stroke="currentColor" stroke-opacity=".25"/>'
        f'<path d="M{x_accuracy:.1f} 6H{x_confidence:.1f}" stroke="currentColor" stroke-width="2"/>'
        f'<circle cx="{x_accuracy:.1f}" cy="6" r="4" fill="currentColor"/>'
        f'<circle cx="{x_confidence:.1f}" cy="6" r="3.2" class="hollow" stroke="currentColor" stroke-width="1.6"/>'
        "</svg>"
    )


def _area(block: dict[str, Any]) -> float:
    return float(block["risk_coverage"]["aurc"])


def _beam_axis(axes: Any, curves: Sequence[Curve]) -> None:
    """Beam sizes double from tick to tick."""
    beams = sorted({beam for curve in curves for beam in curve.x})
    axes.set_xscale("log", base=2)
    axes.set_xticks(beams, [f"{beam:g}" for beam in beams])
    axes.minorticks_off()


def _beam_axis_from_zero(axes: Any, curves: Sequence[Curve]) -> None:
    _beam_axis(axes, curves)
    axes.set_ylim(0, 1.15 * max(max(curve.y) for curve in curves) or 1)


def _share_axis(axes: Any, curves: Sequence[Curve]) -> None:
    axes.set_xlim(0, 1.02)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])


def _in_words(curve: Curve) -> str:
    if len(curve.x) > 12:
        return f"{curve.label}: from {curve.y[0]:.4g} at {curve.x[0]:.3g} to {curve.y[-1]:.4g} at {curve.x[-1]:.3g}"
    return f"{curve.label}: " + ", ".join(f"{y:.4g} at {x:.3g}" for x, y in zip(curve.x, curve.y))
