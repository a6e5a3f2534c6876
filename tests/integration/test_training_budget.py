"""A budget of minutes becomes a number of updates once; a killed run ends bit for bit as if it had been given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def events(run: Path) -> list[dict[str, Any]]:
    path = run / "log.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def command(config: Path, run: Path, *options: str) -> list[str]:
    settings = {
        "--run_dir": run, "--train.max_steps": 0, "--train.schedule": "warmup_stable_decay",
        "--train.decay_share": 0.5, "--data.cache": run.parent / "cache",
        "--train.final_learning_rate": 1e-5, "--train.validate_every": 0, "--train.checkpoint_every": 15,
        "--train.log_every": 5, "--train.batch_tokens": 128, "--model.dropout": 0.2,
    }  # fmt: skip
    words = [str(word) for pair in settings.items() for word in pair]
    return [sys.executable, str(ROOT / "train.py"), str(config), *words, *options]


def test_a_killed_run_keeps_the_number_of_updates_that_its_budget_gave(tiny_config: Path) -> None:
    run, given = tiny_config.parent / "budget", tiny_config.parent / "given"
    with_budget = command(tiny_config, run, "--train.budget_minutes", "0.3")
    started = time.monotonic()
    process = subprocess.Popen(with_budget, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not any(event["event"] == "budget" for event in events(run)[:-4]):  # a checkpoint has followed it
        assert process.poll() is None and time.monotonic() - started < 120
        time.sleep(0.01)
    process.kill()
    process.communicate()
    time.sleep(0.5)
    counted = next(event for event in events(run) if event["event"] == "budget")
    done = subprocess.run(with_budget, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "going on after update" in done.stderr
    assert [event["steps"] for event in events(run) if event["event"] == "budget"] == [counted["steps"]]
    trained = [event for event in events(run) if event["event"] == "train"]
    assert trained[-1]["step"] == counted["steps"] > 30
    assert trained[-1]["learning_rate"] == 1e-5
    assert events(run)[-1]["event"] == "finished"

    whole = command(tiny_config, given, "--train.max_steps", str(counted["steps"]))
    done = subprocess.run(whole, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    last = [run / "checkpoints" / (run / "last").read_text().strip() / "meta.json" for run in (run, given)]
    assert len({json.loads(path.read_text())["weights_blake2b"] for path in last}) == 1
    losses = [[e["loss"] for e in events(folder) if e["event"] == "train"] for folder in (run, given)]
    assert losses[0] == losses[1]


def test_a_budget_ends_about_when_it_says(tiny_config: Path) -> None:
    run = tiny_config.parent / "budget"
    started = time.monotonic()
    done = subprocess.run(command(tiny_config, run, "--train.budget_minutes", "0.2"), capture_output=True, text=True,
                          timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "train.budget_minutes 0.2: " in done.stderr
    # The program's start comes on top, and a machine that is busy with other things changes its pace.
    assert 6 < time.monotonic() - started < 60
