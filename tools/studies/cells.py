"""One cell: its training text if the study writes one, its training, its measurements; done when cell.json is there."""

from __future__ import annotations

import json
import platform
import random
import shutil
import time
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from mt import __version__
from mt.config import Config
from mt.config_file import dump_config, read_config
from mt.decoding.translator import Translator
from mt.errors import UserError
from mt.evaluation.inspection import inspect_model
from mt.evaluation.test_set import TestSet
from mt.files.atomic import atomic_folder, open_locked, write_text
from mt.files.json_file import read_json, write_json
from mt.grammar.grammar import sample_pairs
from mt.model.directory import LoadedModel, load_model, read_pointer
from mt.processes import available_cores
from mt.progress import log_line
from mt.settings import dotted
from mt.training.run_directory import MAY_CHANGE
from tools.studies import records
from tools.studies.plan import MAIN, PLAIN, Cell, Condition, Settings, Study, TrainingText, config_of, needed_by

FORCED = "forced"
"""stands for the references in names of files, as a search does for its output"""
_BUSY = "another process is at this cell"
INSPECTION = "inspection.json"
_PACKAGES = ("torch", "numpy", "sentencepiece", "sacrebleu")


class Place:
    """Where a study lies, and how its cells are run."""

    def __init__(self, study: Study, output: Path, configs: Path, threads: int, root: str) -> None:
        self.study, self.output, self.configs, self.root = study, output, configs, root
        self.threads = threads or available_cores()

    def folder(self, cell: Cell) -> Path:
        """The folder of a cell."""
        return self.output / "cells" / cell.name

    def done(self, cell: Cell) -> bool:
        """Whether it has been trained and measured."""
        folder = self.folder(cell)
        wanted = [
            records_of(folder, test, each) for test, searches in self.wanted(cell) for each in (FORCED, *searches)
        ]
        return all(path.exists() for path in (folder / "cell.json", folder / INSPECTION, *wanted))

    def wanted(self, cell: Cell) -> list[tuple[str, tuple[str, ...]]]:
        """Each text of a cell with its searches; those beside the main one are of the main text only."""
        main, *others = self.study.corpora[cell.corpus].tests
        return [(main, (MAIN, *cell.searches)), *((other, (MAIN,)) for other in others)]

    def config(self, cell: Cell) -> Config:
        """What it is trained with; texts that it needs are written first."""
        run, condition = self.folder(cell) / "run", self.study.conditions.get(cell.condition, Condition())
        options: Settings = {"run_dir": str(run), "data.cache": str(self.output / "cache"), "threads": self.threads}
        if self.root:
            options["data.root"] = self.root
        for name, variant in condition.models.items():
            options[name] = str(self.model(Cell(cell.corpus, PLAIN, variant, cell.seed)).resolve())
        if condition.training_text is not None:
            options["data.train"] = [self._training_text(cell, condition.training_text)]
        return config_of(self.study, cell, self.configs, options)

    def model(self, cell: Cell) -> Path:
        """The last checkpoint of a cell's run. Raises UserError where there is none."""
        found = read_pointer(self.folder(cell) / "run" / "last")
        if found is None:
            raise UserError(f"{self.folder(cell)}: has no trained model; run that cell first")
        return found

    def _training_text(self, cell: Cell, text: TrainingText) -> dict[str, Any]:
        """The training corpus, as a config has it, that the study writes for a condition."""
        base = config_of(self.study, Cell(cell.corpus, PLAIN, cell.variant, cell.seed), self.configs, {"run_dir": "-"})
        languages = (base.data.source_language, base.data.target_language)
        seeded = f"-{cell.seed}" if text.translated_by else ""
        folder = (self.output / "texts" / f"{cell.corpus}-{cell.condition}{seeded}").resolve()
        names = [folder / f"train.{language}" for language in languages]
        if not folder.exists():
            pairs = written_pairs(text, languages)
            if text.translated_by:
                teacher = load_model(self.model(Cell(cell.corpus, PLAIN, text.translated_by, cell.seed)))
                sources = [source for source, _ in pairs]
                made = Translator(teacher).translate(sources, processes=self.threads)
                pairs = [(record["source"], record["translation"]) for record in made]
            with atomic_folder(folder) as temporary:
                for side, name in enumerate(names):
                    write_text(temporary / name.name, "".join(f"{pair[side]}\n" for pair in pairs))
        return {"source": [str(names[0])], "target": [str(names[1])]}


def written_pairs(text: TrainingText, languages: tuple[str, str]) -> list[tuple[str, str]]:
    """Pairs of the grammar, some of them with the target of another pair, or short sources alone."""
    pairs: list[tuple[str, str]] = []
    drawn = text.pairs
    while len(pairs) < text.pairs:
        pairs = list(sample_pairs(languages, drawn, text.seed))
        pairs = [pair for pair in pairs if not text.longest_source or len(pair[0].split()) <= text.longest_source]
        drawn *= 2
    pairs = pairs[: text.pairs]
    generator = random.Random(f"wrong targets {text.seed}")
    wrong = generator.sample(range(len(pairs)), round(text.wrong_targets * len(pairs)))
    targets = [pairs[index][1] for index in wrong]
    for index, target in zip(wrong, targets[1:] + targets[:1]):  # a cycle: nobody keeps its own, but for equal ones
        pairs[index] = (pairs[index][0], target)
    return pairs


