"""What a run needs before its first update: device, data, model, loss, optimiser; new or from a checkpoint."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from mt.config import Config
from mt.corpus.prepare import Prepared, prepare
from mt.corpus.store import TokenStore
from mt.corpus.tokenizer import load_tokenizer
from mt.errors import UserError
from mt.losses.build import build_loss
from mt.model.directory import build_model, choose_device, load_model, load_weights, model_directory, weights
from mt.model.transformer import Transformer
from mt.processes import available_cores, keep_freed_memory
from mt.progress import log_line
from mt.training.checkpoint import Checkpoints, TrainingParts, TrainState
from mt.training.data import batch_shape
from mt.training.distributed import Group
from mt.training.optimiser import MovingAverage, build_optimiser
from mt.training.run_directory import RunLog


def training_device(config: Config, group: Group) -> torch.device:
    """Where this process trains: each process of a machine has a GPU of its own, or its part of the processor.

    Raises UserError when there are more processes than GPUs, or than batches of an update.
    """
    device = choose_device(config.device)
    if device.type == "cuda" and group.under_torchrun:
        if group.local_rank >= torch.cuda.device_count():
            raise UserError(
                f"{group.local_world_size} processes on a machine with {torch.cuda.device_count()} GPUs; start one for "
                f"each (torchrun --nproc-per-node {torch.cuda.device_count()}), or train with --device cpu"
            )
        torch.cuda.set_device(group.local_rank)
        device = torch.device("cuda", group.local_rank)
    batches = batch_shape(config, device)[1]
    if group.world_size > batches:
        raise UserError(
            f"{group.world_size} processes share the {batches} batches of an update; set train.accumulate "
            f"({config.train.accumulate}) to {group.world_size} or a multiple (and train.batch_tokens lower by as "
            "much for the same updates), or start fewer processes"
        )
    return device


def _threads(config: Config, group: Group) -> int:
    return max(1, (config.threads or available_cores()) // group.local_world_size)


def worker_processes(config: Config, device: torch.device) -> int:
    """On a processor one process a thread, as long as each has a batch of the update; one on a GPU."""
    return 1 if device.type != "cpu" else min(_threads(config, Group()), batch_shape(config, device)[1])


def prepare_data(config: Config, group: Group) -> Prepared:
    """The data of the run, encoded with the tokeniser of `train.init_from` where there is one.

    One process of each machine prepares; the others find it in the machine's cache.
    """
    keep_freed_memory()
    torch.set_num_threads(_threads(config, group))
    ready = f"prepared on {group.machine}"
    if group.local_rank > 0:
        group.wait_for_signal(ready)
    tokenizer = None
    if config.train.init_from:
        tokenizer = load_tokenizer(Checkpoints(config).last() or model_directory(Path(config.train.init_from)))
    prepared = prepare(config, tokenizer=tokenizer)
    group.signal(ready)
    found = group.gather((prepared.fingerprints, group.machine))
    different = [machine for fingerprints, machine in found if fingerprints != prepared.fingerprints]
    if different:
        raise UserError(
            f"{different[0]}: the text or its tokeniser is not the one of {group.machine}; give all machines the "
            "same files, and one --data.cache that all of them see or a copy of it"
        )
    return prepared


def setup(config: Config, prepared: Prepared, device: torch.device, group: Group) -> TrainingParts:
    """Model, loss, optimiser and state, as new or as the last checkpoint left them.

    The main process alone reads checkpoints and models: other machines need not see the run directory.
    """
    torch.set_num_threads(_threads(config, group))
    torch.manual_seed(config.seed)
    tokenizer = prepared.tokenizer
    model = build_model(config, tokenizer)
    checkpoints, checkpoint = Checkpoints(config), None
    if group.is_main:
        last = checkpoints.last()
        checkpoint = checkpoints.read(last) if last is not None else None
        if last is None and config.train.init_from:
            _start_from(model, config)
    checkpoint = group.broadcast(checkpoint)
    if checkpoint is None:
        load_weights(model, group.broadcast(weights(model) if group.is_main else {}), checkpoints.run)
    model = model.to(device).train()
    model.activation_checkpointing = config.train.activation_checkpointing
    optimiser = build_optimiser(model, config.train)
    average = MovingAverage(model, config.train.ema_decay) if config.train.ema_decay else None
    unigram = None
    if config.loss.definition == "unigram":
        unigram = _unigram(prepared.train, tokenizer.target_size, tokenizer.begin_id).to(device)
    ids = {"pad_id": tokenizer.pad_id, "begin_id": tokenizer.begin_id}
    loss = build_loss(config.loss, **ids, vocabulary_size=tokenizer.target_size, unigram=unigram)
    state = TrainState(fingerprints=prepared.fingerprints)
    if checkpoint is not None:
        checkpoint.restore(model, optimiser, average)
        state = checkpoint.state
        if state.fingerprints != prepared.fingerprints:
            raise UserError(
                f"{config.run_dir}: the data has changed since this run began; restore it or give another run_dir"
            )
    return TrainingParts(model, loss, optimiser, average, state)


def open_log(config: Config, prepared: Prepared, device: torch.device, group: Group, parts: TrainingParts) -> RunLog:
    """The log of a run that begins or goes on."""
    log, step = RunLog(Path(config.run_dir), parts.state.step), parts.state.step
    if step:
        log_line(f"{config.run_dir}: going on after update {step}")
    else:
        model = {"loss": parts.loss.signature, "parameters": sum(p.numel() for p in parts.model.parameters())}
        data = {"pairs": len(prepared.train), "data": prepared.fingerprints}
        where = {"device": str(device), "processes": group.world_size, "threads": torch.get_num_threads()}
        log.event("start", 0, **model, **data, **where)
    return log


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
