"""The page that holds evaluations of one test set against each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mt.errors import UserError
from mt.files.atomic import write_text
from mt.metrics.significance import RESAMPLES, SEED, calibration_differences, quality_differences, references_of
from mt.report.figures import reliability_overlay
from mt.report.files import Evaluation, read_evaluation
from mt.report.page import MOST_BYTES, render
from mt.report.plots import risk_coverage_plot, selective_plot
from mt.report.report import add_sentence_bleu, calibration_blocks, flag_threshold, title_of
from mt.report.rows import payload

MOST_SYSTEMS = 6
LETTERS = "ABCDEF"


def write_comparison(folders: Sequence[Path], output: Path) -> Path:
    """Writes the page that compares evaluations; the first is what the others are held against.

    Args:
        folders: of 2 to 6 evaluations of the same test set.
        output: the page.

    Returns:
        `output`.

    Raises:
        UserError: a folder that holds no evaluation, too many of them, or evaluations of different test sets.
    """
    if len(folders) > MOST_SYSTEMS:
        raise UserError(f"{len(folders)} evaluations are too many for one page; give at most {MOST_SYSTEMS}")
    evaluations = [read_evaluation(folder) for folder in folders]
    check_same_test_set(evaluations)
    for evaluation in evaluations:
        add_sentence_bleu(evaluation.records)
    systems = [evaluation.records for evaluation in evaluations]
    names = _names(evaluations)
    blocks = [calibration_blocks(evaluation.results) for evaluation in evaluations]
    values = {
        "names": names,
        "letters": LETTERS,
        "evaluations": evaluations,
        "resamples": RESAMPLES,
        "seed": SEED,
        "table": _table(evaluations, blocks),
        "figures": _figures([f"{letter} {name}" for letter, name in zip(LETTERS, names)], evaluations, blocks),
    }
    bare = len(render("comparison.html.j2", data=None, **values).encode())
    data = payload(names, systems, MOST_BYTES - bare, flag_threshold(evaluations[0]))
    write_text(output, render("comparison.html.j2", data=data, **values))
    return output


def check_same_test_set(evaluations: Sequence[Evaluation]) -> None:
    """Raises UserError unless all have the same references, and the same sources where both know them."""
    first = evaluations[0]
    for other in evaluations[1:]:
        both = f"{first.folder} and {other.folder} are evaluations of different test sets"
        remedy = "compare evaluations of one test set"
        if len(first.records) != len(other.records):
            raise UserError(f"{both}: {len(first.records)} and {len(other.records)} lines; {remedy}")
        for number, (ours, theirs) in enumerate(zip(first.records, other.records), 1):
            if references_of(ours) != references_of(theirs):
                raise UserError(f"{both}: the references of line {number} differ; {remedy}")
            sources = ours.get("source"), theirs.get("source")
            if all(sources) and sources[0] != sources[1]:
                raise UserError(f"{both}: the sources of line {number} differ; {remedy}")


def _names(evaluations: Sequence[Evaluation]) -> list[str]:
    """The models' names, or the folders' where two models have the same."""
    names = [evaluation.name for evaluation in evaluations]
    if len(set(names)) == len(names):
        return names
    return ["/".join(evaluation.folder.resolve().parts[-2:]) for evaluation in evaluations]


def _table(evaluations: Sequence[Evaluation], blocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the table of differences: name, `factor` and `digits` to show it with, `better` (1: higher is better,
    -1: lower), one value a system, and one difference for each but the first (None: not tested)."""
    tested = quality_differences([evaluation.records for evaluation in evaluations])
    untested: list[Any] = [None] * (len(evaluations) - 1)
    rows = []

    def add(name: str, values: list[Any], differences: Sequence[Any], factor: int, digits: int, better: int) -> None:
        if any(value is not None for value in values):
            rows.append(
                {
                    "name": name,
                    "values": values,
                    "differences": differences,
                    "factor": factor,
                    "digits": digits,
                    "better": better,
                }
            )

    def of_results(key: Callable[[dict[str, Any]], Any]) -> list[Any]:
        return [key(evaluation.results) for evaluation in evaluations]

    for key, name, better in (("bleu", "BLEU", 1), ("chrf", "chrF", 1), ("ter", "TER", -1)):
        values = of_results(lambda results, key=key: (results.get(key) or {}).get("score"))  # type: ignore[misc]
        add(name, values, tested[key], 1, 2, better)
    add("length ratio", of_results(lambda results: results.get("length_ratio")), untested, 1, 3, 0)
    add("empty translations", of_results(lambda results: results.get("empties")), untested, 1, 0, -1)
    systems = [evaluation.records for evaluation in evaluations]
    for block in dict.fromkeys(name for each in blocks for name in each):
        values = [each.get(block, {}).get("ece") for each in blocks]
        differences = untested
        if block.endswith("inference") and None not in values:
            differences = calibration_differences(systems, recalibrated=block != "inference")
        add(f"ECE: {title_of(block)}", values, differences, 100, 2, -1)
        add("… its noise floor", [each.get(block, {}).get("noise_floor") for each in blocks], untested, 100, 2, 0)
    return rows


def _figures(
    labels: Sequence[str], evaluations: Sequence[Evaluation], blocks: list[dict[str, Any]]
) -> dict[str, list[str]]:
    """`reliability` and `curves`: SVG elements with the systems over one another."""
    short = [label if len(label) <= 30 else label[:29] + "…" for label in labels]
    reliability, curves = [], []
    for name in ("teacher_forced", "recalibrated_teacher_forced", "inference", "recalibrated_inference"):
        known = [(label, each[name]) for label, each in zip(short, blocks) if name in each and each[name]["tokens"]]
        if len(known) > 1:
            reliability.append(reliability_overlay(known, title_of(name)))
        risky = [(label[0], block) for label, block in known if block.get("risk_coverage")]
        if len(risky) > 1 and not name.startswith("recalibrated_"):
            curves.append(risk_coverage_plot(risky, "Tokens: " + name.replace("_", "-"), name))
    selective = [(evaluation.results.get("sequence") or {}).get("selective") or [] for evaluation in evaluations]
    if all(selective):
        for metric, title in (("chrf", "chrF"), ("bleu", "BLEU")):
            curves.append(selective_plot(list(zip(LETTERS, selective)), metric, f"{title} of the lines kept"))
    return {"reliability": reliability, "curves": curves}
