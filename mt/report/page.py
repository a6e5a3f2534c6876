"""Pages: one HTML file each, without network, made from results.json and records.jsonl; everything is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from mt.files.atomic import write_text
from mt.progress import busy
from mt.report import figures as plots
from mt.report.inputs import Evaluation, read_evaluation, title_of
from mt.report.svg import svg_document
from mt.report.translations import script_json, translations_data

MOST_BYTES = 2_950_000
"""a page stays under 3 MB"""


@busy("drawing the page")
def write_report(folder: Path) -> Path:
    """Writes `report.html` and `figures/*.svg` into the folder of an evaluation; gives the path of the page. Raises
    UserError as `read_evaluation`."""
    evaluation = read_evaluation(folder)
    figures = _draw_figures(evaluation)
    (folder / "figures").mkdir(exist_ok=True)
    for name, svg in figures.items():
        write_text(folder / "figures" / f"{name}.svg", svg_document(svg))
    write_page(
        folder / "report.html",
        "report.html.j2",
        [evaluation.name],
        [evaluation],
        results=evaluation.results,
        blocks=evaluation.blocks,
        figures=figures,
        grid=evaluation.search_grid,
        grid_panels=plots.grid_panels(evaluation.search_grid),
        penalty_name=plots.penalty_name,
    )
    return folder / "report.html"


def _draw_figures(evaluation: Evaluation) -> dict[str, str]:
    """All figures of the page as SVG elements, by name."""
    blocks = evaluation.blocks
    figures = {
        f"reliability_{name}": plots.reliability_diagram(block, title_of(name)) for name, block in blocks.items()
    }
    figures |= {f"sweep_{n}": svg for n, svg in enumerate(plots.search_grid_plots(evaluation.search_grid), 1)}
    selective = (evaluation.results.get("sequence") or {}).get("selective")
    for metric, title in (("chrf", "chrF"), ("bleu", "BLEU"), ("ter", "TER")):
        if selective and all(entry.get(metric) is not None for entry in selective):
            name = f"{title} of the lines kept"
            figures[f"selective_{metric}"] = plots.selective_plot([("", selective)], metric, name)
    for judge, block in (evaluation.results.get("scores") or {}).items():
        if block.get("confidence"):
            curve = [("", block["confidence"]["selective"])]
            figures[f"selective_judge_{judge}"] = plots.selective_plot(curve, "score", f"{judge} of the lines kept")
    return figures


def write_page(
    output: Path, template: str, names: Sequence[str], evaluations: Sequence[Evaluation], **values: Any
) -> None:
    """Writes a page with the translations of evaluations of the same lines, as many as it has room for.

    The template gets `names` (of the systems), `evaluations`, `data` (the translations) and `values`.
    """
    values |= {"names": names, "evaluations": evaluations}
    room = MOST_BYTES - len(_render(template, data=None, **values).encode())
    systems = [evaluation.records for evaluation in evaluations]
    data = translations_data(names, systems, room, *evaluations[0].threshold)
    write_text(output, _render(template, data=data, **values))


def _render(template: str, **values: Any) -> str:
    page: str = environment().get_template(template).render(**values)
    return page.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate in a record is no UTF-8


@cache
def environment() -> Any:
    """The templates of pages. What one asks for and is not there shows as a dash."""
    from jinja2 import ChainableUndefined, Environment, PackageLoader
    from markupsafe import Markup

    loader = PackageLoader("mt.report", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=ChainableUndefined, trim_blocks=True, lstrip_blocks=True
    )
    percent = partial(_number, factor=100, unit="\u00a0%")  # shares of lines; probabilities and errors are 0 to 1
    environment.filters.update(number=_number, percent=percent, p_value=_p_value, words=_words, title_of=title_of)
    environment.filters["script_json"] = lambda value: Markup(script_json(value))
    for part in ("page.css", "page.js"):
        environment.globals[part.replace(".", "_")] = Markup(loader.get_source(environment, part)[0])
    return environment


def _number(value: Any, digits: int = 1, sign: bool = False, factor: int = 1, unit: str = "") -> str:
    """A figure of the tables; a dash where there is none."""
    if not isinstance(value, (int, float)):
        return "–"
    return f"{factor * value:{'+' if sign else ''}.{digits}f}{unit}".replace("-", "\u2212")


def _p_value(value: Any) -> str:
    return "<\u20090.001" if isinstance(value, (int, float)) and value < 0.001 else _number(value, 3)


def _words(value: Any, levels: int = 5, digits: int = 6) -> str:
    """Anything of results.json in a line: mappings as name: value, lists with commas, so many levels of them."""
    if value is None:
        return "–"
    if isinstance(value, (dict, list)):
        names = [f"{name}: " for name in value] if isinstance(value, dict) else [""] * len(value)
        parts = value.values() if isinstance(value, dict) else value
        return ", ".join(name + _words(part, levels - 1, digits) for name, part in zip(names, parts)) if levels else "…"
    return f"{value:.{digits}g}".replace("-", "\u2212") if isinstance(value, float) else str(value)
