"""`mt configs`: the configs that are shipped, to run by name or to begin with."""

from __future__ import annotations

import os
from itertools import takewhile
from pathlib import Path
from textwrap import fill

from mt.cli.main import DONE, CommandParser, suggest
from mt.errors import UserError
from mt.files.atomic import write_text
from mt.files.shipped import shipped_configs
from mt.progress import say


def main(arguments: list[str] | None = None) -> int:
    """Lists the shipped configs with what they say of themselves, or copies one."""
    parser = CommandParser(
        description="Lists the shipped configs. train and prepare, for studies/NAME study, take their names; with NAME "
        "one is\ncopied, to be changed.",
        example="demo-de-en --output mine.yaml",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="the config to copy")
    parser.add_argument("--output", type=Path, metavar="F", help="the copy (default: NAME.yaml here)")
    given = parser.parse_args(arguments)
    configs = shipped_configs()
    if given.name is None:
        width = max(map(len, configs))
        for name, path in configs.items():
            lines = takewhile(lambda line: line.startswith("# "), path.read_text(encoding="utf-8").splitlines())
            about, *_ = " ".join(line.removeprefix("# ") for line in lines).split(". ")
            say(fill(about, 80, initial_indent=f"{name:{width}}  ", subsequent_indent=" " * (width + 2)))
        return DONE
    if given.name not in configs:
        raise UserError(f"no shipped config {given.name}; there are {', '.join(configs)}")
    output = given.output or Path(f"{Path(given.name).name}.yaml")
    if os.path.lexists(output):
        raise UserError(f"{output}: exists already; name another file with --output")
    write_text(output, configs[given.name].read_text(encoding="utf-8"))
    say(output)
    suggest("study" if given.name.startswith("studies/") else "train", output)
    return DONE
