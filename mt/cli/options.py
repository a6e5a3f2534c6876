"""Options that several commands have: the model and where it runs, and settings of the search."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mt.config import SearchConfig
from mt.errors import UserError
from mt.processes import available_cores
from mt.settings import Allowed, Count, allowed_values
from mt.settings_help import descriptions


def add_model(parser: argparse.ArgumentParser, **model: Any) -> None:
    """MODEL, --device and --threads; `model`: further options of MODEL."""
    words = "model directory, or run directory (its best model)"
    parser.add_argument("model", type=Path, metavar="MODEL", help=words, **model)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--threads", type=positive, metavar="N", help="processor threads (default: all cores)")


def add_search(parser: Any, names: Iterable[str]) -> None:
    """Fields of SearchConfig as options, with its help and its ranges; None where one is not given."""
    hints, words, ranges = get_type_hints(SearchConfig), descriptions(SearchConfig), allowed_values(SearchConfig)
    for name in names:
        hint, options = hints[name], dict[str, Any]()
        if get_origin(hint) is Literal:
            options = {"choices": [choice for choice in get_args(hint) if choice != "none" or name == "length_penalty"]}
        elif hint is bool:
            options = {"action": "store_true", "default": None}
        else:
            options = {"type": _number(hint, ranges[name]), "metavar": "N" if hint is int else "X"}
        parser.add_argument(f"--{name}", help=words[name].replace("%", "%%"), **options)


def _number(kind: type, allowed: Allowed) -> Callable[[str], int | float]:
    """For argparse's `type`: a number in range."""

    def convert(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not allowed.holds(value):
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {what} that is {allowed.words}")
        return value

    return convert


positive = _number(int, get_args(Count)[1])
"""a whole number of at least 1; for argparse's `type`"""


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A table as text, its columns set right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows)


def check_new(path: Path) -> None:
    """Raises UserError where a folder is to be made and something is there already."""
    if path.exists():
        raise UserError(f"{path}: exists already; choose another name or remove it")


def use_threads(count: int | None) -> int:
    """Lets torch use `count` processor threads; None: as many as there are cores for this process. Returns it."""
    import torch  # not needed for --help

    threads = count or available_cores()
    torch.set_num_threads(threads)
    return threads
