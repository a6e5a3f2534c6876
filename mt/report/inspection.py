"""The page of an inspection, and its figures, made from inspection.json."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mt.files.atomic import write_text
from mt.files.json_file import read_json
from mt.report.page import environment
from mt.report.svg import INK, label_text, line_style, svg_element

_MARGINS = ("over the mean of all others", "over the runner-up")
_LOSSES = {"loss": "training loss", "cross_entropy": "cross-entropy"}


def write_inspection(folder: Path) -> Path:
    """Writes `inspection.html` and `figures/inspection_*.svg` into the folder of an inspection; gives the path of the
    page. Raises UserError where inspection.json is missing or damaged."""
    found = read_json(folder / "inspection.json", dict[str, Any], "run inspect again")
    figures = {
        "projection": _projection(found["projection"]),
        "margins": _margins(found["margins"]),
        "gradient_norm": _gradients(found["gradients"], "norm", "length of the gradient"),
        "gradient_pull": _gradients(found["gradients"], "pull", "pull on the right piece"),
    }
    (folder / "figures").mkdir(exist_ok=True)
    for name, svg in figures.items():
        write_text(folder / "figures" / f"inspection_{name}.svg", svg + "\n")
    page = environment().get_template("inspection.html.j2").render(found=found, figures=figures)
    write_text(folder / "inspection.html", page)
    return folder / "inspection.html"


def _plot(title: str, description: str, draw: Callable[[Any], Any], height: float = 3.4) -> str:
    """Axes, which `draw` fills, as an SVG element 4.6 inches wide."""

    def drawn() -> Any:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4.6, height + 0.2), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.set_title(title)
        axes.grid()
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", handlelength=3, ncol=3)
        figure.draw_without_rendering()  # axes of equal scale choose their ticks late, and need room for them
        return figure

    return svg_element(f"inspection {title}", drawn, f"{title}: {description}")


def _projection(pieces: list[dict[str, Any]]) -> str:
    def draw(axes: Any) -> None:
        for number, each in enumerate(pieces):
            style = line_style(number) | {"linestyle": "none", "alpha": 0.6, "markeredgewidth": 0}
            axes.plot(*np.transpose(each["states"]), label=label_text(each["piece"]).replace("$", r"\$"), **style)
        axes.set_aspect("equal", adjustable="datalim")

    means = [f"{each['piece']} around {np.mean(each['states'], axis=0).round(2).tolist()}" for each in pieces]
    return _plot("states in the plane of three templates", "; ".join(means), draw, 4.6)


def _margins(margins: dict[str, Any]) -> str:
    expected = "" if margins["expected"] is None else f"expected: {margins['expected']:.2f}"

    def draw(axes: Any) -> None:
        for number, (name, counts) in enumerate(zip(_MARGINS, margins["histograms"])):
            style = {key: value for key, value in line_style(number).items() if key != "marker"}
            axes.stairs(counts, margins["edges"], label=name, **style)
        if expected:
            axes.axvline(margins["expected"], color=INK, linewidth=1, linestyle=":", label=expected)
        axes.set(xlabel="logit of the right piece less the others, nats", ylabel="tokens")

    medians = [f"median {margins[key]['50']:.2f} {name}" for key, name in zip(("mean", "runner_up"), _MARGINS)]
    return _plot("margins of the right piece", "; ".join([*medians, expected]), draw)


def _gradients(gradients: dict[str, Any], what: str, title: str) -> str:
    middles = np.add(gradients["edges"][1:], gradients["edges"][:-1]) / 2
    curves = {label: np.array(gradients[f"{key}_{what}"], dtype=float) for key, label in _LOSSES.items()}

    def draw(axes: Any) -> None:
        for number, (label, values) in enumerate(curves.items()):
            axes.plot(middles, values, label=label, **line_style(number))
        axes.set(xlabel="probability of the right piece", xlim=(0, 1))
        axes.set_ylim(bottom=0)

    told = [f"{label} {', '.join(f'{each:.3g}' for each in values)}" for label, values in curves.items()]
    return _plot(title, f"in {len(middles)} bins of probability: {'; '.join(told)}", draw)
