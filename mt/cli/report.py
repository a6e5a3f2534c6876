"""`tools/report.py EVALUATION [EVALUATION …]`: the page of an evaluation again, or several in one page."""

from __future__ import annotations

from pathlib import Path

from mt.cli.main import DONE, CommandParser
from mt.errors import UserError
from mt.files.output import check_apart, check_writable
from mt.progress import say


def main(arguments: list[str] | None = None) -> int:
    """Writes a page and prints its name."""
    parser = CommandParser(
        description="One EVALUATION, a folder that evaluate wrote: makes its report.html again. Several of one test\n"
        "set: compares them in one page, with differences, their intervals and p values (paired bootstrap over\n"
        "sentences), reliability diagrams over one another, and translations side by side.",
        example="runs/smoothed/evaluation runs/encouraging/evaluation --output compare.html",
    )
    folders = "folders with results.json and records.jsonl; the first is the baseline"
    parser.add_argument("evaluations", type=Path, nargs="+", metavar="EVALUATION", help=folders)
    parser.add_argument("--output", type=Path, metavar="F.html", help="the page of a comparison")
    given = parser.parse_args(arguments)
    several = len(given.evaluations) > 1
    if given.output is not None and not several:
        raise UserError("--output goes with several evaluations; the page of one lies in its folder")
    if several and given.output is None:
        raise UserError("--output is missing; name the page of the comparison, as in --output compare.html")
    from mt.report.comparison import write_comparison
    from mt.report.page import write_report

    if several:
        check_writable(given.output)
        read = [("a file of EVALUATION", path) for folder in given.evaluations for path in folder.glob("*")]
        check_apart(read, ("--output", given.output))
    try:
        say(write_comparison(given.evaluations, given.output) if several else write_report(given.evaluations[0]))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        paths = [folder / "results.json" for folder in given.evaluations]
        unsure = [str(path) for path in paths if b'"checksum"' not in path.read_bytes()]
        if not unsure:  # the files are as evaluate left them: the fault is ours
            raise
        raise UserError(f"{', '.join(unsure)}: not as expected ({error!r}); run evaluate again") from error
    return DONE
