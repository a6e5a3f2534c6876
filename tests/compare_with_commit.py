"""Shows that a commit behaves as an older one: the same runs with both, and everything that comes out compared.

    python tests/compare_with_commit.py OLD [NEW] [--steps 60] [--work DIR] [--corpora DIR]

Each trains the demos (with --corpora also configs/multi30k-de-en-fast.yaml) for a few updates, translates, scores,
evaluates and calibrates, with this Python and two threads. Compared are all tensors of all checkpoints bit for bit,
all output byte for byte, and all JSON key by key; the new code also loads the old model. NEW is the checkout as it is
unless a commit is given. Takes ten minutes on two idle cores; not collected by pytest.

Exit code 0: all is the same but for what the lists below expect; 1: something else differs; 2: a command failed.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

REPOSITORY = Path(__file__).resolve().parents[1]
LINES = 300
# Figures that went out with the redesign (CHANGELOG).
GONE = {
    *("ece_sweep", "ece_debiased", "ce2_debiased", "weighted_ece", "classwise_ece", "correct_in_order"),
    *("inference_word_minimum", "inference_edit_distance"),
}
# What may differ: fingerprints that contain the grammar's code, and intervals of thresholds (Wilson's now).
CHANGED = {(of, name) for of in ("data", "fingerprints") for name in ("train", "valid", "test", "prepared")}
CHANGED |= {("thresholds", "low"), ("thresholds", "high")}
CLOCK = {"seconds", "spent", "tokens_per_second", "data_wait", "time", "data_seconds"}


def main() -> int:
    """Runs both, compares, and prints a line for each difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", metavar="OLD", help="a commit")
    parser.add_argument("new", metavar="NEW", nargs="?", help="a commit (default: this checkout as it is)")
    parser.add_argument("--steps", type=int, default=60, help="updates of each training (default: 60)")
    parser.add_argument("--work", type=Path, help="an empty or new folder, which is kept (default: a temporary one)")
    parser.add_argument("--corpora", type=Path, help="holds multi30k/train.de.gz and so on")
    given = parser.parse_args()
    work = (given.work or Path(tempfile.mkdtemp())).resolve()
    trees = {"old": _exported(given.old, work / "old-tree")}
    trees["new"] = _exported(given.new, work / "new-tree") if given.new else REPOSITORY
    differences = 0
    for name in ["demo-de-en", "demo-fr-en"] + ["multi30k-de-en-fast"] * (given.corpora is not None):
        old, new = work / "old" / name, work / "new" / name
        for tree, folder in zip(trees.values(), (old, new)):
            _run(tree, name, folder, given.steps, given.corpora or Path())
        _translate(trees["new"], old, "loaded-by-the-other.jsonl", "--format", "jsonl")
        for tree, folder in zip(trees.values(), (old, new)):
            _calibrate(tree, folder)
        for line in _compared(old, new):
            print(f"{name}: {line}", flush=True)
            differences += not line.startswith("expected: ")
    print(f"{differences} differences that nobody expects" if differences else "the same")
    return int(differences > 0)


def _exported(commit: str, folder: Path) -> Path:
    folder.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", commit], cwd=REPOSITORY, stdout=subprocess.PIPE, check=True).stdout
    subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
    return folder


def _call(tree: Path, folder: Path, *command: str, output: str = "") -> None:
    """A command of a tree, in the folder of a run; its standard output goes into a file."""
    words = [sys.executable, str(tree / command[0]), *command[1:]]
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONHASHSEED": "0"}
    print(f"  {folder.parent.name} {folder.name}: {' '.join(command[:2])}", file=sys.stderr, flush=True)
    ended = subprocess.run(words, cwd=folder, env=environment, capture_output=True)
    if ended.returncode:
        print(f"{' '.join(words)} (in {folder}) ends with {ended.returncode}:\n{ended.stderr.decode()[-3000:]}")
        sys.exit(2)
    if output:
        (folder / output).write_bytes(ended.stdout)


