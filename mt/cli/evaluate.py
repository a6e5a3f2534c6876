"""`tools/evaluate.py MODEL --source F --reference F`: quality and calibration, side by side."""

from __future__ import annotations

import os
import re
import shlex
import sys
from argparse import ArgumentTypeError
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

from mt.cli.main import (
    DONE,
    CommandParser,
    add_model,
    add_search,
    aligned,
    call_of,
    number,
    positive,
    seed,
    suggest,
    use_threads,
)
from mt.config import DecodeConfig
from mt.errors import UserError
from mt.files.output import check_apart, check_writable
from mt.progress import say
from mt.settings import Whole

Results = Mapping[str, Any]
_EVALUATION = ("beams", "length_penalty", "length_alpha", "length_penalties", "batch_tokens", "truth")

_TOLD = {"spearman": "Spearman", "auroc": "AUROC", "prr": "rejection ratio"}


def main(arguments: list[str] | None = None) -> int:
    """Evaluates a model or another system's output, writes the files, prints a short table."""
    given = _parser().parse_args(arguments)
    if (given.model is None) == (given.records is None):
        raise UserError("give either MODEL, a model or run directory, or --records F.jsonl; --help tells more")
    if given.model is not None and given.source is None:
        raise UserError("--source is missing; give the file of lines to translate")
    from mt.evaluation.test_set import read_test_set

    if given.labels and (given.beams != [5] or given.length_penalties):
        raise UserError("--labels: people judged one output, that of beam 5; leave --beams and --length_penalties out")
    judged = [given.labels, *(path for _, path in given.scores)]
    read = [("what is read", path) for path in (given.source, given.records, *given.reference, *judged) if path]
    names = ("results.json", "records.jsonl", "hypotheses.txt", "report.html")
    check_apart(read, *(("--output", given.output / name) for name in names))
    test_set = read_test_set(given.source, given.reference, given.target_language)
    from mt.evaluation.judges import Judges
    from mt.evaluation.run import evaluate, evaluate_records
    from mt.report.page import write_report

    words = [word.rpartition("=") for word in arguments or sys.argv[1:]]  # no place on this machine is told
    told = shlex.join(name + equals + (Path(end).name if os.path.isabs(end) else end) for name, equals, end in words)
    judges = Judges(dict(given.scores), given.labels, test_set.description["lines"])
    common: dict[str, Any] = {"bootstrap": given.bootstrap, "seed": given.seed, "judges": judges}
    common["command"] = f"{call_of()} {told}"
    if given.records is not None:
        _make_writable(given.output)
        results = evaluate_records(given.records, test_set, given.output, **common)
    else:
        from mt.model.directory import load_model

        threads = use_threads(given.threads)
        loaded = load_model(given.model, device=given.device)
        _make_writable(given.output)
        processes = threads if loaded.model.output_weight.device.type == "cpu" else 1
        options = {name: getattr(given, name) for name in _EVALUATION}
        results = evaluate(loaded, test_set, given.output, processes=processes, **options, **common)
    report = write_report(given.output)
    say(table(results), *findings(results), f"report: {report}")
    if given.records is None and not results.get("recalibrated"):
        suggest("calibrate", given.model, "--source F --reference F  (a development set)")
    else:
        suggest("report", given.output, "OTHER_EVALUATION --output comparison.html")
    return DONE


def table(results: Results) -> str:
    """One row per beam size: quality with 95 % intervals, length ratio, and both calibration errors."""
    rows = [["beam", "BLEU", "chrF", "TER", "length", "ECE forced", "ECE inference"]]
    errors = results["calibration"]["teacher_forced"]
    for beam, block in (results["beams"] or {"-": results}).items():
        own = block["calibration"]["inference"]
        quality = [_score(block[key]) for key in ("bleu", "chrf", "ter")]
        calibration = [f"{each['ece']:.4f}" if each else "-" for each in (errors, own)]
        rows.append([beam, *quality, f"{block['length_ratio']:.3f}", *calibration])
    return aligned(rows)


