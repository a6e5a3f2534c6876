"""A whole run: raw text to trained model in one run directory, from scratch or from its last checkpoint."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch

from mt.config import Config
from mt.corpus.prepare import Prepared
from mt.errors import UserError
from mt.metrics.quality import check_bleu
from mt.model.directory import AVERAGE, load_weights, model_directory
from mt.progress import busy, log_line, progress_bar
from mt.training import resources
from mt.training.checkpoint import Checkpoints, TrainingParts
from mt.training.data import Update, UpdateLoader
from mt.training.distributed import Group, interruptible, own_processes, torchrun_group
from mt.training.loss import add_gradients
from mt.training.optimiser import Gradients, Plan, first_plan, learning_rate
from mt.training.run_directory import RunLog, begin, claimed, is_finished, say_figures
from mt.training.setup import choose_precision, open_log, prepare_data, setup, training_device, worker_processes
from mt.training.validation import Validator

_WORTH_TELLING = 0.1  # change of the number of updates that a budget gives


def train(config: Config, started: float | None = None) -> Path | None:
    """Trains, or goes on with, the run of `config.run_dir`; under `torchrun` as one of its processes.

    Args:
        started: `time.monotonic()` when the command began, which `train.budget_minutes` counts from; None: now.

    Returns:
        The folder of the best checkpoint; None in every process but the main one.

    Raises:
        UserError: data, config or checkpoint are not in order, or another process has failed.
        KeyboardInterrupt: stopped by Ctrl-C; the same command goes on.
    """
    started = time.monotonic() if started is None else started
    run = Path(config.run_dir)
    with torchrun_group() as group, claimed(config) if group.is_main else nullcontext():
        finished = bool(ended_by := group.broadcast(is_finished(config) if group.is_main else ""))
        if finished and group.is_main:
            longer = ", a higher train.max_steps or max_epochs to go on" * ended_by.startswith("train.max_")
            log_line(f"{run}: this run is finished, by {ended_by}; give another run_dir to train again{longer}")
        if not finished:
            if group.is_main:
                check_bleu(config.data.target_language)  # of validation, which may be days away
            device = training_device(config, group)
            prepared = prepare_data(config, group)
            if group.is_main:
                begin(config, prepared)
            own = own_processes(worker_processes(config, device), _follow, config)
            with nullcontext(group) if group.under_torchrun else own as members:
                finished = _take_part(members, config, prepared, device, started)
    if not finished:
        raise KeyboardInterrupt  # noted and saved, it still decides the exit code
    return model_directory(run) if group.is_main else None


def _follow(group: Group, config: Config) -> None:
    """The run in a process that the main one has started."""
    _take_part(group, config, prepare_data(config, Group()), torch.device("cpu"), time.monotonic())


def _take_part(group: Group, config: Config, prepared: Prepared, device: torch.device, started: float) -> bool:
    """The run as each of its processes sees it. False when it was interrupted."""
    parts = setup(config, prepared, device, group)
    log = open_log(config, prepared, device, group, parts) if group.is_main else None
    training = Training(config, prepared, parts, group, log, started)
    if finished := training.run():
        training.average_checkpoints()
    if log is not None:
        if finished:
            log.event("finished", parts.state.step, best=parts.state.best)
        else:
            log_line(f"stopped at update {parts.state.step} and saved; the same command goes on from there")
        log.close()
    return group.broadcast(finished)  # a launcher may end the others as soon as one has ended


class Training:
    """The training loop: the same updates and validations in every process; the main one alone saves and has a log."""

    def __init__(
        self, config: Config, prepared: Prepared, parts: TrainingParts, group: Group, log: RunLog | None, started: float
    ) -> None:
        """started: `time.monotonic()` when the command began, for a budget."""
        self.config, self.train, self.tokenizer = config, config.train, prepared.tokenizer
        self.parts, self.group, self.log = parts, group, log
        self.model, self.loss, self.optimiser, self.average, self.state, self.teacher = parts
        self.meta = {"loss": self.loss.signature, "data": prepared.fingerprints}
        self.device = next(self.model.parameters()).device
        self.gradients = Gradients(self.model, group)
        self.loader = UpdateLoader(config, prepared, group, self.device)
        self.validator = Validator(config, prepared.tokenizer, prepared.valid, group)
        sizes = prepared.tokenizer.source_size, prepared.tokenizer.target_size
        self.checkpoints = Checkpoints(config, prepared.train.piece_counts(*sizes) if log else None)
        self.state.spent = max(self.state.spent, log.spent if log else 0.0)
        self.budget = resources.Budget(self.train, started, self.state)
        # A budget has no plan until its first updates have been timed.
        self.plan = first_plan(self.train, 0 if self.train.budget_minutes else self._most_steps())
        if self.state.budget_steps:
            self.plan = Plan(self.state.budget_steps, self.state.plan_since, self.state.plan_share)
        self.told_steps = self.state.budget_steps
        self.bfloat16 = choose_precision(config, self.device, group, parts.state, log) == "bfloat16"
        self.interruptions: float | torch.Tensor = 0.0

    def run(self) -> bool:
        """Trains to the end. False when it was interrupted and has been saved."""
        if self._finished():
            return True
        self.bar = progress_bar(
            self.plan.steps or None,
            "training",
            "update",
            self.log is None,
            initial=self.state.step,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{remaining} left{postfix}]",
        )
        with interruptible(insistent=not self.group.under_torchrun) as interruption, self.bar:
            self._warm_up()
            self.clock = time.monotonic()
            self.budget.resume()
            updates = self.timed(self.loader.updates(self.state.epoch, self.state.batch))
            for count, update in enumerate(updates, start=1):
                interrupted = self.update(update, bool(interruption))
                self.bar.update(1)
                if count == 1:
                    self._report_memory()
                if self.train.budget_minutes and self.budget.is_due and not self._finished():
                    self._plan_budget()
                if self.state.step % self.train.log_every == 0 or self._finished():
                    self._log_figures()
                if self._due(self.train.validate_every, update.ends_epoch) or self._finished():
                    self._validate()
                elif interrupted or self._due(self.train.checkpoint_every, otherwise=False):
                    self._save(None)
                if interrupted or self._finished():
                    return not interrupted
        return True

    def _warm_up(self) -> None:
        """The largest batch goes first, so that a run that runs out of memory fails now; its gradient is dropped."""
        resources.reset_peak(self.device)
        torch.manual_seed(self.config.seed)
        with resources.explained(self.train):
            largest = self.loader.largest(self.state.epoch)
            add_gradients(self.model, largest, self.loss, self.gradients, self.bfloat16, self.teacher)

    def _report_memory(self) -> None:
        """What warm-up and first update took; in the log once, however often the run is interrupted."""
        peaks = self.group.gather(resources.peak_bytes(self.device))
        if self.log is None:
            return
        # Processes of one processor share its memory; each GPU has its own.
        gpu = self.device.type == "cuda"
        measured = max(peaks) if gpu else sum(peaks)
        where = "on a GPU" if gpu else f"in {len(peaks)} process{'es' * (len(peaks) > 1)}"
        log_line(f"memory: measured peak {measured / 1e6:,.0f} MB {where}")
        if self.state.step == 1:
            self.log.event("memory", 1, measured=measured)

    def timed(self, updates: Iterator[Update]) -> Iterator[Update]:
        """The same updates; the time spent waiting for each counts as such."""
        before = time.monotonic()
        for update in updates:
            self.state.add(data_seconds=time.monotonic() - before)
            yield update
            before = time.monotonic()

    def update(self, update: Update, interruption: bool) -> bool:
        """One update of the weights, from the gradients of all its batches. True when the run is to be stopped."""
        state, step = self.state, self.state.step + 1
        self.gradients.clear()
        with resources.explained(self.train):
            for number, batch in update.batches:
                # Dropout is a function of seed, update and batch: resuming needs no random state, and the number of
                # processes changes nothing.
                seed = hashlib.blake2b(f"{self.config.seed} {step} {number}".encode(), digest_size=7).digest()
                torch.manual_seed(int.from_bytes(seed, "big"))
                add_gradients(self.model, batch, self.loss, self.gradients, self.bfloat16, self.teacher)
        self.gradients.count(interruptions=float(interruption))
        figures = self.gradients.reduce()
        self.gradient_norm = self.gradients.clip(self.train.clip_norm)
        self.learning_rate = learning_rate(step, self.train, self.plan)
        self.optimiser.step(self.learning_rate)
        if self.average is not None:
            self.average.update(step)
        state.step = step
        state.epoch += update.ends_epoch
        state.batch = 0 if update.ends_epoch else update.done
        now = time.monotonic()
        state.add(**figures, seconds=now - self.clock)
        self.clock = now
        if self.group.world_size == 1:
            return interruption
        # All stop at the same update. Asking would wait for a GPU: there it is done now and then.
        self.interruptions = self.interruptions + figures["interruptions"]
        return (self.device.type == "cpu" or step % 10 == 0) and float(self.interruptions) > 0

    def _plan_budget(self) -> None:
        """Turns what is left of the budget into a number of updates; the main process' clock counts."""
        state, budget = self.state, self.budget
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # time what is done, not what is asked for
        budget.take_in()
        if not self.group.broadcast(budget.measured_enough):
            return
        budget.measure()
        state.update_seconds = self.group.broadcast(state.update_seconds)
        if not state.budget_steps:
            budget.took(self.validator.estimated_seconds(self.model))
            budget.resume()
        steps = self.group.broadcast(budget.updates(self.loader.updates_per_epoch()))
        steps = min(steps, self._most_steps() or steps)
        self.plan = self.plan.anew(state.step, steps)
        state.budget_steps, state.plan_since, state.plan_share = self.plan
        self.bar.total = steps
        if self.log is not None and abs(steps - self.told_steps) > _WORTH_TELLING * self.told_steps:
            self.told_steps = steps
            log_line(f"train.budget_minutes {self.train.budget_minutes:g}: {steps} updates in all, at the speed of now")
            self.log.event("budget", state.step, steps=steps, update_seconds=round(state.update_seconds, 4))
        self.clock = time.monotonic()

    def _log_figures(self) -> None:
        """One line of the log: averages since the last one. The unsmoothed NLL stands apart from the loss."""
        self._check_finite()
        state = self.state
        sums = {name: float(value) for name, value in state.sums.items()}
        tokens, seconds = sums["tokens"], sums["seconds"]
        state.tokens, state.seconds, state.sums = state.tokens + int(tokens), state.seconds + seconds, {}
        if self.log is None:
            return
        means = {"loss": sums["loss"] / tokens, "nll": sums["nll"] / tokens, "accuracy": sums["correct"] / tokens}
        update = {"learning_rate": self.learning_rate, "gradient_norm": float(self.gradient_norm)}
        speed = {
            "padding": 1 - sums["filled"] / sums["slots"],
            "tokens_per_second": round(tokens / seconds, 1),
            "data_wait": round(sums["data_seconds"] / seconds, 4),
            "seconds": round(state.seconds, 3),
        }
        if self.train.budget_minutes:
            speed["spent"] = round(self.budget.spent, 1)
        self.log.event("train", state.step, epoch=state.epoch, **means, tokens=state.tokens, **update, **speed)
        self.bar.set_postfix_str(f"{tokens / seconds:,.0f} tokens/s, nll {means['nll']:.3f}")

    def _check_finite(self) -> None:
        """Raises UserError when training has diverged: before a log line, a validation or a checkpoint says so."""
        loss = float(self.state.sums.get("loss", 0.0))
        if not math.isfinite(loss) or not all(bool(p.isfinite().all()) for p in self.model.parameters()):
            raise UserError(
                f"training has diverged at update {self.state.step}: loss or weights are not finite; lower "
                "train.learning_rate or raise train.warmup_steps, and train into another run_dir"
            )

    def _validate(self) -> None:
        """All measure; the main process notes whether this is the best so far, and saves; the others hear of it."""
        self._check_finite()
        self.budget.take_in()
        resources.give_back_memory()
        state, began = self.state, time.monotonic()
        telling = busy("validation") if self.log is not None else nullcontext()
        with self.average.applied() if self.average is not None else nullcontext(), telling:
            result = self.validator.measure(self.model)
        self.budget.took(time.monotonic() - began)  # before the checkpoint, which keeps it
        if result is not None and self.log is not None:
            best = self.checkpoints.judge(state.name, result.figures, state)
            self.log.validation(state.name, result, state.step, state.epoch, best)
            if self.checkpoints.unmoved(state):
                name, value = self.train.best_by, result.figures[self.train.best_by]
                log_line(
                    f"train.best_by {name} has been {value:.4g} at three validations in a row; while it stays there "
                    "the lower nll decides: look at the data and its languages, or choose another train.best_by"
                )
                self.log.event("unmoved", state.step, **{name: value})
            self._save(result.figures)
        state.bad_validations = self.group.broadcast(state.bad_validations)
        self.budget.resume()
        self.clock = time.monotonic()

    def _save(self, figures: dict[str, float] | None) -> None:
        """figures: of the validation at this update."""
        self._check_finite()
        if self.log is not None:
            self.state.sums = {name: float(value) for name, value in self.state.sums.items()}
            self.budget.take_in()
            self.state.spent = self.budget.spent
            self.checkpoints.save(self.parts, self.tokenizer, {**self.meta, "valid": figures})
        self.clock = time.monotonic()

    def average_checkpoints(self) -> None:
        """Averages checkpoints where the config asks for it; the average becomes the best if it validates better."""
        state = self.state
        if self.train.average == "none" or self.group.broadcast(len(state.scores)) < 2:
            return
        mean = self.group.broadcast(self.checkpoints.averaged(state) if self.group.is_main else {})
        load_weights(self.model, mean, self.checkpoints.folder)
        result = self.validator.measure(self.model)
        if result is None or self.log is None:
            return
        self.checkpoints.judge(AVERAGE, result.figures, state)
        say_figures(AVERAGE, result.figures, state.best == AVERAGE)
        self.log.event("average", state.step, **result.figures)
        self.checkpoints.save_averaged(self.parts, self.tokenizer, {**self.meta, "valid": result.figures})

    def _due(self, every: int, otherwise: bool) -> bool:
        return self.state.step % every == 0 if every else otherwise

    def _finished(self) -> bool:
        return bool(self.state.ended_by(self.train))

    def _most_steps(self) -> int:
        """The updates that the config allows without a budget; 0: as many as there are minutes for."""
        per_epoch = self.loader.updates_per_epoch() if self.train.max_epochs else 0
        return min(filter(None, (self.train.max_steps, self.train.max_epochs * per_epoch)), default=0)