def _run(tree: Path, name: str, folder: Path, steps: int, corpora: Path) -> None:
    """Everything but the recalibration, which would change what the model says of its output."""
    folder.mkdir(parents=True)
    grammar = name.startswith("demo")
    source, target = name.split("-")[1:3]
    few = ["--train.max_steps", str(steps), "--train.warmup_steps", "20", "--train.validate_every", str(steps // 2)]
    places = ["--run_dir", "run", "--data.cache", "cache", "--threads", "2"]
    if grammar:
        draw = ["--languages", f"{source},{target}", "--split", "test", "--pairs", str(LINES), "--output", "test"]
        _call(tree, folder, "tools/sample.py", *draw)
    else:
        places += ["--data.root", str(corpora.resolve()), "--train.budget_minutes", "0"]
        for language in (source, target):
            with gzip.open(corpora / f"multi30k/test.{language}.gz", "rt", encoding="utf-8") as lines:
                (folder / f"test.{language}").write_text("".join(islice(lines, LINES)), encoding="utf-8")
    for language, side in ((source, "source"), (target, "target")):
        (folder / f"test.{language}").rename(folder / f"test.{side}")
    _call(tree, folder, "train.py", str(tree / f"configs/{name}.yaml"), *few, *places)
    _translate(tree, folder, "beam.txt")
    _translate(tree, folder, "beam.jsonl", "--format", "jsonl")
    _translate(tree, folder, "sample.jsonl", "--format", "jsonl", "--sample", "--seed", "1")
    _translate(tree, folder, "nbest.jsonl", "--format", "jsonl", "--nbest", "3")
    source_file = ["run", "--threads", "2", "--source", "test.source"]
    _call(tree, folder, "tools/score.py", *source_file, "--target", "beam.txt", output="score.jsonl")
    options = ["--reference", "test.target", "--output", "evaluation", "--beams", "1,5", *["--truth"] * grammar]
    _call(tree, folder, "tools/evaluate.py", *source_file, *options)


def _translate(tree: Path, folder: Path, output: str, *options: str) -> None:
    command = ["translate.py", "run", "--threads", "2", "--input", "test.source", "--beam", "5", *options]
    _call(tree, folder, *command, output=output)


def _calibrate(tree: Path, folder: Path) -> None:
    files = ["--source", "test.source", "--reference", "test.target"]
    _call(tree, folder, "tools/calibrate.py", "run", "--threads", "2", *files, output="calibrate.txt")
    _translate(tree, folder, "recalibrated.jsonl", "--format", "jsonl")


def _compared(old: Path, new: Path) -> Iterator[str]:
    """A line for each difference of two runs."""
    for name in ("test.source", "test.target", "beam.txt", "evaluation/hypotheses.txt"):
        yield from _bytes(old / name, new / name)
    for name in ("beam.jsonl", "sample.jsonl", "nbest.jsonl", "score.jsonl", "recalibrated.jsonl"):
        yield from _json(old / name, new / name)
    yield from _bytes(old / "beam.jsonl", old / "loaded-by-the-other.jsonl")
    for name in ("evaluation/records.jsonl", "evaluation/results.json", "run/cleaning.json"):
        yield from _json(old / name, new / name)
    for name in ("run/best", "run/last"):
        yield from _bytes(old / name, new / name)
    for path in sorted((old / "run/checkpoints").glob("*/*")):
        other = new / path.relative_to(old)
        if not other.exists():
            yield f"{path.relative_to(old)} is not there"
        elif path.suffix == ".safetensors":
            yield from _tensors(path, other)
        elif path.suffix == ".json":
            yield from _json(path, other)


def _bytes(old: Path, new: Path) -> Iterator[str]:
    first, second = old.read_bytes().splitlines(), new.read_bytes().splitlines()
    if len(first) != len(second):
        yield f"{old.name}: {len(first)} and {len(second)} lines"
    different = [number for number, (one, other) in enumerate(zip(first, second), 1) if one != other]
    if different:
        yield f"{old.name}, {new.name}: {len(different)} lines differ, the first is {different[0]}"


def _tensors(old: Path, new: Path) -> Iterator[str]:
    place = f"{old.parent.name}/{old.name}"
    first, second = load_file(old), load_file(new)
    for name in sorted(first.keys() ^ second.keys()):
        yield f"{place}: {name} is only in the {'old' if name in first else 'new'} one"
    for name in sorted(first.keys() & second.keys()):
        one, other = first[name], second[name]
        if one.shape != other.shape or one.dtype != other.dtype:
            yield f"{place}: {name} is {one.dtype} {one.shape} and {other.dtype} {other.shape}"
        elif one.tobytes() != other.tobytes():
            size = np.abs(one.astype(np.float64) - other.astype(np.float64))
            yield f"{place}: {name}: {(one != other).sum()} of {one.size} values differ, by up to {size.max():.3g}"


def _json(old: Path, new: Path) -> Iterator[str]:
    """Differences of two files of JSON, or of JSON lines; the same one of many lines only once."""
    texts = [path.read_text("utf-8").split("\n" if old.suffix == ".jsonl" else "\0") for path in (old, new)]
    if len(texts[0]) != len(texts[1]):
        yield f"{old.name}: {len(texts[0])} and {len(texts[1])} lines"
    found: dict[tuple[str, str], list[str]] = {}
    for one, other in zip(*texts):
        for path, what, change in _values(json.loads(one or "null"), json.loads(other or "null"), ()):
            found.setdefault((".".join(path), what), []).append(change)
    for (name, what), changes in found.items():
        times = f" ({len(changes)} times)" if len(changes) > 1 else ""
        yield f"{what}{old.parent.name}/{old.name}: {name}: {changes[0]}{times}"


def _values(old: Any, new: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Path, "expected: " or "", and the two values, wherever they differ; list places are "[]" in a path."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _values(old.get(key, "(not there)"), new.get(key, "(not there)"), (*path, key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for one, other in zip(old, new):
            yield from _values(one, other, (*path, "[]"))
    elif json.dumps(old) != json.dumps(new) and not (path and path[-1] in CLOCK):
        gone = bool(GONE & set(path)) and new == "(not there)"
        changed = tuple(part for part in path if part != "[]")[-2:] in CHANGED
        yield path, "expected: " if gone or changed else "", f"{json.dumps(old)[:60]} is now {json.dumps(new)[:60]}"


if __name__ == "__main__":
    sys.exit(main())
