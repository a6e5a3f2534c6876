"""The page and the table of a study, made from results.json alone: `tools/study.py --results results.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, FileSystemLoader

from mt.files.atomic import write_text
from mt.report.page import environment
from mt.report.svg import svg_document
from tools.studies.figures import study_figures

Results = Mapping[str, Any]
_COLUMNS = ("bleu", "nll", "accuracy", "ece", "tempered_ece", "gap", "ece_output", "gap_output", "auroc", "kl")


def write_study(results: Results, folder: Path) -> Path:
    """Writes study.html, table.md, times.md and a SVG file for each figure; gives the path of the page."""
    figures = study_figures(results)
    folder.mkdir(parents=True, exist_ok=True)
    for name, svg in figures.items():
        write_text(folder / f"{name}.svg", svg_document(svg))
    write_text(folder / "table.md", table(results))
    write_text(folder / "times.md", times(results))
    shared = environment()
    own = shared.overlay(loader=ChoiceLoader([FileSystemLoader(Path(__file__).parent), shared.loader]))
    page = own.get_template("study.html.j2").render(
        results=results, figures=figures, columns=_COLUMNS, groups=_groups(results)
    )
    write_text(folder / "study.html", page)
    return folder / "study.html"


def _groups(results: Results) -> list[dict[str, Any]]:
    """Mean figures over the seeds of each group of cells, text by text."""
    rows: list[dict[str, Any]] = []
    for group in dict.fromkeys(cell["group"] for cell in results["cells"]):
        cells = [cell for cell in results["cells"] if cell["group"] == group]
        for test in dict.fromkeys(test for cell in cells for test in cell["tests"]):
            blocks = [cell["tests"][test] for cell in cells if test in cell["tests"]]
            means = {
                name: sum(block[name] for block in blocks) / len(blocks)
                for name in _COLUMNS
                if all(block.get(name) is not None for block in blocks)
            }
            seconds = sum(cell["training_seconds"] for cell in cells) / len(cells)
            rows.append({"group": group, "test": test, "seeds": len(blocks), "seconds": seconds, **means})
    return rows


def table(results: Results) -> str:
    """Verdicts, comparisons and cells as Markdown: nothing in it depends on time or machine load."""
    mark = " (indication only)" if results["indication"] else ""
    lines = [f"# {results['title']}", "", "Made by `tools/study.py`; do not edit.", "", "## Verdicts", ""]
    lines += ["| | statement | verdict |", "|---|---|---|"]
    for name, each in results["questions"].items():
        statement = each["statement"].replace("|", "\\|")
        lines.append(f"| {name} | {statement} | {each['verdict']}{mark} |")
    lines += ["", "## Comparisons", "", "The first less the second, mean over seeds, 95 % interval.", ""]
    heads = [
        "",
        "outcome",
        "first",
        "second",
        "claim",
        "effect",
        "interval",
        "p (Holm)",
        "seeds",
        "seen at",
        "decision",
    ]
    lines += ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, question in results["questions"].items():
        for each in question["comparisons"]:
            lines.append("| " + " | ".join([name, *_cells_of(each)]) + " |")
    names = [name for name in _COLUMNS if any(name in row for row in _groups(results))]
    lines += ["", "## Cells", "", "Means over seeds.", ""]
    lines += ["| cells | text | seeds | " + " | ".join(names) + " |", "|---" * (len(names) + 3) + "|"]
    for row in _groups(results):
        figures = [_figure(row.get(name), name) for name in names]
        cells = [row["group"], row["test"], str(row["seeds"]), *figures]
        lines.append("| " + " | ".join(cells) + " |")
    if results["missing"]:
        lines += ["", "## Not run", "", *(f"- {name}" for name in results["missing"])]
    return "\n".join(lines) + "\n"


def times(results: Results) -> str:
    """What each cell took, as Markdown; apart from the table, which is the same however often a study was stopped."""
    lines = [
        "# What each cell took",
        "",
        "Made by `tools/study.py`; do not edit. Seconds; other jobs beside count.",
        "",
    ]
    lines += ["| cell | updates | processes | training | measuring |", "|---|---|---|---|---|"]
    for cell in results["cells"]:
        seconds = f"{cell['training_seconds']:.0f} | {cell['measuring_seconds']:.0f}"
        lines.append(f"| {cell['name']} | {cell['step']} | {cell['threads']} | {seconds} |")
    return "\n".join(lines) + "\n"


def _cells_of(each: Mapping[str, Any]) -> list[str]:
    search = f" ({each.get('search', 'main')} less {each['less']})" if "less" in each else ""
    where = f", {each['test']}" if "test" in each else ""
    second = f" / {each['second_outcome']}" if "second_outcome" in each else ""
    outcome = each["outcome"] + second + search + where
    fixed = [outcome, each["first"], each["second"], each["claim"]]
    if "effect" not in each:
        return [*fixed, "–", "–", "–", "0", "–", each["decision"]]
    name = each["outcome"]
    interval = f"[{_figure(each['low'], name)}, {_figure(each['high'], name)}]"
    seen, p = _figure(each["detectable"], name), f"{each['p_adjusted']:.3f}"
    return [*fixed, _figure(each["effect"], name), interval, p, str(each["seeds"]), seen, each["decision"]]


def _figure(value: float | None, name: str) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if "bleu" in name or name == "chrf" else f"{value:.4f}"
