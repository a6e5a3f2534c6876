"""The page of an evaluation: one HTML file without network, made from results.json and records.jsonl."""

from __future__ import annotations

from pathlib import Path

from mt.files.atomic import write_text
from mt.report.curves import GRID_PANELS, penalty_name, risk_coverage_plot, search_grid_plots, selective_plot
from mt.report.html import write_page
from mt.report.inputs import DRAWN, TITLES, Evaluation, read_evaluation, title_of
from mt.report.reliability import reliability_diagram


def write_report(folder: Path) -> Path:
    """Writes `report.html` and `figures/*.svg` into the folder of an evaluation; gives the path of the page.

    Raises:
        UserError: `results.json` or `records.jsonl` is missing or is not what evaluate writes.
    """
    evaluation = read_evaluation(folder)
    figures = draw_figures(evaluation)
    (folder / "figures").mkdir(exist_ok=True)
    for name, svg in figures.items():
        write_text(folder / "figures" / f"{name}.svg", svg + "\n")
    write_page(
        folder / "report.html",
        "report.html.j2",
        [evaluation.name],
        [evaluation],
        results=evaluation.results,
        blocks=evaluation.blocks,
        titles=TITLES,
        figures=figures,
        grid=evaluation.search_grid,
        grid_panels=GRID_PANELS,
        penalty_name=penalty_name,
    )
    return folder / "report.html"


def draw_figures(evaluation: Evaluation) -> dict[str, str]:
    """All figures of the page as SVG elements, by name."""
    drawn = {name: block for name, block in evaluation.blocks.items() if name.removeprefix("recalibrated_") in DRAWN}
    figures = {f"reliability_{name}": reliability_diagram(block, title_of(name)) for name, block in drawn.items()}
    for number, svg in enumerate(search_grid_plots(evaluation.search_grid), 1):
        figures[f"sweep_{number}"] = svg
    risky = [(name.replace("_", "-"), drawn[name]) for name in DRAWN if drawn.get(name, {}).get("risk_coverage")]
    if risky:
        figures["risk_coverage"] = risk_coverage_plot(risky, "Tokens: risk and coverage")
    selective = (evaluation.results.get("sequence") or {}).get("selective")
    for metric, title in (("chrf", "chrF"), ("bleu", "BLEU"), ("ter", "TER")):
        if selective and all(entry.get(metric) is not None for entry in selective):
            figures[f"selective_{metric}"] = selective_plot([("", selective)], metric, f"{title} of the lines kept")
    return figures
