"""`tools/study.py STUDY.yaml --output DIR`: trains and measures the cells of a study, then answers its questions."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from mt.cli.main import DONE, CommandParser, aligned, number, positive
from mt.errors import UserError
from mt.files.json_file import write_json
from mt.files.shipped import config_path
from mt.progress import log_line, say
from mt.settings import within
from tools.studies.plan import MAIN, Cell, Study, needed_by, read_study, work_of

if TYPE_CHECKING:
    from tools.studies.cells import Place


def main(arguments: list[str] | None = None) -> int:
    """Runs what is not done yet, and writes results.json, the table and the page from what is."""
    given = _parser().parse_args(arguments)
    from tools.studies.answers import answer, read_results  # torch: not needed for --help
    from tools.studies.cells import Place
    from tools.studies.measures import check_outcomes
    from tools.studies.page import write_study

    if given.results:
        say(write_study(read_results(given.results), given.output))
        return DONE
    given.study = config_path(given.study)
    study = read_study(given.study)
    check_outcomes(study, given.study)
    chosen = work_of(study, given.only, given.seeds)
    if not chosen:
        raise UserError(f"{given.study}: no cell fits --only {given.only} and --seeds {given.seeds or 'all of them'}")
    cells = _in_order(study, chosen)
    place = Place(study, given.output, given.study.parent.parent, given.threads or 0, given.root)
    if given.dry_run:
        say(*_plan(place, cells))
        return DONE
    given.output.mkdir(parents=True, exist_ok=True)
    _run(place, cells)
    log_line("answers: resampling")
    results = answer(place)
    write_json(given.output / "results.json", results)
    page = write_study(results, given.output)
    say(*(f"{name}. {each['verdict']}: {each['statement']}" for name, each in results["questions"].items()), page)
    return DONE


def _run(place: Place, cells: list[Cell]) -> None:
    """Runs the cells that are not done, one after another; one that another process is at is left to it."""
    from tools.studies.cells import check_same, run_cell

    started, done = time.monotonic(), 0
    for position, cell in enumerate(cells, 1):
        if place.done(cell):
            check_same(place, cell)
            continue
        left = _minutes(place, cells)
        if done:
            left = (time.monotonic() - started) / done * sum(not place.done(each) for each in cells) / 60
        log_line(f"cell {position} of {len(cells)}: {cell.name}; about {left:,.0f} minutes left")
        if run_cell(place, cell):
            done += 1
        else:
            log_line(f"note: another process is at {cell.name}")


def _in_order(study: Study, chosen: list[Cell]) -> list[Cell]:
    """The chosen cells, each after those whose models it is trained with."""
    return list(dict.fromkeys(each for cell in chosen for each in (*needed_by(study, cell), cell)))


def _minutes(place: Place, cells: list[Cell]) -> float:
    left = {cell.name: cell for cell in cells if not place.done(cell)}
    return sum(place.study.corpora[cell.corpus].minutes for cell in left.values()) / min(2, place.threads)


def _plan(place: Place, cells: list[Cell]) -> list[str]:
    """What `--dry_run` prints: cells, questions, time."""
    rows = [["cell", "searches", "minutes on one core", "state"]]
    for cell in cells:
        minutes, state = place.study.corpora[cell.corpus].minutes, "done" if place.done(cell) else "to do"
        rows.append([cell.name, ",".join((MAIN, *cell.searches)), f"{minutes:g}", state])
    lines = [aligned(rows), ""]
    for name, question in place.study.questions.items():
        lines.append(f"{name}. {question.statement}")
        lines += [f"   {each.outcome}: {each.first} {each.claim} than {each.second}" for each in question.comparisons]
    return [*lines, "", f"{len({cell.name for cell in cells})} cells, about {_minutes(place, cells) / 60:.1f} hours"]


def _seeds(text: str) -> tuple[int, ...]:
    return tuple(int(positive(part)) for part in text.split(","))


def _parser() -> CommandParser:
    parser = CommandParser(
        description="Trains and measures a grid of models, and answers the questions that the study file asks.",
        example="configs/studies/quick.yaml --output runs/study",
    )
    add = parser.add_argument
    add("study", type=Path, metavar="STUDY.yaml", help="corpora, losses, grid and questions")
    add("--output", type=Path, required=True, metavar="DIR", help="folder of cells, table and page; what is done stays")
    add(
        "--only",
        default="*",
        metavar="PATTERN",
        help="cells whose corpus/condition/variant fits, as in 'grammar*/*/ce'",
    )
    add("--seeds", type=_seeds, default=(), metavar="N,N", help="of these seeds only")
    add("--root", default="", metavar="DIR", help="where the corpora lie, if not where their configs say")
    add("--threads", type=number(int, within(1, 1024)), metavar="N", help="processor threads (default: all cores)")
    add(
        "--results",
        type=Path,
        metavar="F.json",
        help="run nothing: make table, figures and page from this results.json",
    )
    add("--dry_run", action="store_true", help="print cells, questions and time, and run nothing")
    return parser
