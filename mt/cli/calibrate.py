"""`tools/calibrate.py MODEL --source F --reference F`: makes the model's probabilities true, from a development set."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from mt.cli.main import DONE, CommandParser, add_model, add_search, aligned, number, suggest, use_threads
from mt.errors import UserError
from mt.progress import say
from mt.settings import AboveZero, within


def main(arguments: list[str] | None = None) -> int:
    """Fits confidence, stores it beside the weights, prints what it is worth."""
    given = _parser().parse_args(arguments)
    if given.model is None and given.towards is None:
        raise UserError("MODEL is missing; give a model or run directory, or one with --from")
    from mt.evaluation.test_set import read_test_set

    text = read_test_set(given.source, given.reference)
    use_threads(given.threads)
    from mt.decoding.confidence import load_recalibration, save_recalibration
    from mt.evaluation.recalibrate import calibrate
    from mt.model.directory import load_model

    loaded = load_model(given.model or given.towards, given.device)
    options = {name: getattr(given, name) for name in ("folds", "precision", "chrf", "beam", "batch_tokens")}
    if given.towards is not None:
        options["towards"] = load_recalibration(load_model(given.towards, given.device))
        if options["towards"] is None:
            raise UserError(f"--from {given.towards}: is not calibrated; calibrate it first, without --from")
    saved = calibrate(loaded, text, **options)
    path = save_recalibration(saved, loaded.folder)
    say(f"{text.description['lines']} lines in {given.folds} unlike groups; each judged by what was fitted without it")
    for name, title in (("teacher_forced", "next token, prefix given"), ("inference", "tokens of the output")):
        if name == "inference" or given.towards is None:
            say(f"\n{title}\n{table(saved[name])}")
    say(f"\n{_promised(saved, given.precision, given.chrf)}\nstored: {path}")
    suggest("evaluate", given.model or loaded.folder, "--source F --reference F --output DIR  (other text than this)")
    return DONE


def table(part: dict[str, Any]) -> str:
    """One row per candidate: calibration error beside its noise floor, in the worst group, and by how much it rises
    where it rises most; and what else tells of it; the pick is marked."""
    heads = ["candidate", "ECE", "floor", "worst group", "rise", "NLL", "Brier", "AUROC", "confidence", "accuracy"]
    keys = ("ece", "noise_floor", "worst_ece", "worst_change", "nll", "brier", "auroc", "confidence", "accuracy")
    rows = [
        ["* " * (name == part["picked"]) + name] + ["-" if block[key] is None else f"{block[key]:.4f}" for key in keys]
        for name, block in part["candidates"].items()
    ]
    return aligned([heads, *rows])


def _promised(saved: dict[str, Any], precision: float, chrf: float) -> str:
    """The promise, or what would be one."""
    if saved["promises"]:
        return _kept(saved["promises"][0])
    lines, share = saved["fitted_on"]["lines"], saved["share_reaching"]
    missing = f"these {lines} lines cannot carry the promise that {precision:.0%} of the lines above a threshold reach "
    missing += f"chrF {chrf:g} ({share:.0%} of all do)"
    instead = "".join(
        f"\n  --precision {each['precision']:g} --chrf {each['chrf']:g}: {_kept(each)}" for each in saved["instead"]
    )
    return missing + (f"; they can carry{instead}" if instead else "; give more lines, or ask for less")


def _kept(promise: dict[str, Any]) -> str:
    return (
        f"--flag_by quality --flag_below {promise['threshold']:.2f} keeps {promise['coverage']:.0%} of the lines, of "
        f"which {promise['precision']:.0%} reach chrF {promise['chrf']:g} or more (at a risk of 5 %; "
        f"{promise['reached']:.1%} [{promise['low']:.1%}, {promise['high']:.1%}] of the {promise['lines']} tested)"
    )


def _parser() -> CommandParser:
    parser = CommandParser(
        description="Fits what makes confidence true on a development set, shows its worth by cross-validation and "
        "stores the\nbest in the model directory, where translate finds it. Give text that was neither trained on\n"
        "nor will be reported on: evaluate leaves recalibrated figures out on text that they were fitted on.",
        example="runs/demo --source valid.de --reference valid.en --precision 0.95 --chrf 60",
    )
    add_model(parser, nargs="?")
    add = parser.add_argument
    add("--source", type=Path, required=True, metavar="F", help="source lines, plain or packed")
    add("--reference", type=Path, nargs="+", required=True, metavar="F", help="their references, plain or packed")
    few = "with few lines of another kind of text: fit them towards what this model, MODEL where none is given, has"
    add("--from", dest="towards", type=Path, metavar="MODEL", help=few)
    folds, quality = number(int, within(2, 1000)), number(float, within(0, 100))
    add("--folds", type=folds, default=5, metavar="N", help="of the cross-validation, unlike groups (default: 5)")
    share = "find the expected quality above which this share of lines ... (default: 0.95)"
    add("--precision", type=number(*get_args(AboveZero)), default=0.95, metavar="P", help=share)
    add("--chrf", type=quality, default=60.0, metavar="Q", help="... reaches this sentence chrF (default: 60)")
    add_search(parser, ("beam", "batch_tokens"))
    return parser