def run_cell(place: Place, cell: Cell) -> bool:
    """Trains and measures a cell, or goes on where it was stopped. False where another process is at it, or at a cell
    whose model it needs. Raises UserError as training does."""
    from mt.training.run import train

    folder = place.folder(cell)
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(open_locked(folder / ".lock", _BUSY))
        except UserError as error:
            if str(error) == _BUSY:
                return False
            raise
        if not all(place.done(needed) for needed in needed_by(place.study, cell)):
            return False
        check_same(place, cell)
        if not place.done(cell):
            config = place.config(cell)
            train(config)
            _measure(place, cell, config)
    return True


def check_same(place: Place, cell: Cell) -> None:
    """Raises UserError where a cell was trained or measured otherwise than the study says now."""
    folder, study = place.folder(cell), place.study
    if not (folder / "cell.json").exists():
        return  # training itself compares a run that has begun
    kept = read_cell(folder)
    before, now = (dict(dotted(asdict(each))) for each in (read_config(folder / "config.yaml"), place.config(cell)))
    differing = [name for name, value in now.items() if name not in MAY_CHANGE and before.get(name) != value]
    tests = to_builtins(study.corpora[cell.corpus].tests)
    differing += [f"text {name}" for name, each in kept.get("tests", {}).items() if tests.get(name, each) != each]
    searches = kept.get("options", {}).items()
    differing += [f"search {name}" for name, each in searches if study.searches.get(name, each) != each]
    if differing:
        what = f"was made with another {', '.join(differing)} than the study file says now"
        raise UserError(f"{folder}: {what}; give another --output, or remove that folder")


def _measure(place: Place, cell: Cell, config: Config) -> None:
    """Measures what has not been measured yet, a file for each text and search, and writes cell.json last."""
    started, folder, study = time.monotonic(), place.folder(cell), place.study
    loaded = load_model(place.model(cell), device="cpu")
    temperature = records.fitted_temperature(loaded)
    for name, searches in place.wanted(cell):
        missing = [each for each in (FORCED, *searches) if not records_of(folder, name, each).exists()]
        text = records.read_test(study.corpora[cell.corpus].tests[name], config.data)
        oracle = records.oracle_for(study.corpora[cell.corpus].tests[name], loaded, *text) if missing else None
        for search in missing:
            path = records_of(folder, name, search)
            if search == FORCED:
                records.save(path, records.forced_records(loaded, *text, temperature, oracle))
                continue
            options = study.searches.get(search, {})
            arrays, outputs = records.output_records(loaded, *text, oracle, place.threads, options)
            write_text(path.with_suffix(".txt"), "".join(f"{output}\n" for output in outputs))
            records.save(path, arrays)
        if name == next(iter(study.corpora[cell.corpus].tests)) and not (folder / INSPECTION).exists():
            write_json(folder / INSPECTION, inspected(loaded, *text))
    curve, seconds = _learning_curve(folder / "run" / "log.jsonl")
    shutil.rmtree(folder / "run" / "tensorboard", ignore_errors=True)
    write_text(folder / "config.yaml", dump_config(config))
    # A later row of the grid may ask for more searches: what was noted of the earlier ones stays.
    before = read_cell(folder) if (folder / "cell.json").exists() else {}
    described = {**_described(place, cell, loaded), "temperature": temperature.temperature, "curve": curve}
    described["options"] = before.get("options", {}) | described["options"]
    measuring = before.get("measuring_seconds", 0.0) + time.monotonic() - started
    described |= {"training_seconds": seconds, "measuring_seconds": round(measuring, 1)}
    write_json(folder / "cell.json", described)


def inspected(loaded: LoadedModel, sources: list[str], references: list[str]) -> dict[str, Any]:
    """What `tools/inspect.py` finds on a text; `too_short` alone, with the reason, where that says nothing."""
    try:
        found = inspect_model(loaded, TestSet(sources, [references], {}))
    except UserError as error:
        log_line(f"note: not inspected: {error}")
        return {"too_short": str(error)}
    for each in found["projection"]:
        del each["states"]  # drawn by tools/inspect.py
    return found


def records_of(folder: Path, test: str, search: str) -> Path:
    """The file of a cell's records on a text."""
    return folder / f"{test}.{search}.npz"


def _described(place: Place, cell: Cell, loaded: LoadedModel) -> dict[str, Any]:
    return {
        **cell._asdict(),
        "tests": to_builtins(place.study.corpora[cell.corpus].tests),
        "options": {name: place.study.searches[name] for name in cell.searches},
        "loss": loaded.meta.get("loss"),
        "step": loaded.meta.get("step"),
        "data": loaded.meta.get("data"),
        "threads": place.threads,
        "machine": platform.machine(),
        "versions": {name: version(name) for name in _PACKAGES}
        | {"mt": __version__, "python": platform.python_version()},
    }


def _learning_curve(log: Path) -> tuple[list[dict[str, float]], float]:
    """Figures of each validation, and the seconds that training took without them."""
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    curve = [each for each in events if each["event"] == "valid"]
    wanted = ("step", "nll", "accuracy", "ece", "bleu", "chrf")
    trained = [each["seconds"] for each in events if each["event"] == "train"]
    return [{name: each[name] for name in wanted if name in each} for each in curve], trained[-1] if trained else 0.0


def read_cell(folder: Path) -> dict[str, Any]:
    """The cell.json of a folder."""
    return read_json(folder / "cell.json", dict[str, Any], "remove the folder, and run the cell again")
