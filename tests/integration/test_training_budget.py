"""A budget of minutes becomes updates: the real training loop by a simulated clock."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SIMULATED = """
import os, signal, sys
from types import SimpleNamespace
sys.path.insert(0, {root!r})
import mt.cli.main, mt.cli.train
from mt.training import resources, run

load, kill_at, now = eval(sys.argv.pop(1)), int(sys.argv.pop(1)), 0.0
for module in (mt.cli.train, resources, run):
    module.time = SimpleNamespace(monotonic=lambda: now)


def costs(function, seconds):
    def timed(self, *given):
        global now
        step = self.state.step if function is update else 0
        if kill_at and step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        now += seconds * load(now)
        return function(self, *given)

    return timed


update = run.Training.update
run.Training.update = costs(update, 0.125)
run.Validator.measure = costs(run.Validator.measure, 1.0)
run.Validator.estimated_seconds = lambda self, model: 0.75 * load(now)
sys.exit(mt.cli.main.main("train"))
"""
"""train.py LOAD KILL_AT ...: an update takes 1/8 s and a validation a second, times what the load says for the seconds
that are gone; killed before the update behind KILL_AT"""

pytestmark = pytest.mark.slow


def trained(config: Path, run: Path, load: str = "lambda now: 1", kill_at: int = 0, **changes: object) -> list[Any]:
    """The events of the log of a run with a budget of half a minute; it is continued where it exists."""
    settings = {"max_steps": 0, "schedule": "cosine", "warmup_steps": 20, "batch_tokens": 128, "budget_minutes": 0.5}
    settings |= {"validate_every": 40, "checkpoint_every": 15, "log_every": 5, **changes}
    options = [word for name, value in settings.items() for word in (f"--train.{name}", str(value))]
    script = config.parent / "simulated.py"
    script.write_text(SIMULATED.format(root=str(ROOT)))
    command = [sys.executable, str(script), load, str(kill_at), str(config), "--run_dir", str(run), *options]
    command += ["--data.cache", str(config.parent / "cache"), "--model.dropout", "0.2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == (-9 if kill_at else 0), done.stderr
    return [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def of(events: list[Any], name: str, figure: str) -> list[Any]:
    return [event[figure] for event in events if event["event"] == name]


def test_validations_between_do_not_disturb_the_plan(tiny_config: Path) -> None:
    events = trained(tiny_config, tiny_config.parent / "run")
    # 29.7 s: 229 updates of 1/8 s but for one validation at the end and five between, of a second: 189.6
    assert of(events, "budget", "steps") == [pytest.approx(190, abs=4)]
    assert len(of(events, "valid", "step")) == 5 and events[-1]["step"] == 189
    assert of(events, "train", "learning_rate")[-1] == 0.0


@pytest.mark.parametrize(
    "load", ["2.5 if now > 9 else 1", "3 if 6 < now < 18 else 1", "2 if now < 15 else 1", "10 if now > 24 else 1"]
)
def test_whatever_load_comes_or_goes_a_run_ends_on_time_at_zero(tiny_config: Path, load: str) -> None:
    events = trained(tiny_config, tiny_config.parent / "run", f"lambda now: {load}", validate_every=80)
    rates = of(events, "train", "learning_rate")
    assert rates[-1] == 0.0
    assert all(after <= before for before, after in pairwise(rates[3:]))
    print(load, of(events, "train", "spent")[-1], of(events, "train", "step")[-1])


def test_a_killed_run_ends_as_one_that_was_not(tiny_config: Path) -> None:
    load, runs = "lambda now: 3 if 6 < now < 18 else 1", [tiny_config.parent / name for name in ("whole", "killed")]
    logs = [trained(tiny_config, runs[0], load)]
    print(logs[0][-1])
