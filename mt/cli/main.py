"""What all commands share: how they are called, their parser, and how an error becomes one line and an exit code.

Exit codes: 0 done; 2 the user must change something; 130 interrupted, can be continued; 141 the reader of the
output went away. Any other exception is a fault of the program and keeps its traceback.
"""

from __future__ import annotations

import argparse
import difflib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from mt import __version__
from mt.config import SearchConfig
from mt.errors import UserError, concerning, out_of_memory
from mt.files.yaml_file import read_yaml
from mt.processes import available_cores
from mt.progress import abandon, log_line
from mt.settings import Allowed, Count, allowed_values, descriptions, within

DONE, USER_ERROR, INTERRUPTED, READER_GONE = 0, 2, 130, 141

_REMEDIES = {errno.ENOENT: "check the name", errno.ENOSPC: "free some", errno.EMFILE: "raise the limit: ulimit -n"}
_REMEDY = "check the place, its permissions and its disk or network drive, and give the same command again"


def run(command: Callable[[], int]) -> int:
    """Calls a command and turns what a person can mend into one line on standard error; returns the exit code."""
    _open_standard_streams()
    try:
        try:
            return command()
        finally:
            with concerning("standard output"):
                sys.stdout.flush()  # a reader that went away shows here, not in the interpreter's last moments
    except UserError as error:
        return _fail(str(error))
    except KeyboardInterrupt as interrupt:
        return _fail(f"interrupted: {interrupt}" if interrupt.args else "interrupted", INTERRUPTED, "")
    except (OSError, MemoryError, RuntimeError) as error:
        try:  # the interpreter flushes once more at its end: that goes nowhere where it would fail
            sys.stdout.flush()
        except OSError:
            abandon(sys.stdout)
        if isinstance(error, BrokenPipeError):
            return READER_GONE
        if out_of_memory(error):
            return _fail("not enough memory; use smaller batches, a smaller model or beam, or a machine with more")
        if not isinstance(error, OSError):
            raise
        name = error.filename2 or error.filename
        place = f"{os.fsdecode(name)}: " if isinstance(name, (str, bytes, os.PathLike)) else ""
        return _fail(f"{place}{error.strerror or error}; {_REMEDIES.get(error.errno or 0, _REMEDY)}")


def _fail(message: str, code: int = USER_ERROR, prefix: str = "error: ") -> int:
    log_line(prefix + " ".join(message.split()))
    return code


def _open_standard_streams() -> None:
    """Lets a standard stream that was closed lead nowhere: else the next file that is opened would take its number, and
    whatever a library prints. Text that it cannot encode, such as a name that is not UTF-8, is written escaped."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # takes the number: the lowest one that is free
            if number:
                setattr(sys, name, open(number, "w", encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def program_name() -> str:
    """The program as the user called it: train.py, tools/evaluate.py, mt-train, or mt train."""
    program = Path(sys.argv[0])
    return f"tools/{program.name}" if program.parent.name == "tools" else program.name


def call_of(command: str = "") -> str:
    """How this command is called, or another one in the same way: python train.py, mt-train, mt train."""
    own = program_name()
    if own.endswith(".py"):
        script = f"{command.replace('-', '_')}.py"
        return f"python {own if not command else script if command in ('train', 'translate') else f'tools/{script}'}"
    if not command:
        return own
    return f"mt-{command}" if own.startswith("mt-") else f"{own.rpartition(' ')[0] or 'mt'} {command}"


class CommandParser(argparse.ArgumentParser):
    """An argparse parser whose errors are UserErrors of one line; an unknown option gets the nearest one. `example`:
    the arguments of a call, several on a line each."""

    def __init__(self, *, description: str, example: str) -> None:
        super().__init__(
            prog=program_name(),
            description=description,
            epilog=f"example:\n  {call_of()} " + example.replace("\n", f"\n  {call_of()} "),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("--version", action="version", version=f"mt {__version__}")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, but an unknown option is told first: it is often the reason of what else is missing."""
        for argument in sys.argv[1:] if args is None else args:
            option = argument.partition("=")[0]
            if option == "--":
                break
            if option.startswith("--") and option not in self._option_string_actions:
                names = [name for name in self._option_string_actions if name.startswith("--")]
                near = difflib.get_close_matches(option, names, n=1)
                hint = f"did you mean {near[0]}?" if near else f"{self.prog} --help lists all"
                raise UserError(f"{self.prog}: unknown option {option}; {hint}")
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Raises the UserError; argparse calls this for everything that is wrong."""
        raise UserError(f"{self.prog}: {message}; {self.prog} --help tells more")


# Options that several commands have


def add_model(parser: argparse.ArgumentParser, **model: Any) -> None:
    """MODEL, --device and --threads; `model`: further options of MODEL."""
    words = "model directory, or run directory (its best model)"
    parser.add_argument("model", type=Path, metavar="MODEL", help=words, **model)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    threads = number(int, within(1, 1024))
    parser.add_argument("--threads", type=threads, metavar="N", help="processor threads (default: all cores)")


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
            options = {"type": number(hint, ranges[name]), "metavar": "N" if hint is int else "X"}
        parser.add_argument(f"--{name}", help=words[name].replace("%", "%%"), **options)


def number(kind: type, allowed: Allowed) -> Callable[[str], int | float]:
    """For argparse's `type`: a number in range."""

    def convert(text: str) -> int | float:
        with suppress(UserError):
            value = read_yaml(text, "")  # as a config file has it: 010 is refused there, too
            if type(value) in (int, kind) and allowed.holds(value):
                return kind(value)
        what = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not {what} that is {allowed.words}")

    return convert


positive = number(*get_args(Count))
"""a whole number of at least 1; for argparse's `type`"""
seed = number(int, within(0, 10**18))


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A table as text, its columns set right. One of many columns that is too wide for 80 letters is set on its side,
    in parts of as many rows as go beside each other."""

    def lines(rows: Sequence[Sequence[str]]) -> list[str]:
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows]

    upright = lines(rows)
    if len(rows[0]) <= 4 or len(upright[0]) <= 80:
        return "\n".join(upright)
    head, *left = rows
    parts = []
    while left:
        count = len(left)
        while count > 1 and len(lines([*zip(head, *left[:count])])[0]) > 80:
            count -= 1
        parts.append("\n".join(lines([*zip(head, *left[:count])])))
        left = left[count:]
    return "\n\n".join(parts)


def suggest(command: str, *arguments: object) -> None:
    """Tells, on standard error, which command one may want next."""
    log_line(f"next: {call_of(command)} {' '.join(map(str, arguments))}")


def check_new(path: Path) -> None:
    """Raises UserError where a folder is to be made and something is there already."""
    if path.exists():
        raise UserError(f"{path}: exists already; choose another name or remove it")


def model_files(model: Path) -> list[Path]:
    """The files of a model directory, or those of a run that a model is taken from."""
    own = [model / name for name in ("config.yaml", "best", "last", "log.jsonl")]
    return [*own, *model.glob("checkpoints/*/*")] if (model / "checkpoints").is_dir() else [*model.glob("*")]


def use_threads(count: int | None) -> int:
    """Lets torch use `count` processor threads; None: as many as there are cores for this process. Returns it."""
    import torch  # not needed for --help

    threads = count or available_cores()
    torch.set_num_threads(threads)
    return threads
