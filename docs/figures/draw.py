"""Draws every figure of the docs: `python docs/figures/draw.py [--output DIR]`.

For docs/losses.md the losses over the probability p of the target, computed by the very functions that train; for
docs/calibration.md reliability diagrams of made-up systems whose faults are known.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from torch import Tensor

from mt.files.atomic import write_text
from mt.losses import encouraging, label_smoothed_kl
from mt.losses.relatives import Focal, InverseFocal
from mt.metrics.bins import CalibrationBins
from mt.report.figures import reliability_diagram
from mt.report.inputs import Block
from mt.report.svg import DASHES, INK, svg_document, svg_element

NO_PADDING = -100
SMOOTHING = 0.1
LOG_ENDS = (0.0, 0.25, 0.5, 0.75, 1.0)
TOKENS = 15_000  # about what a test set of a thousand sentences has

LossOfLogits = Callable[[Tensor, Tensor], Tensor]


class Curve(NamedTuple):
    """One line of a figure: points (x, y), each (points,) float64; dashed: drawn to compare with."""

    label: str
    x: Tensor
    y: Tensor
    dashed: bool = False


class Axes(NamedTuple):
    """Title, names and range of the axes of a figure; x goes from 0 to 1."""

    title: str
    x_label: str
    y_label: str
    y_range: tuple[float, float]
    logarithmic: bool = False


def figures() -> dict[str, str]:
    """All figures as SVG documents, by the name of their file."""
    drawn = {f"{name}.svg": _curves_svg(name, *figure) for name, figure in loss_figures().items()}
    for name, (title, block) in reliability_examples().items():
        drawn[f"{name}.svg"] = reliability_diagram(block, title)
    return {name: svg_document(svg) for name, svg in drawn.items()}


def loss_figures() -> dict[str, tuple[Axes, list[Curve]]]:
    """Loss, bonus, gradient at the target's logit and steepness against p; the optimum against the truth."""
    bonus: dict[str, LossOfLogits] = {
        f"log-end {log_end:g}": partial(
            encouraging, log_end=log_end, smoothing=0.0, definition="uniform", pad_id=NO_PADDING
        )
        for log_end in LOG_ENDS
    }
    compared: dict[str, LossOfLogits] = {
        "cross-entropy": partial(label_smoothed_kl, smoothing=0.0, definition="uniform", pad_id=NO_PADDING),
        "focal, γ = 2": Focal(2.0, NO_PADDING),
        "inverse focal, γ = 1": InverseFocal(1.0, NO_PADDING),
    }
    values, gradients, steepness, bonuses = [], [], [], []
    for label, loss in {**compared, **bonus}.items():
        p, value, gradient = _along_p(loss)
        dashed = label not in bonus
        values.append(Curve(label, p, value, dashed))
        gradients.append(Curve(label, p, gradient.abs(), dashed))
        steepness.append(Curve(label, p, gradient.abs() / (p * (1 - p)), dashed))  # d p / d z_y = p (1 - p)
        if not dashed:
            bonuses.append(Curve(label, p, value + p.log()))
    over_p = "probability p of the target"
    return {
        "loss": (Axes("Loss of one token", over_p, "loss in nats", (-4, 4)), values),
        "bonus": (Axes("Bonus of the Encouraging Loss", over_p, "bonus in nats", (-4, 0.1)), bonuses),
        "gradient": (Axes("Pull on the target's logit", over_p, "−∂ loss / ∂ logit", (0, 1.4)), gradients),
        "steepness": (Axes("Steepness over p", over_p, "−∂ loss / ∂ p", (0.3, 300), True), steepness),
        "optimum": (
            Axes("Where the losses lead", "true probability r", "best probability p*", (0, 1)),
            _optimum_curves(),
        ),
    }


def _along_p(loss: LossOfLogits) -> tuple[Tensor, Tensor, Tensor]:
    """p, loss and its derivative by the target's logit, each (points,) float64; two classes."""
    logit = torch.linspace(-6, 6, 241, dtype=torch.float64)
    logits = torch.stack([logit, torch.zeros_like(logit)], 1).requires_grad_()
    value = loss(logits, torch.zeros(len(logit), dtype=torch.int64))
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    return logit.sigmoid(), value.detach(), gradient[:, 0]


