"""A whole run: raw text to trained model in one run directory, from scratch or from its last checkpoint."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mt.atomic import write_text
from mt.config import Config
from mt.config_file import dump_config, read_config
from mt.corpus.prepare import Prepared, prepare
from mt.corpus.store import TokenStore
from mt.errors import UserError
from mt.losses.build import build_loss
from mt.model.directory import build_model, choose_device, load_model, load_weights, weights
from mt.progress import message
from mt.training.checkpoint import Checkpoints, Progress
from mt.training.log import RunLog, read_log
from mt.training.loop import Training
from mt.training.optimiser import MovingAverage, build_optimiser
from mt.training.parallel import Group, processes

PLACES = ("run_dir", "device", "threads", "data.root", "data.cache")
"""settings that say where, not what: a run may go on with others"""


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # names in malloc.h


def train(config: Config) -> Path:
    """Trains, or goes on with, the run of `config.run_dir`.

    Returns:
        The folder of the best checkpoint.

    Raises:
        UserError: data, config or checkpoint are not in order.
        KeyboardInterrupt: stopped by Ctrl-C; the same command goes on.
    """
    run = Path(config.run_dir)
    _claim_config(config, run)
    with _locked(run):
        if _is_finished(run):
            message(f"{run}: this run is finished; give another run_dir to train again")
            return _best(run)
        device = choose_device(config.device)
        _keep_freed_memory()
        torch.set_num_threads(_threads(config))
        prepared = _prepare(config)
        write_text(run / "cleaning.json", json.dumps(prepared.cleaning, indent=2, ensure_ascii=False) + "\n")
        world = _processes(config, device)
        with processes(world, _follow, config) as group:
            finished = _lead(config, prepared, device, group)
    if not finished:
        raise KeyboardInterrupt
    return _best(run)


def _lead(config: Config, prepared: Prepared, device: torch.device, group: Group) -> bool:
    """The run as the process that validates, saves and reports sees it. False when it was interrupted."""
    training = _set_up(config, prepared, device, group)
    finished = training.run()
    if finished:
        training.finish()
        assert training.log is not None
        training.log.event("finished", training.progress.step, best=training.progress.best)
        training.log.close()
    else:
        message(f"stopped at update {training.progress.step} and saved; the same command goes on from there")
    return finished


def _follow(group: Group, config: Config) -> None:
    """The run as every other process sees it."""
    _keep_freed_memory()
    _set_up(config, _prepare(config), torch.device("cpu"), group).run()


def _threads(config: Config) -> int:
    return config.threads or len(os.sched_getaffinity(0))


def _processes(config: Config, device: torch.device) -> int:
    """On a processor one process a thread, as long as each has a batch of the update; one on a GPU."""
    return 1 if device.type != "cpu" else min(_threads(config), config.train.accumulate)


def _prepare(config: Config) -> Prepared:
    start = load_model(config.train.init_from, "cpu") if config.train.init_from else None
    return prepare(config, tokenizer=start.tokenizer if start else None)


def _keep_freed_memory() -> None:
    """Lets the process keep what tensors give back, where the C library is glibc.

    By default glibc maps every large tensor anew and unmaps it when it is freed; on a processor the page faults of
    a training step then cost about as much as its arithmetic on the vocabulary.
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 1 << 28)):
            library.mallopt(option, value)


def _set_up(config: Config, prepared: Prepared, device: torch.device, group: Group) -> Training:
    """Model, optimiser, loss and log, as new or as the last checkpoint left them."""
    torch.set_num_threads(max(1, _threads(config) // group.world))
    torch.manual_seed(config.seed)
    tokenizer = prepared.tokenizer
    model = build_model(config, tokenizer)
    if config.train.init_from:
        start = load_model(config.train.init_from, "cpu")
        load_weights(model, weights(start.model), start.folder)
    model = model.to(device)
    optimiser = build_optimiser(model, config.train)
    average = MovingAverage(model, config.train.ema_decay) if config.train.ema_decay else None
    unigram = None
    if config.loss.definition == "unigram":
        unigram = _unigram(prepared.train, tokenizer.target_size, tokenizer.begin_id).to(device)
    loss = build_loss(
        config.loss, pad_id=tokenizer.pad_id, begin_id=tokenizer.begin_id,
        vocabulary_size=tokenizer.target_size, unigram=unigram,
    )  # fmt: skip
    checkpoints = Checkpoints(config)
    last = checkpoints.last()
    progress = Progress(fingerprints=prepared.fingerprints)
    if last is not None:
        progress = checkpoints.load(last, model, optimiser, average)
        if progress.fingerprints != prepared.fingerprints:
            raise UserError(
                f"{config.run_dir}: the data has changed since this run began; restore it or give another run_dir"
            )
    if not group.leads:
        return Training(config, prepared, model, loss, progress, optimiser, average, group)
    if last is not None:
        message(f"{config.run_dir}: going on after update {progress.step}")
    log = RunLog(Path(config.run_dir), progress.step)
    if last is None:
        log.event("start", 0, loss=loss.signature, parameters=sum(p.numel() for p in model.parameters()),
                  pairs=len(prepared.train), data=prepared.fingerprints, device=str(device),
                  processes=group.world, threads=torch.get_num_threads())  # fmt: skip
    return Training(config, prepared, model, loss, progress, optimiser, average, group, log)


def _unigram(store: TokenStore, size: int, begin_id: int) -> torch.Tensor:
    """(size,) float32: share of each target class in the training text; padding and beginning have none."""
    counts = store.target_counts(size).astype(np.float64)
    counts[begin_id] = 0
    return torch.from_numpy(counts / counts.sum()).float()


def _claim_config(config: Config, run: Path) -> None:
    """Writes `config.yaml` into a new run directory; in an old one it must say the same."""
    path = run / "config.yaml"
    if not path.exists():
        if run.exists() and any(run.iterdir()):
            raise UserError(f"{run}: holds other files but no run (config.yaml); give a new or empty run_dir")
        run.mkdir(parents=True, exist_ok=True)
        write_text(path, dump_config(config))
        return
    difference = _first_difference(asdict(read_config(path)), asdict(config))
    if difference:
        raise UserError(f"{path}: {difference}; give the run's own config, or another run_dir")


def _first_difference(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> str:
    """Names the first setting that differs, places left out; empty where there is none."""
    for key in new:
        name = f"{prefix}{key}"
        if name in PLACES or old.get(key) == new[key]:
            continue
        if isinstance(new[key], dict) and isinstance(old.get(key), dict):
            found = _first_difference(old[key], new[key], f"{name}.")
            if found:
                return found
        else:
            return f"this run was begun with {name} {old.get(key)!r}, not {new[key]!r}"
    return ""


@contextmanager
def _locked(run: Path) -> Iterator[None]:
    """Holds the run directory, so that two trainings cannot write into it; a killed one lets go of it."""
    with (run / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{run}: another training is running in this run_dir; stop it or give another") from None
        yield


def _is_finished(run: Path) -> bool:
    return any(event["event"] == "finished" for event in read_log(run / "log.jsonl")[-1:])


def _best(run: Path) -> Path:
    return run / "checkpoints" / (run / "best").read_text(encoding="utf-8").strip()

