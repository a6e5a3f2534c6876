"""The run directory: one run in it at a time, always with the same config."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mt.config import Config
from mt.config_file import dump_config, read_config
from mt.corpus.prepare import Prepared
from mt.errors import UserError
from mt.files.atomic import write_text
from mt.training.checkpoint import Checkpoints
from mt.training.log import read_log

MAY_CHANGE = ("run_dir", "device", "threads", "data.root", "data.cache", "train.activation_checkpointing")
"""settings that say where and how, not what: a run may go on with others"""


@contextmanager
def claimed(config: Config) -> Iterator[None]:
    """Holds the run directory, so that two trainings cannot write into it; a killed one lets go of it.

    A directory in which nothing came about is removed again. Raises UserError when it is held by another training,
    belongs to a run with another config, or holds something else.
    """
    run = Path(config.run_dir)
    run.mkdir(parents=True, exist_ok=True)
    lock = run / ".lock"
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{run}: another training is running in this run_dir; stop it or give another") from None
        try:
            _check_config(config, run)
            yield
        finally:
            lock.unlink(missing_ok=True)
            with suppress(OSError):
                run.rmdir()


def begin(config: Config, prepared: Prepared) -> None:
    """Writes what the run is made from, and clears away what a killed one left behind."""
    run = Path(config.run_dir)
    write_text(run / "config.yaml", dump_config(config))
    write_text(run / "cleaning.json", json.dumps(prepared.cleaning, indent=2, ensure_ascii=False) + "\n")
    Checkpoints(config).clean()


def is_finished(run: Path) -> bool:
    """Whether the run has come to its end."""
    return any(event["event"] == "finished" for event in read_log(run / "log.jsonl")[-1:])


def best_checkpoint(run: Path) -> Path:
    """Folder of the best checkpoint."""
    return run / "checkpoints" / (run / "best").read_text(encoding="utf-8").strip()


def _check_config(config: Config, run: Path) -> None:
    """A run that has a checkpoint goes on with its own config only; before the first one it may still change."""
    path = run / "config.yaml"
    if (run / "last").exists():
        difference = _first_difference(asdict(read_config(path)), asdict(config))
        if difference:
            raise UserError(f"{path}: {difference}; give the run's own config, or another run_dir")
    elif not path.exists() and any(not file.name.startswith(".") for file in run.iterdir()):
        raise UserError(f"{run}: holds other files but no run (config.yaml); give a new or empty run_dir")


def _first_difference(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> str:
    """Names the first setting that differs and must not; empty where there is none."""
    for key, value in new.items():
        name = f"{prefix}{key}"
        if name in MAY_CHANGE or old.get(key) == value:
            continue
        if not isinstance(value, dict) or not isinstance(old.get(key), dict):
            return f"this run was begun with {name} {old.get(key)!r}, not {value!r}"
        if found := _first_difference(old[key], value, f"{name}."):
            return found
    return ""
