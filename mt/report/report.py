"""The page of an evaluation: one HTML file without network, made from results.json and records.jsonl."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mt.files.atomic import write_text
from mt.report.figures import reliability_diagram
from mt.report.files import Evaluation, read_evaluation
from mt.report.page import MOST_BYTES, render
from mt.report.plots import SWEEP_PANELS, dumbbell, penalty_name, risk_coverage_plot, selective_plot, sweep_plots
from mt.report.rows import Record, payload

TITLES = {
    "teacher_forced": "Reference as prefix (teacher-forced)",
    "inference": "Own output (inference)",
    "inference_word_product": "Own output by words (product of tokens)",
    "inference_word_minimum": "Own output by words (least sure token)",
    "inference_edit_distance": "Own output by plain edit distance",
}
DRAWN = ("teacher_forced", "inference")


def write_report(folder: Path) -> Path:
    """Writes `report.html` and `figures/*.svg` into the folder of an evaluation.

    Args:
        folder: holds `results.json` and `records.jsonl`.

    Returns:
        The path of the page.

    Raises:
        UserError: one of the two files is missing or is not what evaluate writes.
    """
    evaluation = read_evaluation(folder)
    results = evaluation.results
    add_sentence_bleu(evaluation.records)
    blocks = calibration_blocks(results)
    figures = draw_figures(results, blocks)
    (folder / "figures").mkdir(exist_ok=True)
    for name, svg in figures.items():
        write_text(folder / "figures" / f"{name}.svg", svg + "\n")
    values = {
        "evaluation": evaluation,
        "results": results,
        "blocks": blocks,
        "titles": TITLES,
        "figures": figures,
        "sweep": sweep_of(results),
        "sweep_panels": SWEEP_PANELS,
        "penalty_name": penalty_name,
        "dumbbell": dumbbell,
    }
    bare = len(render("report.html.j2", data=None, **values).encode())
    data = payload([evaluation.name], [evaluation.records], MOST_BYTES - bare, flag_threshold(evaluation))
    write_text(folder / "report.html", render("report.html.j2", data=data, **values))
    return folder / "report.html"


def calibration_blocks(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The calibration blocks that have something to show; those after recalibration are named `recalibrated_…`."""
    blocks = {name: block for name, block in (results.get("calibration") or {}).items() if name in TITLES and block}
    after = results.get("recalibrated") or {}
    ordered: dict[str, dict[str, Any]] = {}
    for name in TITLES:
        if name in blocks:
            ordered[name] = blocks[name]
        if name in DRAWN and after.get(name):
            ordered[f"recalibrated_{name}"] = after[name]
    return ordered


def title_of(name: str) -> str:
    """The title of a calibration block."""
    bare = name.removeprefix("recalibrated_")
    return TITLES[bare] + (", recalibrated" if bare != name else "")


def draw_figures(results: dict[str, Any], blocks: dict[str, dict[str, Any]]) -> dict[str, str]:
    """All figures of the page as SVG elements, by name."""
    drawn = {name: block for name, block in blocks.items() if name.removeprefix("recalibrated_") in DRAWN}
    figures = {f"reliability_{name}": reliability_diagram(block, title_of(name)) for name, block in drawn.items()}
    for number, svg in enumerate(sweep_plots(sweep_of(results)), 1):
        figures[f"sweep_{number}"] = svg
    risky = [(name.replace("_", "-"), drawn[name]) for name in DRAWN if drawn.get(name, {}).get("risk_coverage")]
    if risky:
        figures["risk_coverage"] = risk_coverage_plot(risky, "Tokens: risk and coverage")
    selective = (results.get("sequence") or {}).get("selective")
    for metric, title in (("chrf", "chrF"), ("bleu", "BLEU"), ("ter", "TER")):
        if selective and all(entry.get(metric) is not None for entry in selective):
            figures[f"selective_{metric}"] = selective_plot([("", selective)], metric, f"{title} of the lines kept")
    return figures


def sweep_of(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The sweep over beams and length penalties; without one, what the blocks of the beam sizes tell."""
    if results.get("sweep"):
        return list(results["sweep"])
    decode = results.get("decode") or {}
    entries = []
    for beam, block in (results.get("beams") or {}).items():
        inference = block["calibration"].get("inference") or {}
        entries.append(
            {
                "beam": int(beam),
                "length_penalty": decode.get("length_penalty"),
                "length_alpha": decode.get("length_alpha"),
                "bleu": block["bleu"]["score"],
                "length_ratio": block["length_ratio"],
                "empties": block["empties"],
                "ece_inference": inference.get("ece"),
                "ece_eos": (inference.get("eos") or {}).get("ece"),
            }
        )
    return entries


def flag_threshold(evaluation: Evaluation) -> float | None:
    """The confidence that calibrate found for flagging lines, where results.json tells one."""
    results = evaluation.results
    thresholds = results.get("thresholds") or (results.get("recalibrated") or {}).get("thresholds") or []
    return next((each["confidence"] for each in thresholds if each.get("confidence") is not None), None)


def add_sentence_bleu(records: list[Record]) -> None:
    """Adds sentence BLEU (effective order) where a record has a reference but no `bleu`."""
    from sacrebleu.metrics import BLEU

    metric = BLEU(effective_order=True)
    for record in records:
        references = record.get("references") or ([record["reference"]] if "reference" in record else [])
        if record.get("bleu") is None and references:
            record["bleu"] = metric.sentence_score(record["translation"], references).score