def findings(results: Results) -> list[str]:
    """What the evaluation found beside the table, one line each: calibration with its noise floor, before and after
    recalibration, what confidence tells of whole sentences, other judges, and a perfect model's figures."""
    lines = []
    people = ", labels: people" if results.get("labels") else ""
    for title, blocks in (("", results["calibration"]), (", recalibrated", results.get("recalibrated") or {})):
        for name, what in (("teacher_forced", "teacher-forced"), ("inference", "inference")):
            if block := blocks.get(name):
                low, high = block["ece_low"], block["ece_high"]
                interval = "" if low is None else f" [{low:.4f}, {high:.4f}]"
                told = what + title + people * (name == "inference")
                lines.append(f"ECE {told}: {block['ece']:.4f}{interval}, noise floor {block['noise_floor']:.4f}")
    if sequence := results.get("sequence"):
        spearman = sequence["correlation"]["chrf"]
        told = "unknown" if spearman is None else f"{spearman:.3f}"  # none where all lines are equally good
        if (quality := results.get("quality")) and quality["spearman"] is not None:
            told += (
                f", of quality {quality['spearman']:.3f}; chrF lies in {quality['coverage']:.1%} of the 90 % intervals"
            )
        lines.append(f"confidence against sentence chrF: Spearman {told}")
    lines += [_judged(name, block) for name, block in (results.get("scores") or {}).items()]
    for each in (results.get("recalibrated") or {}).get("promises", ()):
        promised = f"promise of {each['precision']:.0%} at chrF {each['chrf']:g}"
        kept = "no line is above its threshold"
        if each["lines"]:
            kept = f"{each['reached']:.1%} [{each['low']:.1%}, {each['high']:.1%}] of {each['lines']} lines above it"
        lines.append(f"{promised}: {kept}")
    if results.get("fit"):
        lines.append(results["fit"]["text"])
    if truth := results.get("truth"):
        lines.append(
            f"the truth: BLEU {truth['bleu_of_likeliest']:.2f} of the most probable translations, "
            f"{truth['bleu_of_minimum_risk']:.2f} of those of least risk, {truth['entropy']:.4f} nats a token; "
            f"this model: BLEU {results['bleu']['score']:.2f}, {truth['nll']:.4f} nats a token"
        )
        maps = "".join(f", {each['kl']:.4f} after {name}" for name, each in truth["maps"].items())
        lines.append(f"KL from the truth: {truth['kl']:.4f} nats a token{maps}")
        estimated = f"estimated from labels: {truth['estimates']['ece']:.4f}"
        lines.append(f"exact calibration error: {truth['exact_ece']:.4f} ({estimated})")
    return lines


def _score(block: dict[str, Any], digits: int = 2) -> str:
    interval = "" if block["low"] is None else f" [{block['low']:.{digits}f}, {block['high']:.{digits}f}]"
    return f"{block['score']:.{digits}f}{interval}"


def _judged(name: str, block: dict[str, Any]) -> str:
    """The mean score of another judge, and what the system's own confidence tells of it."""
    line = f"{name}: {_score(block, 4)}"
    for figure in (each for each in ("confidence", "quality") if block[each]):
        told = {key: "unknown" if (value := block[figure][key]) is None else f"{value:.3f}" for key in _TOLD}
        line += f"; {figure} against it: " + ", ".join(f"{title} {told[key]}" for key, title in _TOLD.items())
    return line


def _make_writable(path: Path) -> None:
    """Makes the folder: a place that cannot be written shows before the work, not after it."""
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: is no folder; --output wants a folder")
    Path(os.path.realpath(path)).mkdir(parents=True, exist_ok=True)
    check_writable(path / "results.json")


def _beams(text: str) -> list[int | float]:
    return [positive(part) for part in text.split(",")]


def _named(text: str) -> tuple[str, Path]:
    name, mark, path = text.partition("=")
    if not mark or not path or not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise ArgumentTypeError(f"{text!r} is not NAME=FILE, such as comet=comet.json")
    return name, Path(path)


def _penalties(text: str) -> list[str]:
    names, known = text.replace(",", " ").split(), get_args(get_type_hints(DecodeConfig)["length_penalty"])
    if not {*names} <= {*known}:
        raise ArgumentTypeError(f"{text!r} is not some of {', '.join(known)}")
    return names


def _parser() -> CommandParser:
    parser = CommandParser(
        description="Translates a test set and reports BLEU, chrF and TER beside the calibration of the tokens.",
        example="runs/demo-de-en --source test.de --reference test.en --output evaluation",
    )
    add_model(parser, nargs="?")
    add = parser.add_argument
    records = "instead of MODEL: another system's translation records, one a line"
    add("--records", type=Path, metavar="F.jsonl", help=records)
    add("--source", type=Path, metavar="F", help="source lines, plain or packed")
    reference = "reference lines; several files: several references"
    add("--reference", type=Path, metavar="F", nargs="+", required=True, help=reference)
    language = "chooses BLEU's tokeniser, as in zh (default: the model's; with --records none, and 13a)"
    add("--target_language", metavar="L", help=language)
    output = "folder for results.json, records.jsonl, report.html ..."
    add("--output", type=Path, metavar="DIR", required=True, help=output)
    beams = "beam sizes; 5, the main one, is always there (default: 5)"
    add("--beams", type=_beams, metavar="N,N", default="5", help=beams)
    grid = "every beam with each of none,average,gnmt,reward too; BLEU, lengths, empties, calibration by beam"
    add("--length_penalties", type=_penalties, metavar="P,P", default="", help=grid)
    add_search(parser, ("length_penalty", "length_alpha", "batch_tokens"))
    resamples = "resamples for the intervals of BLEU, chrF and TER (default: 1000; 0: none)"
    add("--bootstrap", type=number(*get_args(Whole)), default=1000, metavar="N", help=resamples)
    add("--seed", type=seed, default=12345, metavar="N", help="seed of the resamples (default: 12345)")
    scores = "scores of these translations, what comet-score --to_json wrote, and their name; may be repeated"
    add("--scores", type=_named, metavar="NAME=F", action="append", default=[], help=scores)
    labels = "in place of alignment, what people found wrong in them: OK/BAD tags, MQM, or WMT-QE's spans"
    add("--labels", type=Path, metavar="F", help=labels)
    add("--truth", action="store_true", help="the text is of the shipped grammar: show what a perfect model scores")
    return parser
