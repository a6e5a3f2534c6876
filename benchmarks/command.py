"""`tools/bench.py losses|train|decode`: ours against a named baseline, speed and memory."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from mt.cli.main import DONE, CommandParser, positive, use_threads
from mt.errors import UserError

SUITES = {"losses": ("keep_memory",), "train": ("corpora", "profile"), "decode": ("model", "corpora")}
"""modules of benchmarks, each with functions `cases`, which takes these options, and `measure`"""
SECONDS = 70.0  # for the turns of a case: all of a suite stays within 8 minutes


def main(arguments: list[str] | None = None) -> int:
    """Measures the cases of a suite, one after the other, and prints each as soon as it is done."""
    parser = CommandParser(
        description="Ours against a named baseline, in turns in one run, and the peak memory of each. `ratio` is our\n"
        "speed over the baseline's, the median of the rounds.",
        example="train --case small --corpora corpora",
    )
    parser.add_argument("suite", choices=SUITES, help="what to measure")
    parser.add_argument("--case", metavar="NAME", help="only this one")
    parser.add_argument("--json", action="store_true", help="one JSON object a line and case")
    parser.add_argument("--rounds", type=positive, default=9, metavar="N", help="turns of each side (default: 9)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument("--threads", type=positive, metavar="N", help="processor threads (default: all cores)")
    parser.add_argument(
        "--keep_memory",
        action="store_true",
        help="losses: both sides keep the memory that tensors give back, as training does",
    )
    parser.add_argument("--model", type=Path, help="decode: model or run directory (default: random weights)")
    parser.add_argument(
        "--corpora",
        type=Path,
        metavar="FOLDER",
        help="train, decode: holds multi30k/train.de.gz and so on (default: random text)",
    )
    parser.add_argument("--profile", type=Path, metavar="FILE", help="train: gets a trace of three of our updates")
    given = parser.parse_args(arguments)
    options = {name: getattr(given, name) for name in SUITES[given.suite]}
    for name in {name for names in SUITES.values() for name in names} - options.keys():
        if getattr(given, name):
            raise UserError(f"--{name} is not for {given.suite}; leave it out")
    import torch

    suite = import_module(f"benchmarks.{given.suite}")
    threads = use_threads(given.threads)
    cases = suite.cases(**options)
    if given.case is not None and given.case not in cases:
        raise UserError(f"--case is {given.case}; it must be one of {', '.join(cases)}")
    if given.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device is cuda, and torch finds no GPU; leave it out")
    for name in [given.case] if given.case else cases:
        result = suite.measure(cases[name], device=given.device, threads=threads, rounds=given.rounds, seconds=SECONDS)
        print(json.dumps(result) if given.json else describe(result), flush=True)
    return DONE


def describe(result: dict[str, Any]) -> str:
    """A result in two lines for people."""
    settings = ", ".join(f"{name} {value}" for name, value in result["settings"].items())
    return (
        f"{result['case']}: {result['ratio']:.2f} times the speed of the baseline [{result['low']:.2f}, "
        f"{result['high']:.2f}], {result['ours']:,.0f} against {result['baseline']:,.0f}; "
        f"peak memory {result['peak_mb']:,.0f} against {result['baseline_peak_mb']:,.0f} MB\n  ({settings})"
    )
