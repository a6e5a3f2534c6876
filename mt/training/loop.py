"""The training loop, from one batch to the end of the run."""

from __future__ import annotations

import hashlib
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any

import numpy as np
import torch

from mt.config import Config
from mt.corpus.batching import pad_batch, plan_batches
from mt.corpus.prepare import Prepared, epoch_store
from mt.corpus.store import TokenStore
from mt.errors import UserError
from mt.losses.function import LossFunction
from mt.losses.projection import LossSums, projected_loss
from mt.model.transformer import Transformer
from mt.progress import progress_bar
from mt.training.checkpoint import Checkpoints, Progress, step_name
from mt.training.log import RunLog
from mt.training.optimiser import MovingAverage
from mt.training.parallel import Gradients, Group
from mt.training.schedule import learning_rate
from mt.training.validation import Validator


class Batch:
    """One batch on the training device."""

    def __init__(self, store: TokenStore, indices: np.ndarray, tokenizer: Any, device: torch.device) -> None:
        """Pads the pairs `indices` of the store.

        `source` (rows, source_length) and `target_input` (rows, target_length) are int64. `targets` (tokens,) holds
        the real target tokens alone, and `positions` (tokens,) where they stand in the flattened rows, so that
        projection and loss do no work on padding; None where there is no padding.
        """
        sources = [store.source(int(index)) for index in indices]
        targets = [store.target(int(index)) for index in indices]
        padded = pad_batch(targets, tokenizer.pad_id)
        inputs = np.full_like(padded, tokenizer.begin_id)
        inputs[:, 1:] = padded[:, :-1]
        # The ends of shorter sentences become input too; no real position sees them.
        real = np.arange(padded.shape[1]) < np.array([len(target) for target in targets])[:, None]
        self.tokens = int(real.sum())
        self.slots = padded.size + len(sources) * max(len(source) for source in sources)
        self.filled = self.tokens + sum(len(source) for source in sources)
        self.source = torch.from_numpy(pad_batch(sources, tokenizer.pad_id)).to(device, non_blocking=True)
        self.target_input = torch.from_numpy(inputs).to(device, non_blocking=True)
        self.targets = torch.from_numpy(padded[real]).to(device, non_blocking=True)
        self.positions = None
        if self.tokens < padded.size:
            self.positions = torch.from_numpy(np.flatnonzero(real)).to(device, non_blocking=True)


def batch_loss(model: Transformer, batch: Batch, loss: LossFunction) -> LossSums:
    """Loss sums over the real target tokens of a batch."""
    # A loss of several passes sees every sentence as often, each time with dropout of its own.
    source, target_input = (each.repeat(loss.passes, 1) for each in (batch.source, batch.target_input))
    hidden = model(source, target_input).unflatten(0, (loss.passes, -1)).flatten(1, 2).transpose(0, 1)
    if batch.positions is not None:
        hidden = hidden.index_select(0, batch.positions)
    hidden = hidden.flatten(0, 1)  # the passes of a position next to each other
    return projected_loss(hidden, model.output_weight, model.output_bias, batch.targets, loss=loss, pad_id=model.pad_id)


def add_gradients(
    model: Transformer, batch: Batch, loss: LossFunction, gradients: Gradients, bfloat16: bool = False
) -> None:
    """Adds the gradient of the batch's loss sum, and its figures; the one division comes with `Gradients.reduce`."""
    with torch.autocast(batch.source.device.type, dtype=torch.bfloat16, enabled=bfloat16):
        sums = batch_loss(model, batch, loss)
    sums.loss.backward()
    gradients.count(
        tokens=batch.tokens, loss=sums.loss.detach(), nll=sums.nll, correct=sums.correct,
        slots=batch.slots, filled=batch.filled,
    )  # fmt: skip


@contextmanager
def interruptible() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM are noted in the list instead of raised, so that the loop can save; a second one raises."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _seed(seed: int, step: int, number: int) -> int:
    """Seed of the random numbers of one batch."""
    digest = hashlib.blake2b(f"{seed} {step} {number}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")


