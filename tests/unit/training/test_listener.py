"""Figures go to the service that was asked for; what fails there stops nothing. Stand-ins take the services' place."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mt.config_file import read_config
from mt.errors import UserError
from mt.settings import dotted
from mt.training.listener import Listener
from mt.training.run_directory import RunLog


def config_of(tiny_config: Path, run: Path, service: str) -> Any:
    text = tiny_config.read_text()
    run.mkdir(exist_ok=True)
    config = read_config(tiny_config)
    assert "report_to" not in text
    object.__setattr__(config.train, "report_to", service)
    object.__setattr__(config, "run_dir", str(run))
    return config


class Service:
    """What is called of wandb and mlflow, noted."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.fails = False

    def init(self, **options: Any) -> Any:
        self.calls.append(("init", options["id"], options["resume"]))
        return SimpleNamespace(id="id-1", log=self.log, finish=lambda: self.calls.append("finish"))

    def log(self, figures: dict[str, float], step: int) -> None:
        if self.fails:
            raise ConnectionError("gone\naway")
        self.calls.append((step, figures))

    def start_run(self, run_id: str | None = None, run_name: str | None = None) -> Any:
        self.calls.append(("start", run_id))
        return SimpleNamespace(info=SimpleNamespace(run_id="id-1"))

    def log_params(self, params: dict[str, str]) -> None:
        self.calls.append(("params", params["train.max_steps"]))

    log_metrics = log

    def end_run(self) -> None:
        self.calls.append("finish")


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    made = Service()
    for name in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, name, made)  # type: ignore[arg-type]
    return made


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_numbers_of_the_log_are_shown_and_a_resumed_run_is_the_same_one(
    name: str, service: Service, tiny_config: Path, tmp_path: Path
) -> None:
    config = config_of(tiny_config, tmp_path / "run", name)
    for _ in range(2):
        log = RunLog(tmp_path / "run", 0, Listener(config))
        log.event("train", 3, loss=1.5, note="text", tokens=7)
        log.close()
    figures = (3, {"train/loss": 1.5, "train/tokens": 7})
    if name == "wandb":
        assert service.calls[:3] == [("init", None, "allow"), figures, "finish"]
        assert service.calls[3:] == [("init", "id-1", "allow"), figures, "finish"]
    else:
        steps = str(config.train.max_steps)
        assert service.calls[:4] == [("start", None), ("params", steps), figures, "finish"]
        assert service.calls[4:] == [("start", "id-1"), figures, "finish"]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_service_that_fails_is_told_once_and_stops_nothing(
    name: str, service: Service, tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = RunLog(tmp_path, 0, Listener(config_of(tiny_config, tmp_path / "run", name)))
    service.fails = True
    for step in (1, 2):
        log.event("train", step, loss=1.0)
    log.close()
    warning = f"warning: train.report_to {name}: gone away; the run goes on without\n"
    assert capsys.readouterr().err == warning
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2


def test_a_service_that_cannot_begin_is_told(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace())  # type: ignore[arg-type]
    Listener(config_of(tiny_config, tmp_path / "run", "wandb"))({"loss": 1.0}, 1)
    assert capsys.readouterr().err.startswith("warning: train.report_to wandb: ")


def test_a_package_that_is_not_installed_is_named(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="mt-calibrated.wandb"):
        Listener(config_of(tiny_config, tmp_path / "run", "wandb"))


def test_tensorboard_shows_the_config_and_the_settings_beside_the_validation(tiny_config: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = read_config(tiny_config)
    log = RunLog(tmp_path, 0)
    log.describe(config)
    log.event("valid", 2, bleu=30.0)
    log.close()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [path.name for path in (tmp_path / "tensorboard").iterdir() if path.is_dir()] == []
    tags = board.Tags()
    assert "config/text_summary" in tags["tensors"] and "valid/bleu" in tags["scalars"]
    shown = board.SummaryMetadata("_hparams_/experiment").plugin_data.content
    for name in ("train.learning_rate", "valid/bleu"):
        assert name.encode() in shown
    assert len(dict(dotted({"a": {"b": 1}}))) == 1
