"""Checkpoints: a model directory each, and beside it everything that an exact continuation needs."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from mt.config import Config
from mt.corpus.tokenizer import Tokenizer
from mt.errors import UserError
from mt.files.atomic import atomic_folder, write_text
from mt.model.directory import load_weights, read_json, read_tensors, save_model, weights, write_tensors
from mt.model.transformer import Transformer
from mt.training.optimiser import MovingAverage, Optimiser


@dataclass
class Progress:
    """Where a run stands: small numbers that go to `training.json`."""

    step: int = 0
    """updates made"""
    epoch: int = 0
    """passes over the data that are complete"""
    batch: int = 0
    """batches of the current epoch that are done"""
    tokens: int = 0
    """target tokens trained on"""
    seconds: float = 0.0
    """time spent in training, validation left out, up to the last line of the log"""
    spent: float = 0.0
    """time that the commands of this run have taken in all, preparation and validation included"""
    budget_steps: int = 0
    """updates of the whole run that `train.budget_minutes` allows; 0: not counted yet"""
    best: str = ""
    """name of the best checkpoint so far"""
    bad_validations: int = 0
    """validations since the best one"""
    scores: dict[str, float] = field(default_factory=dict)
    """validation figure (`train.best_by`) of each validated checkpoint"""
    sums: dict[str, float] = field(default_factory=dict)
    """loss, nll, tokens, seconds and the like since the last line of the log"""
    fingerprints: dict[str, str] = field(default_factory=dict)
    """what the data was made from"""


class Saved(NamedTuple):
    """A checkpoint in memory, on its way to model and optimiser."""

    folder: Path
    progress: Progress
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
        optimiser.load(model, self.training)


def step_name(step: int) -> str:
    """Folder name of the checkpoint after update `step`."""
    return f"step_{step:08d}"


class Checkpoints:
    """The `checkpoints` folder of a run, with its pointers `best` and `last`."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.run = Path(config.run_dir)
        self.folder = self.run / "checkpoints"

    def save(
        self,
        model: Transformer,
        optimiser: Optimiser,
        average: MovingAverage | None,
        progress: Progress,
        tokenizer: Tokenizer,
        meta: dict[str, Any],
    ) -> None:
        """Writes the checkpoint of this update, moves `last` (and `best`), and deletes what is no longer kept.

        The model file holds the averaged weights where there is a moving average.
        """
        name = step_name(progress.step)
        tensors = optimiser.tensors(model)
        if average is not None:
            tensors.update({f"model.{key}": value for key, value in weights(model).items()})
        with atomic_folder(self.folder / name) as folder:
            self._save_model(folder, model, average, tokenizer, {**meta, "step": progress.step})
            write_tensors(tensors, folder / "training.safetensors")
            write_text(folder / "training.json", json.dumps(asdict(progress), indent=2) + "\n")
        # `last` comes last: a run killed before it begins again at the checkpoint before, and writes `best` anew.
        if progress.best:
            write_text(self.run / "best", progress.best + "\n")
        write_text(self.run / "last", name + "\n")
        self._prune(progress)

    def _save_model(
        self,
        folder: Path,
        model: Transformer,
        average: MovingAverage | None,
        tokenizer: Tokenizer,
        meta: dict[str, Any],
    ) -> None:
        if average is None:
            save_model(folder, model, tokenizer, self.config, meta)
        else:
            with average.applied():
                save_model(folder, model, tokenizer, self.config, meta)

    def clean(self) -> None:
        """Removes what a kill in the middle of writing left behind; for the one process that holds the run."""
        for path in [*self.run.glob(".*.tmp"), *self.folder.glob(".*.tmp"), *self.folder.glob(".*.old")]:
            if path.suffix == ".old" and not (target := self.folder / path.name.split(".")[1]).exists():
                path.rename(target)
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def last(self) -> Path | None:
        """The newest checkpoint; None where there is none yet."""
        pointer = self.run / "last"
        if not pointer.exists():
            return None
        folder = self.folder / pointer.read_text(encoding="utf-8").strip()
        if not folder.is_dir():
            raise UserError(f"{pointer}: names {folder}, which is not there; restore it or take another run_dir")
        return folder

    def read(self, folder: Path) -> Saved:
        """What `folder` holds.

        There is no random state among it: each batch's random numbers are a function of seed, update and batch.

        Raises:
            UserError: a file is missing or cut short.
        """
        try:
            progress = Progress(**read_json(folder / "training.json"))
        except TypeError:
            raise UserError(f"{folder / 'training.json'}: not a training state; restore the file") from None
        tensors = read_tensors(folder / "training.safetensors")
        return Saved(folder, progress, read_tensors(folder / "model.safetensors"), tensors)

    def averaged(self, progress: Progress) -> dict[str, Tensor]:
        """Mean weights of the last or the best checkpoints, as `train.average` says (Vaswani et al. 2017, 6.1).

        Returns:
            Weights by name, float32. Only validated checkpoints that are still there count.
        """
        folders = [self.folder / name for name in self._averaging_candidates(progress)]
        sums: dict[str, Tensor] = {}
        for folder in folders:
            for name, tensor in read_tensors(folder / "model.safetensors").items():
                sums[name] = sums[name] + tensor.double() if name in sums else tensor.double()
        return {name: (tensor / len(folders)).float() for name, tensor in sums.items()}

    def save_averaged(self, model: Transformer, progress: Progress, tokenizer: Tokenizer, meta: dict[str, Any]) -> None:
        """Writes `checkpoints/average` (a model directory) and moves `best` onto what `progress.best` names."""
        names = self._averaging_candidates(progress)
        with atomic_folder(self.folder / "average") as folder:
            save_model(folder, model, tokenizer, self.config, {**meta, "step": progress.step, "average_of": names})
        write_text(self.run / "best", progress.best + "\n")

    def better(self, score: float, than: float) -> bool:
        """Whether a validation figure is better than another: nll, perplexity and ece fall, the others rise."""
        return score < than if self.config.train.best_by in ("nll", "perplexity", "ece") else score > than

    def _ranked(self, progress: Progress) -> list[str]:
        falling = self.config.train.best_by in ("nll", "perplexity", "ece")
        names = [name for name in progress.scores if name != "average"]
        return sorted(names, key=lambda name: progress.scores[name] if falling else -progress.scores[name])

    def _averaging_candidates(self, progress: Progress) -> list[str]:
        train = self.config.train
        order = self._ranked(progress) if train.average == "best" else sorted(progress.scores, reverse=True)
        present = [name for name in order if name != "average" and (self.folder / name).is_dir()]
        return present[: train.average_count]

    def _prune(self, progress: Progress) -> None:
        train = self.config.train
        names = sorted(path.name for path in self.folder.glob("step_*") if path.is_dir())
        kept = {*names[-train.keep_checkpoints :], progress.best}
        if train.average != "none":
            kept.update(self._averaging_candidates(progress))
        for name in names:
            if name not in kept:
                shutil.rmtree(self.folder / name)