class Training:
    """One run: model, optimiser, data order and log, from the last checkpoint to the end.

    Every process of a run goes through the same updates; the leader alone validates, saves and writes the log.
    """

    def __init__(self, config: Config, prepared: Prepared, model: Transformer, loss: LossFunction,
                 progress: Progress, optimiser: torch.optim.AdamW, average: MovingAverage | None, group: Group,
                 log: RunLog | None = None) -> None:  # fmt: skip
        self.config = config
        self.train = config.train
        self.prepared = prepared
        self.model = model.train()
        self.loss = loss
        self.progress = progress
        self.optimiser = optimiser
        self.average = average
        self.group = group
        self.gradients = Gradients(model, group)
        self.device = next(model.parameters()).device
        self.total_steps = self._total_steps()
        self.bfloat16 = self.train.precision == "bfloat16" or (
            self.train.precision == "auto" and self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        )
        self.meta = {"loss": loss.signature, "data": prepared.fingerprints}
        self.checkpoints = Checkpoints(config)
        self.log = log
        if log is not None:
            self.validator = Validator(config, prepared.tokenizer, prepared.valid)

    def run(self) -> bool:
        """Trains to the end. False when it was interrupted and has been saved."""
        bar = progress_bar(self.total_steps, "training", "step", initial=self.progress.step)
        with interruptible() as interruption, bar:
            self.log_started = time.monotonic()
            while not self._finished():
                for update in self._updates():
                    interrupted = self._update(update, bool(interruption))
                    bar.update(1)
                    at_end = self.progress.step == self.train.max_steps
                    if self.progress.step % self.train.log_every == 0 or at_end:
                        self._log_figures(bar)
                    if self._due(self.train.validate_every) or at_end:
                        self._validate()
                    elif interrupted or self._due(self.train.checkpoint_every):
                        self._save()
                    if interrupted:
                        return False
                    if self._finished():
                        return True
                self._end_epoch()
        return True

    def _plan(self, epoch: int) -> tuple[TokenStore, list[np.ndarray]]:
        store = epoch_store(self.prepared, self.config, epoch)
        plan = plan_batches(
            store.source_lengths, store.target_lengths, batch_tokens=self.train.batch_tokens,
            max_length=self.train.max_length, seed=self.config.seed, epoch=epoch, weights=store.weights,
        )  # fmt: skip
        return store, plan

    def _updates(self) -> Iterator[tuple[TokenStore, list[np.ndarray]]]:
        """The updates of the current epoch that are still to be made, each a few batches of the store."""
        store, plan = self._plan(self.progress.epoch)
        for start in range(self.progress.batch, len(plan), self.train.accumulate):
            yield store, plan[start : start + self.train.accumulate]

    def _update(self, update: tuple[TokenStore, list[np.ndarray]], interruption: bool) -> bool:
        """One update of the weights, from the gradients of all its batches. True when the run is to be stopped."""
        started = time.monotonic()
        store, batches = update
        step = self.progress.step + 1
        self.gradients.clear()
        for number in range(self.group.rank, len(batches), self.group.world):
            batch = Batch(store, batches[number], self.prepared.tokenizer, self.device)
            # Dropout is a function of seed, update and batch: resuming needs no random state, and the number of
            # processes changes nothing.
            torch.manual_seed(_seed(self.config.seed, step, number))
            add_gradients(self.model, batch, self.loss, self.gradients, self.bfloat16)
        self.gradients.count(interruptions=float(interruption))
        figures = self.gradients.reduce()
        self.gradient_norm = self.gradients.clip(self.train.clip_norm)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(step, self.train, self.total_steps)
        self.optimiser.step()
        if self.average is not None:
            self.average.update(step)
        sums: dict[str, Any] = self.progress.sums
        for name, value in figures.items():
            sums[name] = sums.get(name, 0.0) + value
        self.progress.step = step
        self.progress.batch += len(batches)
        self.progress.seconds += time.monotonic() - started
        # A GPU is not waited for: there one process sees its own interruption.
        return interruption if self.group.world == 1 else float(figures["interruptions"]) > 0

    def _log_figures(self, bar: Any) -> None:
        """One line of the log: averages since the last one. The unsmoothed NLL stands apart from the loss."""
        self._check_finite()
        sums = {name: float(value) for name, value in self.progress.sums.items()}
        tokens = sums["tokens"]
        elapsed = time.monotonic() - self.log_started
        self.progress.tokens += int(tokens)
        self.progress.sums = {}
        self.log_started = time.monotonic()
        if self.log is None:
            return
        self.log.event(
            "train", self.progress.step, epoch=self.progress.epoch, loss=sums["loss"] / tokens,
            nll=sums["nll"] / tokens, accuracy=sums["correct"] / tokens, tokens=self.progress.tokens,
            learning_rate=self.optimiser.param_groups[0]["lr"], gradient_norm=float(self.gradient_norm),
            padding=1 - sums["filled"] / sums["slots"], tokens_per_second=round(tokens / elapsed, 1),
            seconds=round(self.progress.seconds, 3),
        )  # fmt: skip
        bar.set_postfix_str(f"{tokens / elapsed:,.0f} tokens/s, nll {sums['nll'] / tokens:.3f}")

    def _check_finite(self) -> None:
        """Raises UserError when training has diverged: before a log line, a validation or a checkpoint says so."""
        loss = float(self.progress.sums.get("loss", 0.0))
        if not math.isfinite(loss) or not all(bool(p.isfinite().all()) for p in self.model.parameters()):
            raise UserError(
                f"training has diverged at update {self.progress.step}: loss or weights are not finite; lower "
                "train.learning_rate or raise train.warmup_steps, and train into another run_dir"
            )

    def _validate(self) -> None:
        """The leader measures, notes whether this is the best so far, and saves; the others wait for the verdict."""
        started = time.monotonic()
        self._check_finite()
        self.progress.validated = self.progress.step
        if self.log is not None:
            self._measure(self.log)
        self.progress.bad_validations = self.group.agree(self.progress.bad_validations)
        self.log_started += time.monotonic() - started

    def _measure(self, log: RunLog) -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(threads * self.group.world)  # the other processes are idle
        with self.average.applied() if self.average is not None else nullcontext():
            result = self.validator.measure(self.model, self.meta)
        torch.set_num_threads(threads)
        progress, score = self.progress, result.figures[self.train.best_by]
        name = step_name(progress.step)
        if not progress.best or self.checkpoints.better(score, progress.scores[progress.best]):
            progress.best, progress.bad_validations = name, 0
        else:
            progress.bad_validations += 1
        progress.scores[name] = score
        self._report(name, result.figures)
        log.event("valid", progress.step, epoch=progress.epoch, **result.figures)
        log.reliability_diagram("valid", result.calibration, progress.step)
        log.samples(result.samples, progress.step)
        self._save(result.figures)

    def _report(self, name: str, figures: dict[str, float]) -> None:
        best = "  best" if self.progress.best == name else ""
        print(
            f"{name}: nll {figures['nll']:.4f}  perplexity {figures['perplexity']:.2f}  ece {figures['ece']:.4f}  "
            f"BLEU {figures['bleu']:.2f}  chrF {figures['chrf']:.2f}{best}",
            flush=True,
        )

    def _save(self, figures: dict[str, float] | None = None) -> None:
        self._check_finite()
        if self.log is None:
            return
        self.progress.sums = {name: float(value) for name, value in self.progress.sums.items()}
        self.checkpoints.save(self.model, self.optimiser, self.average, self.progress, self.prepared.tokenizer,
                              {**self.meta, "valid": figures})  # fmt: skip

    def _end_epoch(self) -> None:
        self.progress.epoch += 1
        self.progress.batch = 0
        if self.progress.validated != self.progress.step and (self.train.validate_every == 0 or self._finished()):
            self._validate()

    def _due(self, every: int) -> bool:
        return every > 0 and self.progress.step % every == 0

    def _finished(self) -> bool:
        train, progress = self.train, self.progress
        return (
            0 < train.max_steps <= progress.step
            or 0 < train.max_epochs <= progress.epoch
            or 0 < train.patience <= progress.bad_validations
        )

    def _total_steps(self) -> int:
        """Updates of the whole run, for the cosine and the progress bar; exact without subword sampling."""
        per_epoch = -(-len(self._plan(0)[1]) // self.train.accumulate)
        limits = [self.train.max_steps] if self.train.max_steps else []
        if self.train.max_epochs:
            limits.append(self.train.max_epochs * per_epoch)
        return min(limits)

    def finish(self) -> None:
        """Averages checkpoints where the config asks for it; the average becomes the best if it validates better."""
        if self.log is None or self.train.average == "none" or len(self.progress.scores) < 2:
            return
        from mt.model.directory import build_model, load_weights

        tensors = self.checkpoints.averaged(self.progress)
        model = build_model(self.config, self.prepared.tokenizer).to(self.device)
        load_weights(model, tensors, self.checkpoints.folder)
        result = self.validator.measure(model, self.meta)
        score = result.figures[self.train.best_by]
        if self.checkpoints.better(score, self.progress.scores[self.progress.best]):
            self.progress.best = "average"
        self._report("average", result.figures)
        self.log.event("average", self.progress.step, **result.figures)
        self.checkpoints.save_averaged(model, self.progress, self.prepared.tokenizer,
                                       {**self.meta, "valid": result.figures})  # fmt: skip
