"""`tools/plot_losses.py`: the figures of docs/losses.md."""

from __future__ import annotations

from pathlib import Path

from mt.cli.command import DONE, CommandParser


def main(arguments: list[str] | None = None) -> int:
    """Draws every figure into a folder and prints the files' names."""
    parser = CommandParser(
        description="Draws the losses as the implemented functions compute them: loss, bonus, gradient and steepness\n"
        "against the probability of the target, and the best probability against the true one.",
        example="python tools/plot_losses.py --output docs/figures",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("docs/figures"),
        metavar="DIR",
        help="folder of the SVG files (default: docs/figures)",
    )
    given = parser.parse_args(arguments)
    given.output.mkdir(parents=True, exist_ok=True)
    from dataclasses import asdict

    from mt.files.atomic import write_text
    from mt.losses.curves import loss_figures
    from mt.report.curves import draw_curves

    for figure in loss_figures():
        path = given.output / f"{figure.name}.svg"
        write_text(path, draw_curves(asdict(figure)))
        print(path)
    return DONE
