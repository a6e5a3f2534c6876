"""Checkpoints: a model directory each, and beside it everything that an exact continuation needs."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from mt.config import Config, TrainConfig
from mt.corpus.tokenizer import Tokenizer
from mt.errors import UserError
from mt.files.atomic import atomic_folder, write_text
from mt.files.json_file import check_listed, list_files, read_json, write_json
from mt.losses.function import LossFunction
from mt.model.directory import (
    AVERAGE,
    check_finite,
    load_weights,
    read_pointer,
    read_tensors,
    read_weights,
    save_model,
    weights,
    write_tensors,
)
from mt.model.transformer import Transformer
from mt.settings import NotNegative, Section, Whole
from mt.training.loss import Teacher
from mt.training.optimiser import MovingAverage, Optimiser

REMEDY = "restore it, or remove this folder and write the name of an earlier checkpoint into last"
_FALLING = ("nll", "perplexity", "ece")  # validation figures that are better when lower


@dataclass
class TrainState(Section):
    """Where a run stands: small numbers that go to `training.json`."""

    step: Whole = 0
    """updates made"""
    epoch: Whole = 0
    """passes over the data that are complete"""
    batch: Whole = 0
    """batches of the current epoch that are done"""
    tokens: Whole = 0
    """target tokens trained on"""
    seconds: NotNegative = 0.0
    """time spent in training, validation left out, up to the last line of the log"""
    spent: NotNegative = 0.0
    """time that the commands of this run have taken in all, preparation and validation included"""
    budget_steps: Whole = 0
    """updates of the whole run that `train.budget_minutes` allows, as planned last; 0: not planned yet"""
    plan_since: Whole = 0
    """see `Plan`"""
    plan_share: NotNegative = 0.0
    update_seconds: NotNegative = 0.0
    """how long an update took lately, by which a budget is planned; 0: not measured yet"""
    validation_updates: NotNegative = 0.0
    """how many updates a validation takes as long as"""
    block_seconds: NotNegative = 0.0
    """time of the updates since the last plan"""
    block_updates: Whole = 0
    """their number"""
    precision: str = ""
    """what `train.precision` auto has chosen; "": nothing yet"""
    best: str = ""
    """name of the best checkpoint so far"""
    bad_validations: Whole = 0
    """validations since the best one"""
    scores: dict[str, float] = field(default_factory=dict)
    """validation figure (`train.best_by`) of each validated checkpoint"""
    nll: dict[str, float] = field(default_factory=dict)
    """NLL of each, which decides among equal scores; none of checkpoints of earlier versions"""
    sums: dict[str, Any] = field(default_factory=dict)
    """loss, nll, tokens, seconds and the like since the last line of the log; scalar tensors until they are saved"""
    fingerprints: dict[str, str] = field(default_factory=dict)
    """what the data was made from, and the teacher's weights where there is one"""

    def _check(self) -> None:
        self._require(not self.best or self.best in {AVERAGE, *self.scores}, "best", "one of the scores")
        self._require(self.epoch <= self.step, "epoch", f"at most step, {self.step}")
        self._require(self.bad_validations <= len(self.scores), "bad_validations", "at most the number of scores")
        for name, value in self.sums.items():
            self._require(isinstance(value, int | float | Tensor), "sums", "numbers", {name: value})

    def add(self, **figures: float | Tensor) -> None:
        """Adds to the sums of the next line of the log, on the device where they are."""
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def ended_by(self, train: TrainConfig) -> str:
        """The setting that ends training here; "" where it goes on."""
        limits = {
            "max_steps": (train.max_steps, self.step),
            "max_epochs": (train.max_epochs, self.epoch),
            "patience": (train.patience, self.bad_validations),
            "budget_minutes": (self.budget_steps, self.step),
        }
        return next((f"train.{name}" for name, (limit, done) in limits.items() if 0 < limit <= done), "")

    @property
    def name(self) -> str:
        """Folder name of the checkpoint after this update."""
        return f"step_{self.step:08d}"


class TrainingParts(NamedTuple):
    """What a run trains with; a checkpoint brings it all back, but for the teacher."""

    model: Transformer
    loss: LossFunction
    optimiser: Optimiser
    average: MovingAverage | None
    state: TrainState
    teacher: Teacher | None = None


class Checkpoint(NamedTuple):
    """A checkpoint in memory, on its way to model and optimiser."""

    folder: Path
    state: TrainState
    model: dict[str, Tensor]
    """the weights of the model file: the averaged ones where there is a moving average"""
    training: dict[str, Tensor]
    """optimiser, and the weights in training where the model file holds averaged ones"""

    def restore(self, model: Transformer, optimiser: Optimiser, average: MovingAverage | None) -> None:
        """Puts everything back as it was when the checkpoint was written. Raises UserError if it does not fit."""
        if average is None:
            load_weights(model, self.model, self.folder / "model.safetensors")
        else:
            raw = {key.removeprefix("model."): it for key, it in self.training.items() if key.startswith("model.")}
            load_weights(model, raw, self.folder / "training.safetensors")
            with average.applied():
                load_weights(model, self.model, self.folder / "model.safetensors")
        optimiser.load(self.training, self.folder / "training.safetensors")