def _optimum_curves() -> list[Curve]:
    """What a perfectly trained model gives a token of true probability r, among many unlikely ones."""
    true = torch.linspace(0.005, 0.995, 199, dtype=torch.float64)
    smoothed = (1 - SMOOTHING) * true
    diagonal = torch.tensor([0.0, 1.0])
    drawn = [Curve("cross-entropy", diagonal, diagonal, True), Curve("smoothing 0.1", true, smoothed, True)]
    drawn += [
        Curve(f"log-end {log_end:g}", true, dominant_link(true, log_end)) for log_end in (0.0, 0.25, 0.5, 0.75, 0.9)
    ]
    return [*drawn, Curve("log-end 0.5 and\nsmoothing 0.1", true, dominant_link(smoothed, 0.5), True)]


def dominant_link(true: Tensor, log_end: float) -> Tensor:
    """Optimal probability under the Encouraging Loss of one class with true probability `true` (any shape, below 1)
    among a great many classes that are each unlikely; closed form, log_end below 1."""
    room = 1 - log_end
    below = true / (1 - true)
    gap = true - room
    above = (gap + (gap * gap + 4 * true * true * room).sqrt()) / (2 * true)
    return torch.where(below <= log_end, below, above)


def _curves_svg(name: str, axes: Axes, curves: list[Curve]) -> str:
    def draw() -> Any:
        from matplotlib import colormaps
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 3.6), layout="constrained")
        panel = figure.subplots()
        family = [curve for curve in curves if not curve.dashed]
        for curve, dashes in zip([curve for curve in curves if curve.dashed], DASHES[1:]):
            panel.plot(curve.x, curve.y, color=INK, linewidth=1.2, linestyle=dashes, label=curve.label)
        for number, curve in enumerate(family):
            colour = colormaps["viridis"](0.82 * number / max(1, len(family) - 1))
            panel.plot(curve.x, curve.y, color=colour, linewidth=1.8, label=curve.label, zorder=1.5)
        panel.set(title=axes.title, xlabel=axes.x_label, ylabel=axes.y_label, xlim=(0, 1), ylim=axes.y_range)
        panel.set_yscale("log" if axes.logarithmic else "linear")
        panel.grid()
        panel.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside right upper", handlelength=2.6)
        return figure

    return svg_element(name, draw, f"{axes.title}: " + ", ".join(curve.label for curve in curves))


def reliability_examples(seed: int = 1) -> dict[str, tuple[str, Block]]:
    """Title and calibration block of each diagram. The true probability r of a token is drawn from Beta(2.5, 1), and
    whether it is right from r; the systems differ in the confidence that they state. The last one is true but for
    the end of sentence, one token in 14."""
    generator = np.random.default_rng(seed)
    true = generator.beta(2.5, 1, TOKENS)
    correct = generator.random(TOKENS) < true
    end = np.arange(TOKENS) % 14 == 13
    smoothed = 0.9 * true + 0.1 / 6000
    early = np.where(end, _odds_to_the_power(true, 3.0), true)
    return {
        "calibration-over": ("over-confident: odds to the power 1.8", _block(_odds_to_the_power(true, 1.8), correct)),
        "calibration-under": ("under-confident: label smoothing 0.1", _block(smoothed, correct)),
        "calibration-end-all": ("all tokens: little to see", _block(early, correct)),
        "calibration-end-only": ("ends of sentence alone", _block(early[end], correct[end])),
    }


def _odds_to_the_power(probability: np.ndarray, power: float) -> np.ndarray:
    """What a temperature of 1 / power makes of two classes."""
    yes, no = probability**power, (1 - probability) ** power
    return np.asarray(yes / (yes + no), dtype=np.float64)


def _block(confidence: np.ndarray, correct: np.ndarray) -> Block:
    measures = CalibrationBins()
    measures.update(confidence, correct)
    return measures.block()


def main() -> None:
    """Writes every figure and prints the files' names, and the errors of the reliability diagrams."""
    parser = argparse.ArgumentParser(description="Draws every figure of the docs.")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent, metavar="DIR", help="default: %(default)s"
    )
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    for name, svg in figures().items():
        write_text(output / name, svg)
        print(output / name)
    for name, (_, block) in reliability_examples().items():
        gap = block["confidence"] - block["accuracy"]
        print(f"{name}: ECE {block['ece']:.4f}, noise floor {block['noise_floor']:.4f}, gap {gap:+.4f}")


if __name__ == "__main__":
    main()
