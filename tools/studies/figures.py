"""The figures of a study, from results.json alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mt.losses.targets import encouraging_inverse_link
from mt.report.figures import reliability_overlay
from mt.report.svg import INK, line_style, svg_element

Results = Mapping[str, Any]
_COLOURS = {"supported": "#0a7d5c", "refuted": "#c1384c"}


def study_figures(results: Results) -> dict[str, str]:
    """All figures that the results have something for, as SVG elements by name."""
    drawn: dict[str, str] = {}
    if any(each.get("effect") is not None for _, each in _comparisons(results)):
        words = "effect of each comparison with its 95 % interval, in margins; see the table"
        drawn["comparisons"] = svg_element("comparisons", lambda: _forest(results), words)
    for corpus in dict.fromkeys(group.partition("/")[0] for group in results["reliability"]):
        blocks = [(_variant(group), block) for group, block in results["reliability"].items() if _plain(group, corpus)]
        if blocks:
            drawn[f"reliability-{corpus}"] = reliability_overlay(blocks[:6], f"{corpus}, teacher-forced")
        curves = {group: rows for group, rows in results["curves"].items() if _plain(group, corpus)}
        if curves:
            draw = _of_truth(corpus, curves, {each["group"]: each["loss"] for each in results["cells"]})
            drawn[f"truth-{corpus}"] = svg_element(f"truth {corpus}", draw, "model probability by true probability")
        lines = _learning(results, corpus)
        if lines:
            draw = _lines(f"{corpus}: validation", lines, "update", "BLEU")
            drawn[f"learning-{corpus}"] = svg_element(f"learning {corpus}", draw, "validation BLEU by update")
        for outcome, label, span in (("bleu", "BLEU", 4.0), ("length_ratio", "length ratio", 0.1)):
            if lines := _beams(results, corpus, outcome):
                draw = _lines(f"{corpus}: beams", lines, "beam size", label, logarithmic=True, span=span)
                drawn[f"beams-{outcome}-{corpus}"] = svg_element(f"beams {outcome} {corpus}", draw, f"{label} by beam")
        pulls = {
            _variant(group): [
                (place / 10 + 0.05, each) for place, each in enumerate(inside["gradients"]["loss_pull"]) if each
            ]
            for group, inside in results["inspection"].items()
            if _plain(group, corpus)
        }
        if pulls := {name: points for name, points in list(pulls.items())[:6] if points}:
            draw = _lines(f"{corpus}: pull on the right piece", pulls, "its probability", "size of d loss / d logit")
            drawn[f"gradient-{corpus}"] = svg_element(f"gradient {corpus}", draw, "gradient by confidence")
    if padding := results.get("padding"):
        lines = {
            name: [(each["columns"], each[key]) for each in padding]
            for name, key in (
                ("mean over all rows", "all_rows"),
                ("all rows, padding counts 0", "zeroed_rows"),
                ("mean over real tokens", "real_rows"),
            )
        }
        draw = _lines("Loss against padding", lines, "columns of padding added", "loss, nats a row")
        drawn["padding"] = svg_element(
            "padding", draw, "both means over all rows move with padding, that over real tokens does not"
        )
    return drawn


def _comparisons(results: Results) -> list[tuple[str, Mapping[str, Any]]]:
    return [(name, each) for name, question in results["questions"].items() for each in question["comparisons"]]


def _plain(group: str, corpus: str) -> bool:
    return group.startswith(f"{corpus}/plain/")


def _variant(group: str) -> str:
    return group.rpartition("/")[2]


def _forest(results: Results) -> Any:
    """One row a comparison: the effect and its interval, divided by the margin below which it counts for nothing."""
    from matplotlib.figure import Figure

    rows = [(name, each) for name, each in _comparisons(results) if each.get("effect") is not None]
    figure = Figure(figsize=(7.4, 0.6 + 0.24 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(-1, 1, color="#888888", alpha=0.15, linewidth=0)
    axes.axvline(0, color=INK, linewidth=0.8)
    for place, (_, each) in enumerate(rows):
        colour = _COLOURS.get(each["decision"], "#59636f")
        low, effect, high = (each[key] / each["margin"] for key in ("low", "effect", "high"))
        axes.plot([low, high], [place, place], color=colour, linewidth=1.4, alpha=0.4 if each["seeds"] == 1 else 1)
        axes.plot([effect], [place], marker="o", color=colour, markersize=4)
    axes.set_yticks(range(len(rows)), [f"{name}  {_short(each)}" for name, each in rows])
    axes.set_xscale("symlog", linthresh=1)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("effect, in margins; green: supported, red: refuted")
    axes.grid(axis="x")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _short(each: Mapping[str, Any]) -> str:
    """A comparison in a few words: outcome, corpus, and what differs between its sides."""
    first, second = each["first"].split("/"), each["second"].split("/")
    sides = ["/".join(part for part in side[1:] if part != "plain") for side in (first, second)]
    return f"{each['outcome']}, {each.get('test') or first[0]}: {sides[0]} − {sides[1]}"


def predicted_curve(loss: str) -> tuple[list[float], list[float]] | None:
    """True probability r of one of two pieces and the optimum p*(r) of a loss, by its signature; None: not known."""
    fields = dict(part.partition(":")[::2] for part in loss.split("|"))
    smoothing, model = float(fields.get("ls", 0)), torch.linspace(0.001, 0.999, 200, dtype=torch.float64)
    if loss.startswith("el|"):
        true = encouraging_inverse_link(torch.stack([model, 1 - model], -1), float(fields["log_end"]))[:, 0]
        if smoothing:
            true = (true / (1 - smoothing)).clamp(0, 1)  # what smoothing adds is shared by thousands of pieces
        return true.tolist(), model.tolist()
    return (model.tolist(), ((1 - smoothing) * model).tolist()) if loss.startswith("ls:") else None


def _of_truth(corpus: str, curves: Mapping[str, Any], losses: Mapping[str, str]) -> Callable[[], Any]:
    def draw() -> Any:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4.6, 4.9), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle="--", alpha=0.6)
        for number, (group, rows) in enumerate(list(curves.items())[:6]):
            style = line_style(number)
            axes.plot([r["true"] for r in rows], [r["model"] for r in rows], label=_variant(group), **style)
            if (curve := predicted_curve(losses.get(group) or "")) is not None:
                axes.plot(*curve, color=style["color"], linewidth=0.9, alpha=0.7)
        axes.set(xlabel="true probability", ylabel="model probability, mean", xlim=(0, 1), ylim=(0, 1), title=corpus)
        figure.legend(loc="outside lower center", ncol=2)
        axes.grid()
        return figure

    return draw


def _learning(results: Results, corpus: str) -> dict[str, list[tuple[float, float]]]:
    """Validation BLEU by update, mean over seeds, of each loss."""
    points: dict[str, dict[int, list[float]]] = {}
    for cell in results["cells"]:
        if _plain(cell["group"], corpus):
            for each in cell["curve"] or ():
                points.setdefault(_variant(cell["group"]), {}).setdefault(each["step"], []).append(each["bleu"])
    means = {
        name: [(float(step), float(np.mean(each))) for step, each in sorted(own.items())]
        for name, own in points.items()
    }
    return dict(list(means.items())[:6])


def _beams(results: Results, corpus: str, outcome: str) -> dict[str, list[tuple[float, float]]]:
    """An outcome by beam size without length penalty, mean over seeds, of losses measured at two sizes or more."""
    points: dict[str, dict[int, list[float]]] = {}
    for cell in results["cells"]:
        if _plain(cell["group"], corpus) and cell["tests"]:
            searches = next(iter(cell["tests"].values()))["searches"]
            for name, block in searches.items():
                if name.startswith("none") and name[4:].isdigit():
                    own = points.setdefault(_variant(cell["group"]), {})
                    own.setdefault(int(name[4:]), []).append(block[outcome])
    means = {
        name: [(float(beam), float(np.mean(each))) for beam, each in sorted(own.items())]
        for name, own in points.items()
    }
    return {name: line for name, line in means.items() if len(line) > 1}


def _lines(
    title: str,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    x: str,
    y: str,
    logarithmic: bool = False,
    span: float = 0.0,
) -> Callable[[], Any]:
    """`span`: the axis covers so much at least, so that no zoom makes a difference of what is none."""

    def draw() -> Any:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4.2, 3.0 + 0.1 * len(lines)), layout="constrained")
        axes = figure.subplots()
        for number, (label, points) in enumerate(lines.items()):
            axes.plot(*zip(*points), label=label, **line_style(number))
        if logarithmic:
            axes.set_xscale("log")
            ticks = sorted({place for points in lines.values() for place, _ in points})
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
        axes.set(xlabel=x, ylabel=y, title=title)
        low, high = axes.get_ylim()
        room = max(0.0, span - high + low) / 2
        axes.set_ylim(low - room, high + room)
        figure.legend(loc="outside lower center", ncol=2)
        axes.grid()
        axes.spines[["top", "right"]].set_visible(False)
        return figure

    return draw
