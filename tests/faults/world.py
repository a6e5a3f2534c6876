"""What the faults strike: two tiny trained models with all that belongs to them, and the commands that use it.

Every command runs in a box of its own, a folder with copies of what it needs, under relative names: so the undisturbed
result is the same, byte for byte, in every box.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import server

CONFIG = """\
run_dir: run
data:
  source_language: de
  target_language: en
  train: [{source: [train.de], target: [train.en]}]
  valid: [{source: [valid.de], target: [valid.en]}]
  root: text
  cache: cache
tokenizer: {vocabulary_size: 100}
model: {width: 16, encoder_layers: 1, decoder_layers: 1, encoder_heads: 2, decoder_heads: 2, norm: post,
        encoder_feed_forward: 32, decoder_feed_forward: 32}
train: {max_steps: 6, batch_tokens: 512, max_length: 64, validate_every: 2, warmup_steps: 2, log_every: 2,
        learning_rate: 0.02, keep_checkpoints: 3, best_by: nll}
decode: {beam: 2, max_length: 64, max_length_ratio: 1.0, max_length_extra: 4}
seed: SEED
threads: 1
"""
_GERMAN = "der die ein eine hund katze mann frau kind sieht liest singt kauft rotes altes buch haus".split()  # noqa: SIM905
_ENGLISH = "the this a one dog cat man woman child sees reads sings buys red old book house".split()  # noqa: SIM905
_LINES = {"train": 300, "valid": 24, "test": 40, "dev": 60}
# what differs between two undisturbed runs
_TIMES = {"time", "seconds", "spent", "tokens_per_second", "data_wait", "data_seconds", "measured", "checksum"}
_TIMES |= {"date", "lines_per_second"}


@dataclass(frozen=True)
class Subject:
    """A command that faults strike."""

    name: str
    arguments: str
    needs: str
    """what the box holds before, names in the world; NAME=OTHER: OTHER under the name NAME"""
    results: tuple[str, ...]
    """files and folders that the command makes"""
    damaged: tuple[str, ...] = ()
    """patterns of files that it reads, which may be damaged"""
    prints: bool = False
    """whether standard output is a result, too"""
    whole: tuple[str, ...] = ()
    """results that are the old ones or the new ones at any time, and nothing in between"""


_TEXT = "--source text/test.de --reference text/test.en"
_EVALUATE = f"tools/evaluate.py model {_TEXT} --output evaluation --beams 2,5 --bootstrap 20 --threads 1"
_INTO = "--input text/test.de --output out.jsonl --format jsonl --threads 1"
_TRANSLATE = f"translate.py model {_INTO}"
_FLAG = "translate.py model --input text/test.de --output out.gz --flag_below 0.9 --flagged flagged.tsv --threads 1"
_CALIBRATE = "tools/calibrate.py model --source text/dev.de --reference text/dev.en --threads 1"
_SCORE = "tools/score.py model --source text/test.de --target text/test.en --threads 1"
_RUN = "checkpoints best last log.jsonl cleaning.json config.yaml"
_STATE = "run/checkpoints/step_00000004/* run/last run/best run/config.yaml run/log.jsonl"
_FINAL = "run/best run/checkpoints/step_00000006/*"
_PAGES = "evaluation/results.json evaluation/records.jsonl evaluation/hypotheses.txt"
_TWO_PAGES = "evaluation/results.json second/records.jsonl second/results.json"


def _subjects() -> dict[str, Subject]:
    """name: command, what the box holds, results (! whole ones, - printed), files that may be damaged"""
    run = " ".join(f"run/{name}" for name in _RUN.split())
    two = "evaluation second=other/evaluation"
    table = {
        "train": ("train.py config.yaml", "text config.yaml cache", run, "cache/*/**/*"),
        "train, resumed": ("train.py config.yaml", "text config.yaml cache run=half", run, _STATE),
        "prepare": ("tools/prepare.py config.yaml", "text config.yaml", "cache -", ""),
        "prepare, cached": ("tools/prepare.py config.yaml", "text config.yaml cache", "-", "cache/*/**/*"),
        "translate": (_TRANSLATE, "text model", "!out.jsonl", "model/*"),
        "translate, a run": (f"translate.py run {_INTO}", "text run", "!out.jsonl", _FINAL),
        "translate, going on": (
            _TRANSLATE,
            "text model out.jsonl.partial out.jsonl.partial.json",
            "!out.jsonl",
            "out.jsonl.partial*",
        ),
        "translate, flagged": (_FLAG, "text model", "!out.gz flagged.tsv", ""),
        "translate, shortlist": (f"{_TRANSLATE} --shortlist", "text model", "!out.jsonl", "model/shortlist*"),
        "translate, CTranslate2": (
            f"{_TRANSLATE} --engine ctranslate2",
            "text model",
            "!out.jsonl",
            "model/ctranslate2/*/*",
        ),
        "score": (_SCORE, "text model", "-", "model/*"),
        "evaluate": (_EVALUATE, "text model evaluation=other/evaluation", "evaluation", "model/*"),
        "calibrate": (_CALIBRATE, "text model", "!model/calibration.json -", "model/[!c]* model/config.yaml"),
        "report": ("tools/report.py evaluation", "evaluation", "!evaluation/report.html evaluation/figures", _PAGES),
        "compare": ("tools/report.py evaluation second --output page.html", two, "!page.html", _TWO_PAGES),
        "export, CTranslate2": ("tools/export.py model --format ctranslate2 --output out", "model", "!out", "model/*"),
        "export, Marian": ("tools/export.py model --format marian --output out", "model", "!out", "model/*"),
    }
    return {name: _subject(name, *row) for name, row in table.items()}


def _subject(name: str, arguments: str, needs: str, results: str, damaged: str) -> Subject:
    names = [each for each in results.split() if each != "-"]
    whole = tuple(each[1:] for each in names if each[0] == "!")
    all_results = tuple(each.removeprefix("!") for each in names)
    return Subject(name, arguments, needs, all_results, tuple(damaged.split()), "-" in results.split(), whole)


SUBJECTS = _subjects()


class World:
    """The fixtures, each made by the commands themselves, and the undisturbed results, each computed when asked for."""

    def __init__(self, folder: Path, seed: int, commands: list[str]) -> None:
        """`seed`: of the injections, whatever is drawn once for all of them; the fixtures do not depend on it.
        `commands`: that will be struck, none: all of them."""
        self.folder, self.seed = folder, seed
        self._known: dict[str, tuple[dict[str, bytes], dict[str, int]]] = {}
        evaluations = not commands or bool({"evaluate", "report", "compare"} & {*commands})
        pid = os.fork()  # one on each core
        if pid == 0:
            try:
                _make(folder / "other", 2, evaluations)
                os._exit(0)
            except Exception:
                traceback.print_exc()
            finally:
                os._exit(1)
        _make(folder, 1, evaluations)
        assert os.waitpid(pid, 0)[1] == 0, "the other world could not be made"

    @contextmanager
    def box(self, subject: Subject) -> Iterator[Path]:
        """A fresh folder with what the subject needs."""
        with tempfile.TemporaryDirectory(dir=self.folder, prefix="box-") as name:
            box = Path(name) / "box"  # always the same name: a page shows it
            box.mkdir()
            for need in subject.needs.split():
                target, _, source = need.partition("=")
                path = self.folder / (source or target)
                if not path.exists():  # not made: see `_make`
                    continue
                (shutil.copytree if path.is_dir() else shutil.copyfile)(path, box / target)
            yield box

    def undisturbed(self, subject: Subject) -> tuple[dict[str, bytes], dict[str, int]]:
        """What the command gives without a fault, and how many operations of each kind it does."""
        if subject.name not in self._known:
            with self.box(subject) as box:
                done = server.run(box, subject.arguments.split(), server.Fault("count", 0))
                assert done.code == 0, f"{subject.name}: {done.error}"
                self._known[subject.name] = results(subject, box, done), done.operations
        return self._known[subject.name]


def _make(folder: Path, seed: int, evaluations: bool) -> None:
    """Text, a finished run, one killed behind its second checkpoint, a model with all extras, its evaluation."""
    (folder / "text").mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG.replace("SEED", str(seed)))
    for name, count in _LINES.items():
        generator = random.Random(f"{name} {seed if name == 'train' else ''}")  # the two differ in what they learn from
        pairs = [[generator.randrange(len(_GERMAN)) for _ in range(generator.randint(3, 9))] for _ in range(count)]
        for side, words in (("de", _GERMAN), ("en", _ENGLISH)):
            lines = [" ".join(words[index] for index in pair) + "\n" for pair in pairs]
            (folder / "text" / f"{name}.{side}").write_text("".join(lines), encoding="utf-8")
    third = "run/checkpoints/.step_00000006"
    _must(folder, "train.py config.yaml", server.Fault("kill", 3, third), -9)
    shutil.copytree(folder / "run", folder / "half")
    _must(folder, "train.py config.yaml")
    shutil.copytree(folder / "run/checkpoints/step_00000006", folder / "model")
    for path in (folder / "model").glob("training.*"):
        path.unlink()
    _must(folder, "tools/shortlist.py model --frequent 20 --likely 5")
    _must(folder, _CALIBRATE)
    _must(folder, f"{_TRANSLATE} --engine ctranslate2")
    (folder / "out.jsonl").unlink()
    if evaluations:
        _must(folder, _EVALUATE)
    if os.environ["FAULTS_LIBRARY"]:
        _must(folder, _TRANSLATE, server.Fault("kill in a write", 20, "out.jsonl.partial"), -9)


def _must(folder: Path, command: str, fault: server.Fault | None = None, code: int = 0) -> None:
    done = server.run(folder, command.split(), fault)
    assert done.code == code, f"{command}: exit code {done.code}\n{done.error}"


def content(box: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """What stands in files and folders of a box by name, without the times in it, and without hidden files."""
    return {
        str(path.relative_to(box)): timeless(path.name, path.read_bytes())
        for name in names
        for path in ([box / name] if (box / name).is_file() else sorted((box / name).rglob("*")))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(box).parts)
    }


def results(subject: Subject, box: Path, done: server.Done) -> dict[str, bytes]:
    """The results of a command."""
    printed = {"(standard output)": done.out} if subject.prints else {}
    return {**content(box, subject.results), **printed}


def inputs(subject: Subject, box: Path) -> dict[str, bytes]:
    """The files of a box that no run of the command may change: all but results, curves and what is left half-done."""
    own = (*subject.results, "run/", "cache/", "evaluation/", "out.jsonl", "model/ctranslate2")
    names = ((str(path.relative_to(box)), path) for path in sorted(box.rglob("*")) if path.is_file())
    return {name: path.read_bytes() for name, path in names if not name.startswith(own)}


def timeless(name: str, data: bytes) -> bytes:
    """The content of a file without the times in it; `name` tells its form."""
    if not name.endswith((".json", ".jsonl")):
        return re.sub(rb"<dt>(date|lines per second)</dt><dd>.*?</dd>", b"", data)  # of a page
    try:
        parts = [json.loads(data)] if name.endswith(".json") else list(map(json.loads, data.splitlines()))
    except ValueError:
        return data
    # a run that was killed before its first checkpoint says twice that it starts
    return "\n".join(dict.fromkeys(json.dumps(_without_times(part)) for part in parts)).encode()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(each) for key, each in value.items() if key not in _TIMES}
    return [_without_times(each) for each in value] if isinstance(value, list) else value
