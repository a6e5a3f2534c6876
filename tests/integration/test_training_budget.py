"""A budget of minutes becomes updates; on the same clock a killed run ends bit for bit as one that was not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def events(run: Path) -> list[dict[str, Any]]:
    path = run / "log.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


SIMULATED = """
import sys
sys.path.insert(0, {root!r})
from mt.training.resources import Budget


def measure(self):
    self.state.update_seconds = 0.1 if self.state.step < 60 else 0.2


Budget.measure, Budget.measured_enough = measure, True
Budget.took = lambda self, seconds: setattr(self.state, "validation_updates", 3.0)
Budget.spent = property(lambda self: 1 + 0.1 * self.state.step + 0.1 * max(0, self.state.step - 60))
from mt.cli.commands import main
sys.exit(main("train"))
"""
"""train.py by a clock on which updates take twice as long after the first 60"""


def command(config: Path, run: Path, minutes: float, simulated: bool = False) -> list[str]:
    settings = {
        "--run_dir": run,
        "--train.max_steps": 0,
        "--train.schedule": "warmup_stable_decay",
        "--train.decay_share": 0.5,
        "--data.cache": run.parent / "cache",
        "--train.final_learning_rate": 1e-5,
        "--train.validate_every": 0,
        "--train.checkpoint_every": 15,
        "--train.log_every": 5,
        "--train.batch_tokens": 128,
        "--model.dropout": 0.2,
        "--train.budget_minutes": minutes,
    }
    words = [str(word) for pair in settings.items() for word in pair]
    script = ROOT / "train.py"
    if simulated:
        script = config.parent / "simulated.py"
        script.write_text(SIMULATED.format(root=str(ROOT)))
    return [sys.executable, str(script), str(config), *words]


@pytest.mark.slow
def test_a_killed_run_ends_as_one_that_was_not(tiny_config: Path) -> None:
    run, whole = tiny_config.parent / "killed", tiny_config.parent / "whole"
    process = subprocess.Popen(
        command(tiny_config, run, 0.5, simulated=True), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while not any(event["step"] >= 80 for event in events(run)):  # saved after 75
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    for folder in (run, whole):
        given = command(tiny_config, folder, 0.5, simulated=True)
        done = subprocess.run(given, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert ("going on after update" in done.stderr) is (folder == run)
    logs = [events(folder) for folder in (run, whole)]
    planned = [event["steps"] for event in logs[1] if event["event"] == "budget"]
    # 29.7 s: 1 s and 280 updates of 0.1 s at first, in the end 6 s for 60 and the others at 0.2 s, a validation less.
    assert planned[0] > 200 and 165 < planned[-1] < 175
    trained = [[event for event in log if event["event"] == "train"] for log in logs]
    assert trained[0][-1]["step"] == logs[0][-1]["step"] < 180 and logs[0][-1]["event"] == "finished"
    assert trained[0][-1]["spent"] < 30
    assert len({tuple(event["learning_rate"] for event in each) for each in trained}) == 1
    assert [e["loss"] for e in trained[0]] == [e["loss"] for e in trained[1]]
    last = [folder / "checkpoints" / (folder / "last").read_text().strip() / "meta.json" for folder in (run, whole)]
    assert len({json.loads(path.read_text())["weights_blake2b"] for path in last}) == 1


@pytest.mark.slow
def test_a_budget_ends_about_when_it_says(tiny_config: Path) -> None:
    run = tiny_config.parent / "budget"
    started = time.monotonic()
    done = subprocess.run(
        command(tiny_config, run, 0.2),
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "train.budget_minutes 0.2: " in done.stderr
    rates = [event["learning_rate"] for event in events(run) if event["event"] == "train"]
    assert rates[-1] < 0.1 * max(rates)
    # The program's start comes on top, and a machine that is busy with other things changes its pace.
    assert 6 < time.monotonic() - started < 60
