"""`tools/plot_calibration.py`: the reliability diagrams of docs/calibration.md."""

from __future__ import annotations

from pathlib import Path

from mt.cli.command import DONE, CommandParser


def main(arguments: list[str] | None = None) -> int:
    """Draws every figure into a folder and prints its file's name and its calibration errors."""
    parser = CommandParser(
        description="Draws reliability diagrams of made-up systems whose calibration is known.",
        example="python tools/plot_calibration.py --output docs/figures",
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
    from mt.files.atomic import write_text
    from mt.metrics.examples import examples
    from mt.report.figures import reliability_diagram

    for example in examples():
        path = given.output / f"{example.name}.svg"
        write_text(path, reliability_diagram(example.block, example.title))
        block = example.block
        print(
            f"{path}: ECE {block['ece']:.4f}, noise floor {block['noise_floor']:.4f}, "
            f"confidence - accuracy {block['signed_gap']:+.4f}"
        )
    return DONE
