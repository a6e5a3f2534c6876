"""The training loop, from one update to the end of the run."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch

from mt.config import Config
from mt.corpus.prepare import Prepared
from mt.errors import UserError
from mt.losses.function import LossFunction
from mt.model.directory import build_model, load_weights
from mt.model.transformer import Transformer
from mt.progress import log_line, progress_bar
from mt.training import memory
from mt.training.batch import add_gradients
from mt.training.budget import TIMED_UPDATES, Budget
from mt.training.checkpoint import Checkpoints, Progress, step_name
from mt.training.feed import Feed, Update
from mt.training.interruption import interruptible
from mt.training.log import RunLog
from mt.training.optimiser import MovingAverage, Optimiser
from mt.training.parallel import Gradients, Group
from mt.training.schedule import learning_rate
from mt.training.validation import Validation, Validator


def _seed(seed: int, step: int, number: int) -> int:
    """Seed of the random numbers of one batch."""
    digest = hashlib.blake2b(f"{seed} {step} {number}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")


class Training:
    """One run: model, optimiser, data order and log, from the last checkpoint to the end.

    Every process of a run goes through the same updates and validations; the leader alone saves and writes the log.
    """

    def __init__(
        self,
        config: Config,
        prepared: Prepared,
        model: Transformer,
        loss: LossFunction,
        progress: Progress,
        optimiser: Optimiser,
        average: MovingAverage | None,
        group: Group,
        log: RunLog | None = None,
        started: float | None = None,
    ) -> None:
        """started: `time.monotonic()` when the command began, for a budget; None: now."""
        self.config = config
        self.train = config.train
        self.prepared = prepared
        self.model = model.train()
        self.model.activation_checkpointing = self.train.activation_checkpointing
        self.loss = loss
        self.progress = progress
        self.optimiser = optimiser
        self.average = average
        self.group = group
        self.gradients = Gradients(model, group)
        self.device = next(model.parameters()).device
        self.feed = Feed(config, prepared, group, self.device)
        self.budget = Budget(self.train, time.monotonic() if started is None else started, progress.spent)
        self.total_steps = self._total_steps()
        self.bfloat16 = self.train.precision == "bfloat16" or (
            self.train.precision == "auto" and self.device.type == "cuda" and torch.cuda.is_bf16_supported()
        )
        self.meta = {"loss": loss.signature, "data": prepared.fingerprints}
        self.checkpoints = Checkpoints(config)
        self.validator = Validator(config, prepared.tokenizer, prepared.valid, group)
        self.log = log
        self.clock = time.monotonic()
        self.interruptions: float | torch.Tensor = 0.0

    def run(self) -> bool:
        """Trains to the end. False when it was interrupted and has been saved."""
        if self._finished():
            return True
        bar = progress_bar(self.total_steps or None, "training", "step", initial=self.progress.step)
        with interruptible(insistent=not self.group.launched) as interruption, bar:
            self._warm_up()
            self.clock = time.monotonic()
            updates = self.feed.updates(self.progress.epoch, self.progress.batch)
            for count, update in enumerate(self.timed(updates), start=1):
                interrupted = self.update(update, bool(interruption))
                bar.update(1)
                if count == 1:
                    self._report_peak()
                self._fit_budget(count, bar)
                if self.progress.step % self.train.log_every == 0 or self._finished():
                    self._log_figures(bar)
                if self._validation_due(update) or self._finished():
                    self._validate()
                elif interrupted or self._due(self.train.checkpoint_every):
                    self._save()
                if interrupted:
                    return False
                if self._finished():
                    break
        return True

    def _warm_up(self) -> None:
        """The batch that needs the most memory goes first, so that a run that cannot last fails now.

        Its gradient is dropped, and nothing else remembers it: the run is the same without it.
        """
        batch, activations = self.feed.largest(self.progress.epoch, self.loss.passes)
        fixed = memory.fixed_bytes(self.model, self.optimiser, self.feed.batch_tokens)
        held = memory.current_bytes(self.device)
        self.estimated = self._memory_together("estimated", held + fixed + activations)
        memory.reset_peak(self.device)
        torch.manual_seed(self.config.seed)
        with memory.explained(self.config):
            add_gradients(self.model, batch, self.loss, self.gradients, self.bfloat16)

    def _report_peak(self) -> None:
        """What warm-up and first update took; in the log once, however often the run is interrupted."""
        measured = self._memory_together("measured peak", memory.peak_bytes(self.device))
        if self.log is not None and self.progress.step == 1:
            self.log.event("memory", 1, estimated=self.estimated, measured=measured)

    def _memory_together(self, what: str, size: float) -> int:
        """Bytes of all processes on a processor, of the fullest GPU else; says so in one line."""
        sizes = self.group.gather(size)
        if not self.group.leads:
            return 0
        gpu = self.device.type == "cuda"
        together = round(max(sizes) if gpu else sum(sizes))
        where = "on a GPU" if gpu else f"in {len(sizes)} process{'es' * (len(sizes) > 1)}"
        log_line(f"memory: {what} {memory.in_words(together)} {where}")
        return together

    def timed(self, updates: Iterator[Update]) -> Iterator[Update]:
        """The same updates; the time spent waiting for each counts as such."""
        while True:
            before = time.monotonic()
            update = next(updates, None)
            if update is None:
                return
            self._add({"data_seconds": time.monotonic() - before})
            yield update

    def update(self, update: Update, interruption: bool) -> bool:
        """One update of the weights, from the gradients of all its batches. True when the run is to be stopped."""
        step = self.progress.step + 1
        self.gradients.clear()
        for number, batch in update.batches:
            # Dropout is a function of seed, update and batch: resuming needs no random state, and the number of
            # processes changes nothing.
            torch.manual_seed(_seed(self.config.seed, step, number))
            with memory.explained(self.config):
                add_gradients(self.model, batch, self.loss, self.gradients, self.bfloat16)
        self.gradients.count(interruptions=float(interruption))
        figures = self.gradients.reduce()
        self.gradient_norm = self.gradients.clip(self.train.clip_norm)
        self.learning_rate = learning_rate(step, self.train, self.total_steps)
        self.optimiser.step(self.learning_rate)
        if self.average is not None:
            self.average.update(step)
        self.progress.step = step
        self.progress.epoch += update.ends_epoch
        self.progress.batch = 0 if update.ends_epoch else update.done
        now = time.monotonic()
        self._add({**figures, "seconds": now - self.clock})
        self.clock = now
        if self.group.world == 1:
            return interruption
        # All stop at the same update. Asking would wait for a GPU: there it is done now and then.
        self.interruptions = self.interruptions + figures["interruptions"]
        return (self.device.type == "cpu" or step % 10 == 0) and float(self.interruptions) > 0

    def _add(self, figures: dict[str, Any]) -> None:
        """Adds to the sums of the next line of the log, on the device where they are."""
        sums: dict[str, Any] = self.progress.sums
        for name, value in figures.items():
            sums[name] = sums.get(name, 0.0) + value

    def _fit_budget(self, count: int, bar: Any) -> None:
        """Turns the budget into a number of updates, once, as soon as enough of them have been timed.

        count: updates that this command has made.
        """
        if not self.train.budget_minutes or self.progress.budget_steps:
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # time what is done, not what is asked for
        self.budget.measure(time.monotonic())
        if count % TIMED_UPDATES or not self.group.share(self.budget.measured_enough):
            return
        validation = self.validator.estimated_seconds(self.model)
        steps = self.budget.updates(self.progress.step, validation, self.feed.updates_per_epoch())
        self.progress.budget_steps = self.group.share(steps)
        self.total_steps = self._total_steps()
        if self.log is not None:
            bar.total = self.total_steps
            minutes, steps = self.train.budget_minutes, self.progress.budget_steps
            log_line(f"train.budget_minutes {minutes:g}: {steps} updates in all, as fast as the first ones")
            self.log.event("budget", self.progress.step, steps=steps, validation_seconds=round(validation, 1))
        self.clock = time.monotonic()

    def _log_figures(self, bar: Any) -> None:
        """One line of the log: averages since the last one. The unsmoothed NLL stands apart from the loss."""
        self._check_finite()
        sums = {name: float(value) for name, value in self.progress.sums.items()}
        tokens, seconds = sums["tokens"], sums["seconds"]
        self.progress.tokens += int(tokens)
        self.progress.seconds += seconds
        self.progress.sums = {}
        if self.log is None:
            return
        self.log.event(
            "train",
            self.progress.step,
            epoch=self.progress.epoch,
            loss=sums["loss"] / tokens,
            nll=sums["nll"] / tokens,
            accuracy=sums["correct"] / tokens,
            tokens=self.progress.tokens,
            learning_rate=self.learning_rate,
            gradient_norm=float(self.gradient_norm),
            padding=1 - sums["filled"] / sums["slots"],
            tokens_per_second=round(tokens / seconds, 1),
            data_wait=round(sums["data_seconds"] / seconds, 4),
            seconds=round(self.progress.seconds, 3),
        )
        bar.set_postfix_str(f"{tokens / seconds:,.0f} tokens/s, nll {sums['nll'] / tokens:.3f}")

    def _check_finite(self) -> None:
        """Raises UserError when training has diverged: before a log line, a validation or a checkpoint says so."""
        loss = float(self.progress.sums.get("loss", 0.0))
        if not math.isfinite(loss) or not all(bool(p.isfinite().all()) for p in self.model.parameters()):
            raise UserError(
                f"training has diverged at update {self.progress.step}: loss or weights are not finite; lower "
                "train.learning_rate or raise train.warmup_steps, and train into another run_dir"
            )

    def _validate(self) -> None:
        """All measure, the leader notes whether this is the best so far, and saves; the others get the verdict."""
        self._check_finite()
        memory.give_back_memory()
        with self.average.applied() if self.average is not None else nullcontext():
            result = self.validator.measure(self.model, self.meta)
        if result is not None and self.log is not None:
            self._judge(result, self.log)
        self.progress.bad_validations = self.group.share(self.progress.bad_validations)
        self.clock = time.monotonic()
        self.budget.leave_out(self.clock)

    def _judge(self, result: Validation, log: RunLog) -> None:
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
        if self.log is not None:
            self.progress.sums = {name: float(value) for name, value in self.progress.sums.items()}
            self.progress.spent = self.budget.spent
            self.checkpoints.save(
                self.model,
                self.optimiser,
                self.average,
                self.progress,
                self.prepared.tokenizer,
                {**self.meta, "valid": figures},
            )
        self.clock = time.monotonic()

    def _validation_due(self, update: Update) -> bool:
        return self._due(self.train.validate_every) if self.train.validate_every else update.ends_epoch

    def _due(self, every: int) -> bool:
        return every > 0 and self.progress.step % every == 0

    def _finished(self) -> bool:
        train, progress = self.train, self.progress
        return (
            0 < train.max_steps <= progress.step
            or 0 < progress.budget_steps <= progress.step
            or 0 < train.max_epochs <= progress.epoch
            or 0 < train.patience <= progress.bad_validations
        )

    def _total_steps(self) -> int:
        """Updates of the whole run, for the schedule and the progress bar; 0 while a budget is not yet counted."""
        if self.train.budget_minutes and not self.progress.budget_steps:
            return 0
        per_epoch = self.feed.updates_per_epoch() if self.train.max_epochs else 0
        limits = (self.train.max_steps, self.progress.budget_steps, self.train.max_epochs * per_epoch)
        return min(limit for limit in limits if limit)

    def finish(self) -> None:
        """Averages checkpoints where the config asks for it; the average becomes the best if it validates better."""
        if self.train.average == "none" or self.group.share(len(self.progress.scores)) < 2:
            return
        tensors = self.group.share(self.checkpoints.averaged(self.progress) if self.group.leads else {})
        model = build_model(self.config, self.prepared.tokenizer).to(self.device)
        load_weights(model, tensors, self.checkpoints.folder)
        result = self.validator.measure(model, self.meta)
        if result is None or self.log is None:
            return
        score = result.figures[self.train.best_by]
        if self.checkpoints.better(score, self.progress.scores[self.progress.best]):
            self.progress.best = "average"
        self._report("average", result.figures)
        self.log.event("average", self.progress.step, **result.figures)
        self.checkpoints.save_averaged(
            model, self.progress, self.prepared.tokenizer, {**self.meta, "valid": result.figures}
        )
