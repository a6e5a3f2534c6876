"""`mt demo`: the whole journey on text of the shipped grammar, from training to the page of an evaluation."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

from mt.cli.main import DONE, CommandParser
from mt.progress import log_line


def main(arguments: list[str] | None = None) -> int:
    """Runs train, sample, translate and evaluate as a user would, and shows each call."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = CommandParser(
        description="Trains a small model on text of the shipped grammar, translates five lines, and evaluates it: "
        "about five\nminutes on two processor cores. What follows is for train, as in --train.max_steps 100.",
        example="fr-en --run_dir runs/demo-fr-en",
    )
    parser.add_argument("pair", nargs="?", choices=("de-en", "fr-en"), default="de-en", help="default: de-en")
    parser.add_argument("--run_dir", type=Path, metavar="DIR", help="folder of the run (default: runs/demo-PAIR)")
    own = next((place for place, each in enumerate(arguments) if each.startswith("--") and "." in each), None)
    given = parser.parse_args(arguments[:own])
    run = given.run_dir or Path(f"runs/demo-{given.pair}")
    source, target = given.pair.split("-")
    test = {language: f"{run}/test.{language}" for language in (source, target)}
    training = [] if own is None else arguments[own:]
    call("train", f"demo-{given.pair}", "--run_dir", str(run), *training)
    call("sample", "--languages", f"{source},{target}", "--split", "test", "--pairs", "1000", "--output", f"{run}/test")
    with open(test[source], encoding="utf-8") as lines:
        call("translate", str(run), standard_input="".join(islice(lines, 5)))
    pages = ["--beams", "1,5", "--truth", "--output", f"{run}/evaluation"]
    call("evaluate", str(run), "--source", test[source], "--reference", test[target], *pages)
    return DONE


def call(*command: str, standard_input: str | None = None) -> None:
    """Shows a command and runs it in a process of its own; where it fails, this one ends with its exit code."""
    given = "" if standard_input is None else "echo ... | "
    log_line(f"$ {given}mt {shlex.join(command)}")
    code = "import sys; from mt.cli.commands import main; sys.exit(main('mt'))"
    with subprocess.Popen(
        [sys.executable, "-c", code, *command], stdin=None if standard_input is None else subprocess.PIPE, text=True
    ) as process:
        # Ctrl-C is the command's: it saves, and its exit code says that it can go on.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            process.communicate(standard_input)
        finally:
            signal.signal(signal.SIGINT, before)
    if process.returncode:
        raise SystemExit(process.returncode)
