"""A run whose limit is raised goes on with the optimiser's state, as if that had been planned; no more may change."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mt.config import Config
from mt.config_file import read_config
from mt.errors import UserError
from mt.files.json_file import read_json
from mt.model.directory import read_tensors
from mt.training.checkpoint import Checkpoints, TrainState
from mt.training.run import train


@pytest.fixture
def config(tiny_config: Path) -> Config:
    config = read_config(tiny_config)
    settings = replace(config.train, max_steps=20, validate_every=20, log_every=1, learning_rate=0.01, average="last")
    return replace(config, train=replace(settings, schedule="constant", precision="float32"))


def trained(config: Config, run: str, **settings: Any) -> Config:
    """Trains in a run directory of this name beside the config's."""
    settings = {"max_steps": config.train.max_steps, **settings}
    config = replace(config, run_dir=str(Path(config.run_dir).parent / run), train=replace(config.train, **settings))
    train(config)
    return config


def last(config: Config) -> dict[str, torch.Tensor]:
    """Weights and the optimiser's state, its counts of updates too, of the last checkpoint."""
    folder = Checkpoints(config).last()
    assert folder is not None
    return read_tensors(folder / "model.safetensors") | read_tensors(folder / "training.safetensors")


def logged(config: Config, figure: str) -> list[float]:
    lines = (Path(config.run_dir) / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [event[figure] for event in map(json.loads, lines) if event["event"] == "train"]


@pytest.mark.parametrize("schedule", ["constant", "warmup_stable_decay"])
def test_a_finished_run_goes_on_to_a_higher_limit(
    config: Config, schedule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"schedule": schedule, "final_learning_rate": 0.001}
    whole = trained(config, "whole", max_steps=30, **settings)
    before = last(trained(config, "longer", **settings))
    assert not (Path(config.run_dir).parent / "longer" / "checkpoints" / "step_00000030").exists()
    capsys.readouterr()
    longer = trained(config, "longer", max_steps=30, **settings)
    told = capsys.readouterr().err
    assert "train.max_steps was 20 and is now 30" in told and "going on after update 20" in told
    after = last(longer)
    steps = {name for name in after if name.startswith("optimiser.step.")}
    assert steps and all((before[name], after[name]) == (20, 30) for name in steps)
    moments = [name for name in after if name.startswith("optimiser.exp_avg")]
    assert not any(torch.equal(before[name], after[name]) for name in moments)
    assert logged(longer, "learning_rate")[20:] == logged(whole, "learning_rate")[20:]
    if schedule == "warmup_stable_decay":  # update 17 was made as the end of 20: the weights differ, the loss goes on
        assert sum(logged(longer, "loss")[20:25]) < sum(logged(longer, "loss")[5:10])
        return
    assert after.keys() == last(whole).keys()
    assert all(torch.equal(value, after[name]) for name, value in last(whole).items())
    assert logged(longer, "loss") == logged(whole, "loss")
    assert read_config(Path(longer.run_dir) / "config.yaml").train.max_steps == 30


def test_a_limit_may_be_raised_by_epochs_and_taken_away_but_not_lowered(config: Config) -> None:
    first = trained(config, "run", max_steps=0, max_epochs=1)
    assert json.loads((Path(first.run_dir) / "log.jsonl").read_text().splitlines()[-1])["event"] == "finished"
    trained(config, "run", max_steps=0, max_epochs=2)
    last_folder = Checkpoints(first).last()
    assert last_folder and read_json(last_folder / "training.json", TrainState).epoch == 2
    with pytest.raises(UserError, match=r"begun with train\.max_epochs 2, not 1"):
        trained(config, "run", max_steps=0, max_epochs=1)
    with pytest.raises(UserError, match=r"begun with train\.max_steps 0, not 99"):
        trained(config, "run", max_steps=99, max_epochs=2)
    with pytest.raises(UserError, match=r"begun with train\.learning_rate"):
        trained(config, "run", max_steps=0, max_epochs=3, learning_rate=0.02)


def test_what_ended_a_run_is_told(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"patience": 1, "learning_rate": 1e-12, "validate_every": 2}
    run = trained(config, "run", **settings)
    steps = len(logged(run, "loss"))
    trained(config, "run", max_steps=30, **settings)
    assert "this run is finished, by train.patience" in capsys.readouterr().err
    assert len(logged(run, "loss")) == steps < 20


def test_a_run_that_is_killed_after_its_limit_was_raised_is_not_taken_for_finished(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(config, "whole", max_steps=30)
    trained(config, "killed")

    def killed(*_: object) -> None:
        raise SystemError

    with monkeypatch.context() as patch, pytest.raises(SystemError):
        patch.setattr("mt.training.run._take_part", killed)  # the new config is written, the log still says finished
        trained(config, "killed", max_steps=30)
    with pytest.raises(UserError, match=r"begun with train\.max_steps 30, not 20"):
        trained(config, "killed")
    after = last(trained(config, "killed", max_steps=30))
    assert all(torch.equal(value, after[name]) for name, value in last(whole).items())
