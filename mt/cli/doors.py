"""What the scripts and the installed commands call; each loads its command when it is called."""

from __future__ import annotations

import os
from importlib import import_module

from mt.cli.command import run


def _run(name: str) -> int:
    # Threads that wait for one another sleep instead of spinning: on a machine that does other work too, spinning
    # makes two threads many times slower than one.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return run(lambda: int(import_module(f"mt.cli.{name}").main()))


def train() -> int:
    """`train.py`, `mt-train`: raw text to trained model."""
    return _run("train")


def translate() -> int:
    """`translate.py`, `mt-translate`: lines in, lines out."""
    return _run("translate")


def prepare() -> int:
    """`tools/prepare.py`, `mt-prepare`: only the preparation of the data."""
    return _run("prepare")


def evaluate() -> int:
    """`tools/evaluate.py`, `mt-evaluate`: quality and calibration of a model."""
    return _run("evaluate")


def score() -> int:
    """`tools/score.py`, `mt-score`: log-probabilities of given translations."""
    return _run("score")


def calibrate() -> int:
    """`tools/calibrate.py`, `mt-calibrate`: makes the model's probabilities true, from a development set."""
    return _run("calibrate")


def sample() -> int:
    """`tools/sample.py`: text from the shipped grammar."""
    return _run("sample")


def report() -> int:
    """`tools/report.py`, `mt-report`: the page of an evaluation again, or several in one page."""
    return _run("report")


def export() -> int:
    """`tools/export.py`, `mt-export`: the model in another program's format."""
    return _run("export")


def shortlist() -> int:
    """`tools/shortlist.py`, `mt-shortlist`: a lexical shortlist for a model, for faster translation."""
    return _run("shortlist")


def import_marian() -> int:
    """`tools/import_marian.py`, `mt-import-marian`: a Marian model as a model directory."""
    return _run("import_marian")
