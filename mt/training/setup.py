"""What a run needs before its first update: device, data, model, loss, optimiser; new or from a checkpoint."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from mt.config import Config
from mt.corpus.prepare import Prepared, prepare
from mt.corpus.tokenizer import load_tokenizer
from mt.errors import UserError
from mt.files.json_file import check_listed
from mt.losses.build import build_loss
from mt.model.directory import LoadedModel, build_model, choose_device, load_model, load_weights, weights
from mt.model.linear import WORTHWHILE, bfloat16_speed
from mt.model.transformer import Transformer
from mt.processes import available_cores, keep_freed_memory
from mt.progress import log_line
from mt.settings import dotted
from mt.training.checkpoint import Checkpoints, TrainingParts, TrainState
from mt.training.data import batch_shape
from mt.training.distributed import Group
from mt.training.listener import Listener
from mt.training.loss import Teacher
from mt.training.optimiser import MovingAverage, Optimiser
from mt.training.run_directory import RunLog


def training_device(config: Config, group: Group) -> torch.device:
    """Where this process trains: each process of a machine has a GPU of its own, or its part of the processor."""
    device = choose_device(config.device)
    if device.type == "cuda" and group.under_torchrun:
        if group.local_rank >= (count := torch.cuda.device_count()):
            raise UserError(
                f"{group.local_world_size} processes on a machine with {count} GPUs; start one for each (torchrun "
                f"--nproc-per-node {count}), or train with --device cpu"
            )
        torch.cuda.set_device(group.local_rank)
        device = torch.device("cuda", group.local_rank)
    batches = batch_shape(config, device)[1]
    if (count := group.world_size) > batches:
        raise UserError(
            f"{count} processes share the {batches} batches of an update; set train.accumulate "
            f"({config.train.accumulate}) to {count} or a multiple (and train.batch_tokens lower by as much for the "
            "same updates), or start fewer processes"
        )
    return device


def _threads(config: Config, group: Group) -> int:
    return max(1, (config.threads or available_cores()) // group.local_world_size)


def worker_processes(config: Config, device: torch.device) -> int:
    """On a processor one process a thread, as long as each has a batch of the update; one on a GPU."""
    return 1 if device.type != "cpu" else min(_threads(config, Group()), batch_shape(config, device)[1])


def prepare_data(config: Config, group: Group) -> Prepared:
    """The data of the run, encoded with the tokeniser of `train.init_from` or `train.teacher` where there is one."""
    keep_freed_memory()
    torch.set_num_threads(_threads(config, group))
    ready = f"prepared on {group.machine}"
    if group.local_rank > 0:  # one process of each machine prepares; the others find it in the machine's cache
        group.wait_for_signal(ready)
    tokenizer, teacher = None, _made_alike(config, "teacher", "cpu", "tokenizer") if config.train.teacher else None
    if origin := config.train.init_from or config.train.teacher:
        start = Checkpoints(config).last() or load_model(origin, "cpu", at_once=False).folder
        check_listed(start / "meta.json", "restore the folder, or start from another model")  # damage is told at once
        tokenizer = load_tokenizer(start)
        if teacher and teacher.tokenizer.fingerprint != tokenizer.fingerprint:
            other = f"has another tokeniser than {start}, which this run goes on from"
            raise UserError(f"train.teacher {config.train.teacher}: {other}; give a teacher with the same one")
    prepared = prepare(config, tokenizer=tokenizer)
    prepared.fingerprints |= {"teacher": teacher.weights_digest} if teacher else {}
    group.signal(ready)
    for fingerprints, machine in group.gather((prepared.fingerprints, group.machine)):
        if fingerprints != prepared.fingerprints:
            raise UserError(
                f"{machine}: the text, its tokeniser or the teacher is not the one of {group.machine}; give all "
                "machines the same files, and one --data.cache that all of them see or a copy of it"
            )
    return prepared


def setup(config: Config, prepared: Prepared, device: torch.device, group: Group) -> TrainingParts:
    """Model, loss, optimiser and state, as new or as the last checkpoint left them."""
    torch.set_num_threads(_threads(config, group))
    torch.manual_seed(config.seed)
    tokenizer = prepared.tokenizer
    model = build_model(config, tokenizer)
    checkpoints, checkpoint = Checkpoints(config), None
    if group.is_main:  # alone: other machines need not see the run directory
        if last := checkpoints.last():
            checkpoint = checkpoints.read(last)
        elif config.train.init_from:
            _start_from(model, config)
    checkpoint = group.broadcast(checkpoint)
    if checkpoint is None:
        load_weights(model, group.broadcast(weights(model) if group.is_main else {}), checkpoints.run)
    model = model.to(device).train()
    model.activation_checkpointing = config.train.activation_checkpointing
    optimiser = Optimiser(model, config.train)
    average = MovingAverage(model, config.train.ema_decay) if config.train.ema_decay else None
    unigram = None
    if config.loss.definition == "unigram":
        counts = prepared.train.piece_counts(tokenizer.source_size, tokenizer.target_size)[1].astype(np.float64)
        counts[tokenizer.begin_id] = 0  # never predicted
        unigram = torch.from_numpy(counts / counts.sum()).float().to(device)
    if group.is_main and config.loss.log_end == 1 and not config.loss.reference:
        log_line("warning: at loss.log_end 1 the loss has no lower bound, and training may diverge; 0.99999 brakes it")
    ids = {"pad_id": tokenizer.pad_id, "begin_id": tokenizer.begin_id}
    loss = build_loss(config.loss, **ids, vocabulary_size=tokenizer.target_size, unigram=unigram)
    teacher, state = None, TrainState(fingerprints=prepared.fingerprints)
    if config.train.teacher:
        loaded, train = _made_alike(config, "teacher", str(device), "tokenizer"), config.train
        teacher = Teacher(loaded.model, train.teacher_temperature, train.teacher_weight)
        loss.signature += f"|teacher:{teacher.share:g}|temperature:{teacher.temperature:g}"
        if loaded.weights_digest != prepared.fingerprints["teacher"]:
            raise UserError(f"train.teacher {train.teacher}: has just changed; wait until it is trained, or copy it")
    if checkpoint is not None:
        checkpoint.restore(model, optimiser, average)
        state = checkpoint.state
        if state.fingerprints != prepared.fingerprints:
            same = state.fingerprints.get("teacher") == prepared.fingerprints.get("teacher")
            changed = f"{'the data' if same else 'train.teacher'} has changed since this run began"
            raise UserError(f"{config.run_dir}: {changed}; restore it or give another run_dir")
    return TrainingParts(model, loss, optimiser, average, state, teacher)


def choose_precision(config: Config, device: torch.device, group: Group, state: TrainState, log: RunLog | None) -> str:
    """The number format of products; what `auto` finds the faster is kept by checkpoints, so that resuming is exact."""
    if config.train.precision != "auto":
        return config.train.precision
    if not state.precision:
        on_gpu, width = device.type == "cuda", config.model.width
        speed = 0.0 if on_gpu or not group.is_main else bfloat16_speed(width)
        faster = torch.cuda.is_bf16_supported() if on_gpu else group.broadcast(speed > WORTHWHILE)
        state.precision = "bfloat16" if faster else "float32"
        if log is not None:
            why = f", as products in bfloat16 are {speed:.1f} times as fast here" if speed else ""
            log_line(f"train.precision auto: {state.precision}{why}")
            log.event("precision", state.step, precision=state.precision, bfloat16_speed=round(speed, 2))
    return state.precision


def open_log(config: Config, prepared: Prepared, device: torch.device, group: Group, parts: TrainingParts) -> RunLog:
    """The log of a run that begins or goes on."""
    listener = None if config.train.report_to == "none" else Listener(config)
    log = RunLog(Path(config.run_dir), parts.state.step, listener)
    if parts.state.step:
        log_line(f"{config.run_dir}: going on after update {parts.state.step}")
    else:
        log.describe(config)
        model = {"loss": parts.loss.signature, "parameters": sum(p.numel() for p in parts.model.parameters())}
        data = {"pairs": len(prepared.train), "data": prepared.fingerprints}
        where = {"device": str(device), "processes": group.world_size, "threads": torch.get_num_threads()}
        log.event("start", 0, **model, **data, **where)
    return log


def _start_from(model: Transformer, config: Config) -> None:
    """Copies the weights of `train.init_from`, a model of the same shape."""
    start = _made_alike(config, "init_from", "cpu", "tokenizer", "model")
    load_weights(model, weights(start.model), start.folder)


def _made_alike(config: Config, setting: str, device: str, *sections: str) -> LoadedModel:
    """The model of `train.init_from` or `train.teacher`, its weights loaded when they are first asked for. Raises
    UserError where it was made with other settings of these sections, or a teacher for other languages."""
    name = getattr(config.train, setting)
    start, origin = load_model(name, device, at_once=False), f"train.{setting} {name}"
    made = asdict(start.config)
    made["tokenizer"]["invisible"] = start.tokenizer.invisible
    ours = dict(dotted(asdict(config)))
    for key, value in dotted({section: made[section] for section in sections}):
        if not (key.startswith("tokenizer.sampling") or "dropout" in key) and ours[key] != value:
            raise UserError(
                f"{origin}: was made with {key} {value}, this config says {ours[key]}; set {key} to {value}"
            )
    languages, new = ([data.source_language, data.target_language] for data in (start.config.data, config.data))
    if languages != new:
        told = f"{origin}: translates from {' to '.join(languages)}, this run learns {' to '.join(new)}"
        if setting == "teacher":
            raise UserError(f"{told}; give a teacher of the same languages")
        log_line(told)
    return start
