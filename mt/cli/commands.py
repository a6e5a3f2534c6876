"""All commands by name: `mt COMMAND`, `mt-COMMAND`, and the scripts, which are doors to the same.

Only the standard library is imported before a command runs: what is not installed is told in one line, too.
"""

from __future__ import annotations

import difflib
import os
import sys
from importlib import import_module
from pathlib import Path

COMMANDS = {
    "demo": "train, translate and evaluate on text that is shipped, in five minutes",
    "configs": "list the shipped configs, or copy one to begin with",
    "prepare": "clean, count and tokenise a run's text",
    "train": "from raw text to a model, in one run directory",
    "translate": "lines in, lines out",
    "translate-corpus": "much text in shards, on one machine or many",
    "serve": "a page to try a model, and a server of translations",
    "evaluate": "BLEU, chrF and TER beside the calibration of the tokens",
    "calibrate": "fit confidence on a development set",
    "report": "the page of an evaluation, or of several side by side",
    "score": "log-probabilities of given translations",
    "inspect": "states, margins, distances and gradients inside a model",
    "sample": "text of the shipped grammar",
    "shortlist": "which words a line may need: a faster search",
    "export": "a model for CTranslate2, transformers or the Hugging Face hub",
    "import-marian": "an OPUS-MT model as one of ours",
    "study": "a grid of trainings, and what it says about losses, confidence and beams",
    "bench": "speed and memory against named baselines",
}
_ELSEWHERE = {"study": "tools.studies.command", "bench": "benchmarks.command"}
_DISTRIBUTIONS = {"yaml": "PyYAML", "jinja2": "Jinja2"}


def main(name: str = "") -> int:
    """Runs a command, by default the one that the program is called after, and returns its exit code."""
    # Threads that wait for one another sleep instead of spinning: on a machine that does other work too, spinning
    # makes two threads many times slower than one.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    name = name or Path(sys.argv[0]).stem.removeprefix("mt-")
    try:
        from mt.cli.main import run

        return run(lambda: _run(name))
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("mt", "tools", "benchmarks", ""):
            raise
        package = _DISTRIBUTIONS.get(missing, missing)
        print(
            f"error: {package} is not installed for {sys.executable}; pip install {package}, or install mt with it: "
            "pip install .",
            file=sys.stderr,
        )
        return 2


def _run(name: str) -> int:
    if name in ("mt", "__main__", "-c"):
        name = _chosen("python -m mt" if name == "__main__" else "mt")
    if name in _ELSEWHERE:
        from mt.files.shipped import shipped

        sys.path.insert(0, str(shipped()))
    module = _ELSEWHERE.get(name, f"mt.cli.{name.replace('-', '_')}")
    return int(import_module(module).main())  # loaded when called: --help answers at once


def _chosen(program: str) -> str:
    """The command that follows `mt`. From here on program and command are one, as in `mt-train`."""
    from mt import __version__
    from mt.errors import UserError
    from mt.progress import say

    given = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if given in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        say(f"usage: {program} COMMAND ...", "", *(f"  {name:{width}}  {does}" for name, does in COMMANDS.items()))
        say("", f"{program} COMMAND --help tells more of each; {program} --version")
        raise SystemExit(0)
    if given == "--version":
        say(f"mt {__version__}")
        raise SystemExit(0)
    if given not in COMMANDS:
        near = difflib.get_close_matches(given, COMMANDS, n=1)
        raise UserError(f"{program}: no command {given}; " + (f"did you mean {near[0]}?" if near else "--help has all"))
    sys.argv[:2] = [f"{program} {given}"]
    return given
