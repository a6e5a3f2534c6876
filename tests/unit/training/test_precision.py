"""`train.precision: auto`: measured once, told, and kept by the state that checkpoints hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import mt.training.setup
from mt.config_file import read_config
from mt.training.checkpoint import TrainState
from mt.training.distributed import Group
from mt.training.setup import choose_precision

CPU = torch.device("cpu")


class Log:
    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def event(self, name: str, step: int, **figures: Any) -> None:
        self.events.append({"event": name, "step": step, **figures})


@pytest.mark.parametrize(("speed", "expected"), [(0.0, "float32"), (1.2, "float32"), (1.4, "bfloat16")])
def test_auto_takes_what_is_the_faster_and_says_so(
    tiny_config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], speed: float, expected: str
) -> None:
    monkeypatch.setattr(mt.training.setup, "bfloat16_speed", lambda width: speed)
    log: Any = Log()
    state, config = TrainState(), read_config(tiny_config)
    assert choose_precision(config, CPU, Group(), state, log) == state.precision == expected
    assert log.events == [{"event": "precision", "step": 0, "precision": expected, "bfloat16_speed": speed}]
    said = capsys.readouterr().err
    assert f"train.precision auto: {expected}" in said
    assert ("times as fast here" in said) is (speed > 0)


def test_a_run_that_goes_on_keeps_its_format_on_another_machine(
    tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mt.training.setup, "bfloat16_speed", lambda width: pytest.fail("measured again"))
    assert (
        choose_precision(read_config(tiny_config), CPU, Group(), TrainState(precision="bfloat16"), None) == "bfloat16"
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_given_overrides(tiny_config: Path, monkeypatch: pytest.MonkeyPatch, precision: Any) -> None:
    monkeypatch.setattr(mt.training.setup, "bfloat16_speed", lambda width: pytest.fail("measured"))
    config = read_config(tiny_config)
    config = replace(config, train=replace(config.train, precision=precision))
    assert choose_precision(config, CPU, Group(), TrainState(), None) == precision
