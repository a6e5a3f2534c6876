"""The run directory: one training in it at a time, always with the same config, and its log."""

from __future__ import annotations

import html
import json
import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypedDict

import msgspec

from mt.config import Config
from mt.config_file import dump_config, read_config
from mt.corpus.prepare import Prepared
from mt.errors import UserError, concerning
from mt.files.atomic import open_locked, write_text
from mt.files.json_file import parse_json, read_json
from mt.progress import log_line, say
from mt.settings import dotted
from mt.training.checkpoint import REMEDY, Checkpoints, TrainState
from mt.training.listener import Listener
from mt.training.validation import Validation

_WHERE = ("run_dir", "device", "threads", "data.root", "data.cache")
MAY_CHANGE = (*_WHERE, "train.activation_checkpointing", "train.report_to")
"""settings that say where and how, not what: a run may go on with others"""
_JUDGED_BY = ("valid/nll", "valid/ece", "valid/bleu", "valid/chrf")  # what TensorBoard sets beside the settings
MAY_RISE = ("train.max_steps", "train.max_epochs")
"""limits that may be raised, to 0 too, which is none: a run goes on to the new one, a finished one from its end"""
_AHEAD = dict.fromkeys(("cosine", "warmup_stable_decay"), "the learning rate goes on as if that had been planned")
_AHEAD |= dict.fromkeys(("inverse_sqrt", "constant"), "the learning rate does not depend on it")


class _Event(TypedDict):
    event: str
    step: Annotated[int, msgspec.Meta(ge=0)]


@contextmanager
def claimed(config: Config) -> Iterator[None]:
    """Holds the run directory, so that two trainings cannot write into it; a killed one lets go of it.

    An empty one is removed again. Raises UserError when another training holds it, or it has other contents.
    """
    run = Path(config.run_dir)
    run.mkdir(parents=True, exist_ok=True)
    lock, busy = run / ".lock", f"{run}: another training is running in this run_dir; stop it or give another"
    with open_locked(lock, busy):
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


def _check_config(config: Config, run: Path) -> None:
    """A run that has a checkpoint goes on with its own config only; before the first one it may still change."""
    path = run / "config.yaml"
    if (run / "last").exists() or any(run.glob("checkpoints/step_*")):
        begun = dict(dotted(asdict(read_config(path))))
        for name, value in dotted(asdict(config)):
            before = begun.get(name)
            if before == value or name in MAY_CHANGE:
                continue
            if name in MAY_RISE and (value or math.inf) > (before or math.inf):
                log_line(f"{run}: {name} was {before} and is now {value}; {_AHEAD[config.train.schedule]}")
                continue
            raise UserError(
                f"{path}: this run was begun with {name} {before!r}, not {value!r}; give the run's own config, or "
                "another run_dir"
            )
    elif not path.exists() and any(not file.name.startswith(".") for file in run.iterdir()):
        raise UserError(f"{run}: holds other files but no run (config.yaml); give a new or empty run_dir")


def read_log(path: Path) -> list[dict[str, Any]]:
    """All events of a log; none where there is no file yet. A last line that a kill cut short is left out. Raises
    UserError, which names the line, when another one is no event."""
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    events = []
    for number, line in enumerate(lines, start=1):
        place, remedy = f"{path} line {number}", "restore the file or take another run_dir"
        try:
            if line:
                parse_json(line, _Event, place, remedy)
                events.append(parse_json(line, dict[str, Any], place, remedy))
        except UserError:
            if number < len(lines):
                raise
    return events


def is_finished(config: Config) -> str:
    """The setting that ended the run, "" where it is not at its end: the log says so of the last checkpoint, and no
    limit has been raised since."""
    events, last = read_log(Path(config.run_dir) / "log.jsonl"), Checkpoints(config).last()
    end = TrainState(step=events[-1]["step"]).name if events and events[-1]["event"] == "finished" else ""
    if last is None or last.name != end:
        return ""
    return read_json(last / "training.json", TrainState, REMEDY).ended_by(config.train)