class Checkpoints:
    """The `checkpoints` folder of a run, with its pointers `best` and `last`."""

    def __init__(self, config: Config, piece_counts: tuple[Any, Any] | None = None) -> None:
        """piece_counts: see `save_model`; needed for saving alone."""
        self.config, self.piece_counts = config, piece_counts
        self.run = Path(config.run_dir)
        self.folder = self.run / "checkpoints"
        self._sign = 1 if config.train.best_by in _FALLING else -1

    def save(self, parts: TrainingParts, tokenizer: Tokenizer, meta: dict[str, Any]) -> None:
        """Writes the checkpoint of this update, moves `last` (and `best`), and deletes what is no longer kept."""
        model, state, average = parts.model, parts.state, parts.average
        tensors = parts.optimiser.tensors()
        if average is not None:
            tensors |= {f"model.{key}": value for key, value in weights(model).items()}
        with atomic_folder(self.folder / state.name) as folder:
            with average.applied() if average is not None else nullcontext():
                save_model(folder, model, tokenizer, self.config, {**meta, "step": state.step}, self.piece_counts)
            write_tensors(tensors, folder / "training.safetensors")
            path = folder / "training.json"
            write_json(path, {**asdict(state), "files": list_files(path)})
        # `last` comes last: a run killed before it begins again at the checkpoint before, and writes `best` anew.
        if state.best:
            write_text(self.run / "best", state.best + "\n")
        write_text(self.run / "last", state.name + "\n")
        names = sorted(path.name for path in self.folder.glob("step_*") if path.is_dir())
        kept = {*names[-self.config.train.keep_checkpoints :], state.best, state.name}
        if self.config.train.average != "none":
            kept.update(self._to_average(state))
        for name in set(names) - kept:  # only now, when no pointer names them any more
            shutil.rmtree(self.folder / name)

    def clean(self) -> None:
        """Removes what a kill in the middle of writing left behind; for the one process that holds the run."""
        for path in [*self.run.glob(".*.tmp"), *self.folder.glob(".*.tmp"), *self.folder.glob(".*.old")]:
            # Killed between the two renames of `move_folder`: the old folder is still the whole one.
            if path.suffix == ".old" and not (target := self.folder / path.name.split(".")[1]).exists():
                path.rename(target)
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def last(self) -> Path | None:
        """The checkpoint to go on from; None where there is none yet. Raises UserError when `last` names none, or one
        long before the newest."""
        last, names = read_pointer(self.run / "last"), sorted(path.name for path in self.folder.glob("step_*"))
        if last is None:
            return self.folder / names[-1] if names else None  # killed before `last` was written, or it was lost
        if last.name not in names[-2:]:  # killed in the middle of a save, a run has one that is newer than `last`
            raise UserError(
                f"{self.run / 'last'}: names {last.name}, but there are newer ones up to {names[-1]}; write that name "
                "into it, or remove the newer folders to go on from this one"
            )
        return last

    def read(self, folder: Path) -> Checkpoint:
        """What `folder` holds. Raises UserError when a file is missing, damaged or of another checkpoint."""
        path = folder / "training.json"
        state = read_json(path, TrainState, REMEDY)
        if state.name != folder.name:
            raise UserError(f"{path}: is of update {state.step}, not of this checkpoint; {REMEDY}")
        check_listed(path, REMEDY)
        tensors = read_tensors(folder / "training.safetensors")
        for name, tensor in tensors.items():
            check_finite(name, tensor, folder / "training.safetensors")
        return Checkpoint(folder, state, read_weights(folder), tensors)

    def judge(self, name: str, figures: dict[str, float], state: TrainState) -> bool:
        """Whether a checkpoint is the best so far by `train.best_by`, or as good with a lower NLL; state notes it."""
        score, nll = figures[self.config.train.best_by], figures["nll"]
        best = not state.best or (self._sign * score, nll) < self._rank(state.best, state)
        if best:
            state.best = name
        if name != AVERAGE:
            state.bad_validations = 0 if best else state.bad_validations + 1
            state.scores[name], state.nll[name] = score, nll
        return best

    def _rank(self, name: str, state: TrainState) -> tuple[float, float]:
        """Lower is better."""
        return self._sign * state.scores[name], state.nll.get(name, 0.0)

    @staticmethod
    def unmoved(state: TrainState) -> bool:
        """Whether `train.best_by` has now, but not before, been the same at three validations in a row."""
        recent = list(state.scores.values())[-4:]
        return len(recent) > 2 and len(set(recent[-3:])) == 1 and recent[-4:-3] != recent[-1:]

    def averaged(self, state: TrainState) -> dict[str, Tensor]:
        """Mean weights by name, float32, of the checkpoints of `_to_average` (Vaswani et al. 2017, 6.1)."""
        folders = [self.folder / name for name in self._to_average(state)]
        sums: dict[str, Tensor] = {}
        for folder in folders:
            for name, tensor in read_weights(folder).items():
                sums[name] = sums[name] + tensor.double() if name in sums else tensor.double()
        return {name: (tensor / len(folders)).float() for name, tensor in sums.items()}

    def save_averaged(self, parts: TrainingParts, tokenizer: Tokenizer, meta: dict[str, Any]) -> None:
        """Writes `checkpoints/average` (a model directory) and moves `best` onto what the state names."""
        meta = {**meta, "step": parts.state.step, "average_of": self._to_average(parts.state)}
        with atomic_folder(self.folder / AVERAGE) as folder:
            save_model(folder, parts.model, tokenizer, self.config, meta, self.piece_counts)
        write_text(self.run / "best", parts.state.best + "\n")

    def _to_average(self, state: TrainState) -> list[str]:
        """The last or the best of the validated checkpoints that are still there, as `train.average` says."""
        names = sorted(state.scores, reverse=True)
        if self.config.train.average == "best":
            names = sorted(state.scores, key=lambda name: self._rank(name, state))
        return [name for name in names if (self.folder / name).is_dir()][: self.config.train.average_count]
