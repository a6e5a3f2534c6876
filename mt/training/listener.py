"""Shows the events of a run's log in Weights & Biases or MLflow, too. What goes wrong there stops no training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from mt.config import Config
from mt.errors import UserError
from mt.files.atomic import write_text
from mt.progress import log_line
from mt.settings import dotted

Figures = Mapping[str, float]
_FILE = "reported_run"  # in the run directory: the service's name of it
Show = Callable[[Figures, int], object]
"""is given figures by name, and the update that they are of"""


class Listener:
    """Passes figures on until that fails once; a run that is resumed goes on there, too."""

    def __init__(self, config: Config) -> None:
        """Raises UserError where `train.report_to` names a package that is not installed."""
        name = self._name = config.train.report_to
        try:
            module = import_module(name)
        except ModuleNotFoundError:
            raise UserError(
                f"train.report_to {name}: is not installed; pip install 'mt-calibrated[{name}]', or leave it out"
            ) from None
        self._show: Show | None = None
        self._end: Callable[[], object] = lambda: None
        self._guarded(lambda: (_begin_wandb if name == "wandb" else _begin_mlflow)(module, config), self._begun)

    def __call__(self, figures: Figures, step: int) -> None:
        """Shows figures of an update."""
        show = self._show
        if show is not None and figures:
            self._guarded(lambda: show(figures, step))

    def close(self) -> None:
        """Ends the run there."""
        if self._show is not None:
            self._guarded(self._end)

    def _begun(self, begun: tuple[Show, Callable[[], object]]) -> None:
        self._show, self._end = begun

    def _guarded(self, call: Callable[[], Any], then: Callable[[Any], object] = lambda _: None) -> None:
        try:
            then(call())
        except Exception as error:  # a service's own errors are of any kind
            self._show = None
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            log_line(f"warning: train.report_to {self._name}: {reason}; the run goes on without")


def _begin_wandb(wandb: Any, config: Config) -> tuple[Show, Callable[[], object]]:
    run = Path(config.run_dir)
    known = _known(run)
    begun = wandb.init(id=known, name=run.name, dir=str(run), config=asdict(config), resume="allow")
    if known is None:
        write_text(run / _FILE, begun.id + "\n")
    return lambda figures, step: begun.log(dict(figures), step=step), begun.finish


def _begin_mlflow(mlflow: Any, config: Config) -> tuple[Show, Callable[[], object]]:
    run = Path(config.run_dir)
    known = _known(run)
    begun = mlflow.start_run(run_id=known, run_name=None if known else run.name)
    if known is None:
        write_text(run / _FILE, begun.info.run_id + "\n")
        mlflow.log_params({name: str(value)[:500] for name, value in dotted(asdict(config))})
    return lambda figures, step: mlflow.log_metrics(dict(figures), step=step), mlflow.end_run


def _known(run: Path) -> str | None:
    return (run / _FILE).read_text(encoding="utf-8").strip() if (run / _FILE).is_file() else None
