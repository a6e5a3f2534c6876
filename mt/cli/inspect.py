"""`tools/inspect.py MODEL --source F --reference F`: states, templates, margins and gradients inside a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mt.cli.main import DONE, CommandParser, add_model, aligned, number, suggest, use_threads
from mt.files.output import check_apart, check_writable
from mt.progress import say
from mt.settings import within


def main(arguments: list[str] | None = None) -> int:
    """Looks inside a model on given text, writes figures and page, prints a short table."""
    parser = CommandParser(
        description="Looks inside a model, with the reference as prefix: clusters of the states before its output\n"
        "matrix, margins of the right piece, distances, gradients by confidence, hardest tokens; draws three pieces.",
        example="runs/demo-de-en --source test.de --reference test.en --output inspection",
    )
    add_model(parser)
    add = parser.add_argument
    add("--source", type=Path, required=True, metavar="F", help="source lines, plain or packed")
    add("--reference", type=Path, required=True, metavar="F", help="their translations, plain or packed")
    add(
        "--output", type=Path, required=True, metavar="DIR", help="folder for inspection.json, inspection.html, figures"
    )
    pieces = "target pieces to draw, as in ▁big,▁large,▁dog (default: two that are alike and one that is not)"
    add("--pieces", type=lambda text: text.split(","), default=(), metavar="A,B,C", help=pieces)
    groups = "clusters are those of the N most frequent target pieces (default: 50)"
    add("--groups", type=number(int, within(2, 10_000)), default=50, metavar="N", help=groups)
    given = parser.parse_args(arguments)
    read = [("--source", given.source), ("--reference", given.reference)]
    check_apart(read, *(("--output", given.output / f"inspection.{ending}") for ending in ("json", "html")))
    from mt.evaluation.test_set import read_test_set

    text = read_test_set(given.source, [given.reference])
    use_threads(given.threads)
    from mt.evaluation.inspection import inspect_model
    from mt.evaluation.records import well_formed
    from mt.files.json_file import write_json
    from mt.model.directory import load_model
    from mt.report.inspection import write_inspection

    loaded, path = load_model(given.model, given.device), given.output / "inspection.json"
    given.output.mkdir(parents=True, exist_ok=True)
    check_writable(path)
    found = inspect_model(loaded, text, pieces=given.pieces, groups=given.groups)
    write_json(path, json.loads(well_formed(json.dumps(found, allow_nan=False))))
    say(table(found), f"page: {write_inspection(given.output)}")
    suggest("inspect", given.model, "--source F --reference F --output DIR --pieces A,B,C  (others drawn)")
    return DONE


def table(found: dict[str, Any]) -> str:
    """The main figures, one a line."""
    margins, distances, tightness = found["margins"], found["distances"], found["tightness"]
    expected = "none" if margins["expected"] is None else f"{margins['expected']:.2f}"
    rows = {
        "pieces drawn": ", ".join(f"{each['piece']} ({each['count']})" for each in found["projection"]),
        "within over between": ", ".join(f"{each['ratio']:.3f} ({each['pieces']})" for each in tightness.values()),
        "margin over the others, expected": f"{margins['mean']['mean']:.2f} nats, {expected}",
        "margin over the runner-up": f"{margins['runner_up']['mean']:.2f} nats",
        "distances to wrong templates vary by": f"{distances['distance_variation']:.2%}",
        "hardest pieces": ", ".join(each["piece"] for each in found["hardest_pieces"][:5]),
    }
    return aligned([*rows.items()])
