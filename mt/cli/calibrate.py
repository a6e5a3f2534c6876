"""`tools/calibrate.py MODEL --source F --reference F`: makes the model's probabilities true, from a development set."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from mt.cli.main import DONE, CommandParser, add_model, add_search, aligned, number, use_threads
from mt.progress import say
from mt.settings import AboveZero, within


def main(arguments: list[str] | None = None) -> int:
    """Fits the maps, stores them beside the weights, prints what they are worth."""
    given = _parser().parse_args(arguments)
    from mt.evaluation.test_set import read_test_set

    text = read_test_set(given.source, given.reference)
    use_threads(given.threads)
    from mt.decoding.confidence import save_recalibration
    from mt.evaluation.recalibrate import calibrate
    from mt.model.directory import load_model

    loaded = load_model(given.model, given.device)
    options = {name: getattr(given, name) for name in ("folds", "precision", "chrf", "beam", "batch_tokens")}
    saved = calibrate(loaded, text, **options)
    path = save_recalibration(saved, loaded.folder)
    say(f"{text.description['lines']} lines; each judged by maps fitted on the other folds ({given.folds})")
    for name, title in (("teacher_forced", "next token, prefix given"), ("inference", "tokens of the output")):
        say(f"\n{title}\n{table(saved[name])}")
    say(f"\n{_threshold(saved, given.precision, given.chrf)}\nstored: {path}")
    return DONE


def table(part: dict[str, Any]) -> str:
    """One row per map: calibration error beside its noise floor, and the proper scores; the pick is marked."""
    heads = ["", "map", "ECE", "noise floor", "NLL", "Brier", "of right or wrong", "confidence", "accuracy"]
    keys = ("ece", "noise_floor", "nll", "brier", "label_brier", "confidence", "accuracy")
    rows = [
        ["*" if name == part["picked"] else "", name, *(f"{block[key]:.4f}" for key in keys)]
        for name, block in part["candidates"].items()
    ]
    return aligned([heads, *rows])


def _threshold(saved: dict[str, Any], precision: float, chrf: float) -> str:
    if not saved["thresholds"]:
        return (
            f"no confidence is such that {precision:.0%} of the lines above it reach chrF {chrf:g} "
            f"(of all lines {saved['share_reaching']:.0%} do); ask for less with --precision or --chrf"
        )
    found = saved["thresholds"][0]
    tried = found["held_out"]
    honest = "-" if tried["precision"] is None else f"{tried['precision']:.1%} of {tried['lines']} lines"
    return (
        f"--flag_below {found['confidence']:.4f}: of the {found['lines']} lines above it ({found['coverage']:.0%} of "
        f"all) {found['reached']:.1%} reach chrF {chrf:g} [{found['low']:.1%}, {found['high']:.1%}]; "
        f"thresholds tried on lines they were not chosen on: {honest}"
    )


def _parser() -> CommandParser:
    parser = CommandParser(
        description="Fits recalibration on a development set, shows its worth by cross-validation and stores the best "
        "in the\nmodel directory, where translate.py finds it. Give text that was neither trained on nor will be\n"
        "reported on: tools/evaluate.py leaves recalibrated figures out on text that they were fitted on.",
        example="tools/calibrate.py runs/demo --source valid.de --reference valid.en --precision 0.95 --chrf 60",
    )
    add_model(parser)
    add = parser.add_argument
    add("--source", type=Path, required=True, metavar="F", help="source lines, plain or packed")
    add("--reference", type=Path, nargs="+", required=True, metavar="F", help="their references, plain or packed")
    folds, quality = number(int, within(2, 1000)), number(float, within(0, 100))
    add("--folds", type=folds, default=5, metavar="N", help="of the cross-validation (default: 5)")
    share = "find the confidence above which this share of lines ... (default: 0.95)"
    add("--precision", type=number(*get_args(AboveZero)), default=0.95, metavar="P", help=share)
    add("--chrf", type=quality, default=60.0, metavar="Q", help="... reaches this sentence chrF (default: 60)")
    add_search(parser, ("beam", "batch_tokens"))
    return parser
