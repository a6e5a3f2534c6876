"""The page that holds evaluations of one test set against each other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from mt.errors import UserError
from mt.metrics import quality
from mt.metrics.noise import holm
from mt.progress import busy
from mt.report.figures import reliability_overlay, selective_plot
from mt.report.inputs import Block, Evaluation, read_evaluation, title_of
from mt.report.page import write_page
from mt.report.svg import label_text
from mt.settings import dotted

_LETTERS = "ABCDEF"  # that stand for the systems of a page


class Row(NamedTuple):
    """A line of the table of differences: one figure a system (None: not known), one difference for each but the first
    (None: not tested), whether higher (1), lower (-1) or neither (0) is better, and noise floors of the figures."""

    name: str
    figures: list[Any]
    differences: Sequence[Any]
    better: int
    digits: int = 2
    floors: Sequence[Any] = ()


@busy("comparing")
def write_comparison(folders: Sequence[Path], output: Path) -> Path:
    """Writes the page that compares 2 to 6 evaluations; the first is what the others are held against. Raises UserError
    for a folder that holds no evaluation, too many of them, or evaluations of different test sets."""
    if len(folders) > len(_LETTERS):
        raise UserError(f"{len(folders)} evaluations are too many for one page; give at most {len(_LETTERS)}")
    evaluations = [read_evaluation(folder) for folder in folders]
    _check_same_test_set(evaluations)
    names = [evaluation.name for evaluation in evaluations]
    if len(set(names)) < len(names):
        names = ["/".join(evaluation.folder.resolve().parts[-2:]) for evaluation in evaluations]
    table = _table(evaluations)
    write_page(
        output,
        "comparison.html.j2",
        names,
        evaluations,
        letters=_LETTERS,
        resamples=quality.RESAMPLES,
        seed=quality.SEED,
        table=[row for row in table if any(row.figures)],
        verdicts=[verdict_on(table, letter) for letter in _LETTERS[1 : len(names)]],
        differing=differing([evaluation.results for evaluation in evaluations]),
        figures=_figures(names, evaluations),
    )
    return output


def _check_same_test_set(evaluations: Sequence[Evaluation]) -> None:
    """Raises UserError unless all have the same references, the same sources where both know them, and BLEU of the same
    tokeniser."""
    first = evaluations[0]
    for other in evaluations[1:]:
        both = f"{first.folder} and {other.folder} are evaluations of different"
        tokenizers = [quality.bleu_tokenizer(each.target_language) for each in (first, other)]
        if tokenizers[0] != tokenizers[1]:
            remedy = "evaluate again, both with one --target_language"
            raise UserError(f"{both} tokenisers for BLEU, {' and '.join(tokenizers)}; {remedy}")
        remedy = "compare evaluations of one test set"
        if len(first.records) != len(other.records):
            raise UserError(f"{both} test sets: {len(first.records)} and {len(other.records)} lines; {remedy}")
        for number, (ours, theirs) in enumerate(zip(first.records, other.records), 1):
            sources = {each["source"] for each in (ours, theirs) if each.get("source")}
            if len(sources) > 1 or quality.references_of(ours) != quality.references_of(theirs):
                raise UserError(f"{both} test sets: line {number} differs in source or reference; {remedy}")


def _table(evaluations: Sequence[Evaluation]) -> list[Row]:
    results: list[Any] = [evaluation.results for evaluation in evaluations]
    systems = [evaluation.records for evaluation in evaluations]
    tested = quality.quality_differences(systems, evaluations[0].target_language)
    untested: list[Any] = [None] * (len(evaluations) - 1)
    rows = []
    for key, name, better in (("bleu", "BLEU", 1), ("chrf", "chrF", 1), ("ter", "TER", -1)):
        scores = [(each.get(key) or {}).get("score") for each in results]
        rows.append(Row(name, scores, tested[key], better))
    rows.append(Row("length ratio", [each.get("length_ratio") for each in results], untested, 0, digits=3))
    rows.append(Row("empty translations", [each.get("empties") for each in results], untested, -1, digits=0))
    blocks = [evaluation.blocks for evaluation in evaluations]
    for block in dict.fromkeys(name for each in blocks for name in each):
        plain = block.removeprefix("recalibrated_")  # stands for itself where nothing was to be recalibrated
        known = [each.get(block) or each.get(plain) or {} for each in blocks]
        ece, floor, nll = ([each.get(key) for each in known] for key in ("ece", "noise_floor", "nll"))
        title, differences = title_of(block).lower(), quality.calibration_differences(systems, block)
        rows += [Row(f"ECE ({title})", ece, differences, -1, 4, floor)]
        if block.endswith("teacher_forced"):
            differences = quality.calibration_differences(systems, block, "nll")
            rows += [Row(f"NLL ({title})", nll, differences, -1, digits=4)]
    for of_system in zip(*(row.differences for row in rows)):
        found = [each for each in of_system if each]
        for difference, p in zip(found, holm([each["p"] for each in found])):
            difference["adjusted_p"] = p
    return rows


def verdict_on(table: Sequence[Row], letter: str) -> str:
    """Whether a system or A is better, in one sentence: by BLEU with its interval, and what else differs for sure."""
    place = _LETTERS.index(letter) - 1
    bleu = next(row.differences[place] for row in table if row.name == "BLEU")
    also: dict[str, list[str]] = {letter: [], "A": []}
    for row in table:
        found = row.differences[place]
        if row.better and found and found["adjusted_p"] < 0.05:
            also[letter if row.better * found["difference"] > 0 else "A"].append(row.name)
    best = next((name for name, rows in also.items() if "BLEU" in rows), None)
    sign = -1 if best == "A" else 1
    low, high = sorted((sign * bleu["low"], sign * bleu["high"]))
    size = f"{sign * bleu['difference']:{'' if best else '+'}.2f} BLEU [{low:.2f}, {high:.2f}]".replace("-", "\u2212")
    size += f" (adjusted p {bleu['adjusted_p']:.3f})" if bleu["adjusted_p"] >= 0.001 else " (adjusted p < 0.001)"
    other = "A" if best == letter else letter
    verdict = f"{best} is better than {other} by" if best else f"No difference of A and {letter} can be told:"
    said = [f"{verdict} {size}"]
    for name, rows in also.items():
        if rows := [row for row in rows if row != "BLEU"]:
            said.append(f"{name} is{' also' if name == best else ''} better by {', '.join(rows)}")
    return "; ".join(said) + "."


def differing(results: Sequence[Any]) -> list[tuple[str, list[Any]]]:
    """Settings and facts that are not the same in all results that tell them: dotted name, and a value a system."""
    blocks = ("model", "config", "decode", "evaluation")
    known = [dict(dotted({name: each.get(name) or {} for name in blocks})) for each in results]
    names = [name for name in dict.fromkeys(chain(*known)) if name not in ("evaluation.date", "evaluation.command")]
    told = [name for name in names if len({repr(each[name]) for each in known if name in each}) > 1]
    return [(name.removeprefix("config."), [each.get(name) for each in known]) for name in told]


def _figures(names: Sequence[str], evaluations: Sequence[Evaluation]) -> dict[str, list[str]]:
    """`reliability` and `curves`: SVG elements with the systems over one another."""
    labels = [label_text(f"{letter} {name}") for letter, name in zip(_LETTERS, names)]
    blocks = [evaluation.blocks for evaluation in evaluations]
    reliability, curves = [], []
    for name in ("teacher_forced", "recalibrated_teacher_forced", "inference", "recalibrated_inference"):
        known: list[tuple[str, Block]] = [
            (label, each[name]) for label, each in zip(labels, blocks) if name in each and each[name]["tokens"]
        ]
        if len(known) > 1:
            reliability.append(reliability_overlay(known, title_of(name)))
    selective = [(evaluation.results.get("sequence") or {}).get("selective") or [] for evaluation in evaluations]
    if all(selective):
        for metric, title in (("chrf", "chrF"), ("bleu", "BLEU")):
            curves.append(selective_plot(list(zip(_LETTERS, selective)), metric, f"{title} of the lines kept"))
    return {"reliability": reliability, "curves": curves}
