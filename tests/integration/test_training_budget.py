"""A budget of minutes becomes a number of updates once; a killed run ends bit for bit as if it had been given."""

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


COUNTING = """
import sys
sys.path.insert(0, {root!r})
from mt.training.resources import Budget
Budget.updates = lambda *arguments: {steps}
Budget.measured_enough = True
from mt.cli.main import main
sys.exit(main("train"))
"""
"""train.py on a machine that counts so many updates"""


def command(config: Path, run: Path, *options: str, steps: int = 0) -> list[str]:
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
    }
    words = [str(word) for pair in settings.items() for word in pair]
    script = ROOT / "train.py"
    if steps:
        script = config.parent / f"count_{steps}.py"
        script.write_text(COUNTING.format(root=str(ROOT), steps=steps))
    return [sys.executable, str(script), str(config), *words, *options]


@pytest.mark.slow
def test_a_killed_run_keeps_the_number_of_updates_that_its_budget_gave(tiny_config: Path) -> None:
    run, given = tiny_config.parent / "budget", tiny_config.parent / "given"
    first, later = (command(tiny_config, run, "--train.budget_minutes", "5", steps=steps) for steps in (200, 90))
    process = subprocess.Popen(first, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not any(event["step"] >= 50 for event in events(run)):  # counted after 30, saved after 45
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    done = subprocess.run(later, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "going on after update" in done.stderr
    counted = next(event for event in events(run) if event["event"] == "budget")
    assert counted["steps"] == 200
    trained = [event for event in events(run) if event["event"] == "train"]
    assert trained[-1]["step"] == counted["steps"]
    assert trained[-1]["learning_rate"] == 1e-5
    assert events(run)[-1]["event"] == "finished"

    whole = command(tiny_config, given, "--train.max_steps", str(counted["steps"]))
    done = subprocess.run(whole, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    last = [run / "checkpoints" / (run / "last").read_text().strip() / "meta.json" for run in (run, given)]
    assert len({json.loads(path.read_text())["weights_blake2b"] for path in last}) == 1
    losses = [[e["loss"] for e in events(folder) if e["event"] == "train"] for folder in (run, given)]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_a_budget_ends_about_when_it_says(tiny_config: Path) -> None:
    run = tiny_config.parent / "budget"
    started = time.monotonic()
    done = subprocess.run(
        command(tiny_config, run, "--train.budget_minutes", "0.2"),
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "train.budget_minutes 0.2: " in done.stderr
    # The program's start comes on top, and a machine that is busy with other things changes its pace.
    assert 6 < time.monotonic() - started < 60
