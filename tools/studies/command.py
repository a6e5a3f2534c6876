"""`tools/study.py STUDY.yaml --output DIR`: trains and measures the cells of a study, then answers its questions."""

from __future__ import annotations

import time
from pathlib import Path

from mt.cli.main import DONE, CommandParser, aligned, number
from mt.errors import UserError
from mt.progress import log_line, say
from mt.settings import within
from tools.studies.cells import Place, run_cell
from tools.studies.plan import Cell, Study, cells_of, needed_by, read_study


def main(arguments: list[str] | None = None) -> int:
    """Runs what is not done yet, and writes the table and the page from what is."""
    given = _parser().parse_args(arguments)
    study = read_study(given.study)
    seeds = tuple(int(seed) for seed in given.seeds.split(",")) if given.seeds else ()
    chosen = cells_of(study, given.only, seeds)
    if not chosen:
        raise UserError(f"{given.study}: no cell fits --only {given.only} and --seeds {given.seeds or 'all'}")
    cells = _in_order(study, chosen)
    place = Place(study, given.output, given.study.parent.parent, given.threads or 0, given.root)
    if given.dry_run:
        say(*_plan(place, cells))
        return DONE
    given.output.mkdir(parents=True, exist_ok=True)
    started, done = time.monotonic(), 0
    for position, cell in enumerate(cells, 1):
        if place.done(cell):
            continue
        left = (
            (time.monotonic() - started) / done * (len(cells) - position + 1) / 60 if done else _minutes(place, cells)
        )
        log_line(f"cell {position} of {len(cells)}: {cell.name}; about {left:,.0f} minutes left")
        try:
            run_cell(place, cell)
        except UserError as error:
            if "another process is at this cell" not in str(error):
                raise
            log_line(f"note: {error}")
        done += 1
    return DONE


def _in_order(study: Study, chosen: list[Cell]) -> list[Cell]:
    """The chosen cells, each after those whose models it is trained with."""
    ordered: dict[str, Cell] = {}
    for cell in chosen:
        for each in (*needed_by(study, cell), cell):
            ordered.setdefault(each.name, each)
    return list(ordered.values())


def _minutes(place: Place, cells: list[Cell]) -> float:
    left = [cell for cell in cells if not place.done(cell)]
    return sum(place.study.corpora[cell.corpus].minutes for cell in left) / min(2, place.threads)


def _plan(place: Place, cells: list[Cell]) -> list[str]:
    """What `--dry_run` prints: cells, questions, time."""
    rows = [["cell", "minutes on one core", "state"]]
    minutes = {name: corpus.minutes for name, corpus in place.study.corpora.items()}
    rows += [[cell.name, f"{minutes[cell.corpus]:g}", "done" if place.done(cell) else "to do"] for cell in cells]
    lines = [aligned(rows), ""]
    for name, question in place.study.questions.items():
        lines.append(f"{name}. {question.statement}")
        lines += [f"   {each.outcome}: {each.first} {each.claim} than {each.second}" for each in question.comparisons]
    return [*lines, "", f"{len(cells)} cells, about {_minutes(place, cells) / 60:.1f} hours on two cores"]


def _parser() -> CommandParser:
    parser = CommandParser(
        description="Trains and measures a grid of models, and answers the questions that the study file asks.",
        example="python tools/study.py configs/studies/quick.yaml --output runs/study",
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
    add("--seeds", default="", metavar="N,N", help="of these seeds only")
    add("--root", default="", metavar="DIR", help="where the corpora lie, if not where their configs say")
    add("--threads", type=number(int, within(1, 1024)), metavar="N", help="processor threads (default: all cores)")
    add("--dry_run", action="store_true", help="print cells, questions and time, and run nothing")
    return parser