class RunLog:
    """Appends events to `log.jsonl`, the source of truth, and draws the same figures in TensorBoard."""

    def __init__(self, run_directory: Path, step: int, listener: Listener | None = None) -> None:
        """Opens the log of a run at update `step`; what a killed run wrote after that is taken back. `listener`: is
        shown all figures, too."""
        from torch.utils.tensorboard import SummaryWriter

        path = run_directory / "log.jsonl"
        events = read_log(path)
        self.spent = max((float(event.get("spent", 0.0)) for event in events), default=0.0)
        """seconds of a budget that are gone, those of updates that a kill has lost included"""
        kept = [event for event in events if event["step"] <= step]
        write_text(path, "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in kept))
        self.file = path.open("a", encoding="utf-8", newline="\n")
        # What fails in the board's thread is raised by the next call here, which tells it with the name of the folder.
        threading.excepthook = lambda failed: (
            None if isinstance(failed.exc_value, OSError) else threading.__excepthook__(failed)
        )
        self.board = SummaryWriter(str(run_directory / "tensorboard"), purge_step=step + 1 if kept else None)
        self.listener = listener

    def describe(self, config: Config) -> None:
        """Has TensorBoard show the config as text, and its settings beside the last validation (HPARAMS)."""
        from torch.utils.tensorboard.summary import hparams

        settings = {name: it if isinstance(it, (int, float)) else str(it) for name, it in dotted(asdict(config))}
        with concerning(self.board.log_dir):
            self.board.add_text("config", "".join(f"    {line}\n" for line in dump_config(config).splitlines()))
            experiment, begin, _ = hparams(settings, dict.fromkeys(_JUDGED_BY, 0.0))
            for summary in (experiment, begin):
                self.board._get_file_writer().add_summary(summary)

    def event(self, name: str, step: int, **figures: Any) -> None:
        """Writes one event; numbers also go to TensorBoard under `name/figure`."""
        # JSON has no infinity, which a gradient's norm may be
        figures = {key: None if isinstance(it, float) and not math.isfinite(it) else it for key, it in figures.items()}
        record = {"event": name, "step": step, "time": round(time.time(), 3), **figures}
        with concerning(self.file.name):
            self.file.write(json.dumps(record, ensure_ascii=False) + "\n")
            self.file.flush()  # a kill must lose no event
        numbers = {key: it for key, it in figures.items() if isinstance(it, (int, float)) and not isinstance(it, bool)}
        with concerning(self.board.log_dir):
            for key, value in numbers.items():
                self.board.add_scalar(f"{name}/{key}", value, step)
        if self.listener is not None:
            self.listener({f"{name}/{key}": value for key, value in numbers.items()}, step)

    def validation(self, name: str, found: Validation, step: int, epoch: int, is_best: bool) -> None:
        """Tells and draws what a validation of the checkpoint `name` found."""
        from mt.report.figures import reliability_image

        say_figures(name, found.figures, is_best)
        self.event("valid", step, epoch=epoch, **found.figures)
        image = reliability_image(found.calibration)
        # Corpus text is escaped, as TensorBoard renders markup.
        rows = [("source", "reference", "translation"), *found.samples]
        cells = ["".join(f"<td>{html.escape(text)}</td>" for text in row) for row in rows]
        table = "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"
        with concerning(self.board.log_dir):
            self.board.add_image("valid/reliability", image, step, dataformats="HWC")
            self.board.add_text("valid/samples", table, step)

    def close(self) -> None:
        """Flushes and closes both."""
        if self.listener is not None:
            self.listener.close()
        self.file.close()
        with concerning(self.board.log_dir):
            self.board.close()


def say_figures(name: str, figures: Mapping[str, float], is_best: bool) -> None:
    """One line on standard output about a validated checkpoint."""
    calibration = f"nll {figures['nll']:.4f}  perplexity {figures['perplexity']:.2f}  ece {figures['ece']:.4f}"
    quality = f"BLEU {figures['bleu']:.2f}  chrF {figures['chrf']:.2f}"
    say(f"{name}: {calibration}  {quality}{'  best' * is_best}")
