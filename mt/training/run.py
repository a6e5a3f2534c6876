"""A whole run: raw text to trained model in one run directory, from scratch or from its last checkpoint."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mt.config import Config
from mt.config_file import dump_config, read_config
from mt.corpus.prepare import Prepared, prepare
from mt.corpus.store import TokenStore
from mt.corpus.tokenizer import load_tokenizer
from mt.errors import UserError
from mt.files.atomic import write_text
from mt.losses.build import build_loss
from mt.model.directory import build_model, choose_device, load_model, load_weights, model_directory, weights
from mt.model.transformer import Transformer
from mt.processes import available_cores, keep_freed_memory
from mt.progress import log_line
from mt.training.checkpoint import Checkpoints, Progress
from mt.training.feed import batch_shape
from mt.training.launch import launched_group, own_processes
from mt.training.log import RunLog, read_log
from mt.training.loop import Training
from mt.training.optimiser import MovingAverage, build_optimiser
from mt.training.parallel import Group

PLACES = ("run_dir", "device", "threads", "data.root", "data.cache", "train.activation_checkpointing")
"""settings that say where and how, not what: a run may go on with others"""


def train(config: Config, started: float | None = None) -> Path | None:
    """Trains, or goes on with, the run of `config.run_dir`; under `torchrun` as one of its processes.

    Args:
        config: the run.
        started: `time.monotonic()` when the command began, which `train.budget_minutes` counts from; None: now.

    Returns:
        The folder of the best checkpoint; None in a process that does not lead.

    Raises:
        UserError: data, config or checkpoint are not in order, or another process has failed.
        KeyboardInterrupt: stopped by Ctrl-C; the same command goes on.
    """
    started = time.monotonic() if started is None else started
    run = Path(config.run_dir)
    with launched_group() as group, _claimed(run) if group.leads else nullcontext():
        if group.leads:
            _check_config(config, run)
        if group.share(group.leads and _is_finished(run)):
            if group.leads:
                log_line(f"{run}: this run is finished; give another run_dir to train again")
            return _best(run) if group.leads else None
        device = _device(config, group)
        _check_share(config, device, group)
        keep_freed_memory()
        torch.set_num_threads(_threads(config, group))
        prepared = _prepare(config, group)
        if group.leads:
            write_text(run / "config.yaml", dump_config(config))
            write_text(run / "cleaning.json", json.dumps(prepared.cleaning, indent=2, ensure_ascii=False) + "\n")
            Checkpoints(config).clean()
        if group.launched:
            finished = _take_part(config, prepared, device, group, started)
        else:
            with own_processes(worker_processes(config, device), _follow, config) as group:
                finished = _take_part(config, prepared, device, group, started)
    if not finished:
        raise KeyboardInterrupt
    return _best(run) if group.leads else None


def _take_part(
    config: Config, prepared: Prepared, device: torch.device, group: Group, started: float | None = None
) -> bool:
    """The run as each of its processes sees it. False when it was interrupted."""
    training = _set_up(config, prepared, device, group, started)
    finished = training.run()
    if finished:
        training.finish()
    if training.log is not None:
        if finished:
            training.log.event("finished", training.progress.step, best=training.progress.best)
        else:
            log_line(f"stopped at update {training.progress.step} and saved; the same command goes on from there")
        training.log.close()
    return group.share(finished)  # a launcher may end the others as soon as one has ended


def _follow(group: Group, config: Config) -> None:
    """The run as a process sees it that the leader has started."""
    keep_freed_memory()
    _take_part(config, _prepare(config, Group()), torch.device("cpu"), group)


def _device(config: Config, group: Group) -> torch.device:
    """Where this process trains: each process of a machine has a GPU of its own, or its share of the processor."""
    device = choose_device(config.device)
    if device.type != "cuda" or not group.launched:
        return device
    if group.local_rank >= torch.cuda.device_count():
        raise UserError(
            f"{group.local_world} processes on a machine with {torch.cuda.device_count()} GPUs; start one for each "
            f"(torchrun --nproc-per-node {torch.cuda.device_count()}), or train with --device cpu"
        )
    torch.cuda.set_device(group.local_rank)
    return torch.device("cuda", group.local_rank)


def _check_share(config: Config, device: torch.device, group: Group) -> None:
    batches = batch_shape(config, device)[1]
    if group.world > batches:
        raise UserError(
            f"{group.world} processes share the {batches} batches of an update; set train.accumulate "
            f"({config.train.accumulate}) to {group.world} or a multiple (and train.batch_tokens lower by as much for "
            "the same updates), or start fewer processes"
        )


def _threads(config: Config, group: Group) -> int:
    """Processor threads of this process."""
    return max(1, (config.threads or available_cores()) // group.local_world)


def worker_processes(config: Config, device: torch.device) -> int:
    """On a processor one process a thread, as long as each has a batch of the update; one on a GPU."""
    return 1 if device.type != "cpu" else min(_threads(config, Group()), batch_shape(config, device)[1])


def _prepare(config: Config, group: Group) -> Prepared:
    """The data of the run, encoded with the tokeniser of `train.init_from` where there is one.

    One process of each machine prepares; the others find it in the machine's cache.
    """
    ready = f"prepared on {group.machine}"
    if group.local_rank > 0:
        group.wait_for(ready)
    tokenizer = None
    if config.train.init_from:
        tokenizer = load_tokenizer(Checkpoints(config).last() or model_directory(Path(config.train.init_from)))
    prepared = prepare(config, tokenizer=tokenizer)
    group.note(ready)
    found = group.gather((prepared.fingerprints, group.machine))
    different = [machine for fingerprints, machine in found if fingerprints != prepared.fingerprints]
    if different:
        raise UserError(
            f"{different[0]}: the text or its tokeniser is not the one of {group.machine}; give all machines the "
            "same files, and one --data.cache that all of them see or a copy of it"
        )
    return prepared


def _set_up(
    config: Config, prepared: Prepared, device: torch.device, group: Group, started: float | None = None
) -> Training:
    """Model, optimiser, loss and log, as new or as the last checkpoint left them.

    The leader alone reads checkpoints and models: other machines need not see the run directory.
    """
    torch.set_num_threads(_threads(config, group))
    torch.manual_seed(config.seed)
    tokenizer = prepared.tokenizer
    model = build_model(config, tokenizer)
    saved = None
    if group.leads:
        checkpoints = Checkpoints(config)
        last = checkpoints.last()
        saved = checkpoints.read(last) if last is not None else None
        if last is None and config.train.init_from:
            _start_from(model, config)
    saved = group.share(saved)
    if saved is None:
        load_weights(model, group.share(weights(model) if group.leads else {}), Path(config.run_dir))
    model = model.to(device)
    optimiser = build_optimiser(model, config.train)
    average = MovingAverage(model, config.train.ema_decay) if config.train.ema_decay else None
    unigram = None
    if config.loss.definition == "unigram":
        unigram = _unigram(prepared.train, tokenizer.target_size, tokenizer.begin_id).to(device)
    loss = build_loss(
        config.loss,
        pad_id=tokenizer.pad_id,
        begin_id=tokenizer.begin_id,
        vocabulary_size=tokenizer.target_size,
        unigram=unigram,
    )
    progress = Progress(fingerprints=prepared.fingerprints)
    if saved is not None:
        saved.restore(model, optimiser, average)
        progress = saved.progress
        if progress.fingerprints != prepared.fingerprints:
            raise UserError(
                f"{config.run_dir}: the data has changed since this run began; restore it or give another run_dir"
            )
    log = None
    if group.leads:
        log = RunLog(Path(config.run_dir), progress.step)
        if saved is not None:
            log_line(f"{config.run_dir}: going on after update {progress.step}")
        else:
            log.event(
                "start",
                0,
                loss=loss.signature,
                parameters=sum(p.numel() for p in model.parameters()),
                pairs=len(prepared.train),
                data=prepared.fingerprints,
                device=str(device),
                processes=group.world,
                threads=torch.get_num_threads(),
            )
    return Training(config, prepared, model, loss, progress, optimiser, average, group, log, started)


def _unigram(store: TokenStore, size: int, begin_id: int) -> torch.Tensor:
    """(size,) float32: share of each target class in the training text; padding and beginning have none."""
    counts = store.target_counts(size).astype(np.float64)
    counts[begin_id] = 0
    return torch.from_numpy(counts / counts.sum()).float()


def _start_from(model: Transformer, config: Config) -> None:
    """Copies the weights of `train.init_from`, a model of the same shape."""
    start = load_model(config.train.init_from, "cpu")
    for name, value in asdict(start.config.model).items():
        if "dropout" not in name and getattr(config.model, name) != value:
            raise UserError(
                f"train.init_from {config.train.init_from}: was made with model.{name} {value}, this config says "
                f"{getattr(config.model, name)}; set model.{name} to {value}"
            )
    load_weights(model, weights(start.model), start.folder)


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
def _claimed(run: Path) -> Iterator[None]:
    """Holds the run directory, so that two trainings cannot write into it; a killed one lets go of it.

    A directory in which nothing came about is removed again.
    """
    run.mkdir(parents=True, exist_ok=True)
    lock = run / ".lock"
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{run}: another training is running in this run_dir; stop it or give another") from None
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
            with suppress(OSError):
                run.rmdir()


def _is_finished(run: Path) -> bool:
    return any(event["event"] == "finished" for event in read_log(run / "log.jsonl")[-1:])


def _best(run: Path) -> Path:
    return run / "checkpoints" / (run / "best").read_text(encoding="utf-8").strip()
