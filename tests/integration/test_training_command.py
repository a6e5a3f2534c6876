"""train.py as a user runs it: a disturbed run ends bit for bit as an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ["null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"]
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SETTINGS = """
run_dir: {run}
data:
  root: {root}
  source_language: de
  target_language: en
  train: [{{source: [train.de], target: [train.en]}}]
  valid: [{{source: [valid.de], target: [valid.en]}}]
tokenizer: {{vocabulary_size: 60, sampling: 0.2}}
model: {{width: 16, encoder_layers: 1, decoder_layers: 1, encoder_heads: 2, decoder_heads: 2,
  encoder_feed_forward: 32, decoder_feed_forward: 32, dropout: 0.1}}
train: {{max_steps: 60, batch_tokens: 256, max_length: 64, learning_rate: 0.01, warmup_steps: 10, validate_every: 25,
  checkpoint_every: 5, log_every: 5, ema_decay: 0.9, accumulate: 2, average: last,
  average_count: 2}}
decode: {{beam: 2, max_length: 64, max_length_extra: 5, batch_tokens: 512}}
threads: 2
"""


def write_corpus(folder: Path, split: str, count: int, seed: int) -> None:
    generator = random.Random(seed)
    numbers = [[generator.randrange(10) for _ in range(generator.randint(1, 8))] for _ in range(count)]
    for language, words in (("de", DIGITS), ("en", WORDS)):
        lines = [" ".join(words[digit] for digit in row) + "\n" for row in numbers]
        (folder / f"{split}.{language}").write_text("".join(lines), encoding="utf-8")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    # enough for an epoch of some twenty updates: with sampling every epoch costs a process of its own
    write_corpus(folder, "train", 1200, 1)
    write_corpus(folder, "valid", 10, 2)
    return folder


def command(corpus: Path, run: Path, *options: str) -> list[str]:
    config = run.parent / f"{run.name}.yaml"
    config.write_text(SETTINGS.format(run=run, root=corpus), encoding="utf-8")
    return [sys.executable, str(ROOT / "train.py"), str(config), *options]


def train(corpus: Path, run: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(corpus, run, *options), capture_output=True, text=True, timeout=300)


def events(run: Path) -> list[dict[str, Any]]:
    path = run / "log.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def weights(run: Path) -> str:
    last = (run / "last").read_text().strip()
    fingerprint: str = json.loads((run / "checkpoints" / last / "meta.json").read_text())["weights_blake2b"]
    return fingerprint


def interrupt(corpus: Path, run: Path, number: signal.Signals, step: int, *options: str) -> int:
    """Starts a run and sends it a signal as soon as its log shows this update."""
    process = subprocess.Popen(command(corpus, run, *options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not any(event["step"] >= step for event in events(run)):
        assert process.poll() is None and time.monotonic() < deadline, "the run ended before it could be stopped"
        time.sleep(0.01)
    os.kill(process.pid, number)
    return process.wait(timeout=60)


@pytest.fixture(scope="module")
def undisturbed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    done = train(corpus, run)
    assert done.returncode == 0, done.stderr
    return run


def test_a_run_killed_and_then_stopped_by_control_c_ends_with_the_same_weights_and_log(
    corpus: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "disturbed"
    assert interrupt(corpus, run, signal.SIGKILL, 10) == -signal.SIGKILL
    assert interrupt(corpus, run, signal.SIGINT, 30) == 130
    done = train(corpus, run)
    assert done.returncode == 0, done.stderr
    assert "going on after update" in done.stderr
    assert weights(run) == weights(undisturbed)

    def figures(folder: Path) -> list[tuple[Any, ...]]:
        return [(e["event"], e["step"], e.get("loss"), e.get("nll"), e.get("bleu")) for e in events(folder)]

    assert figures(run) == figures(undisturbed)


def test_a_run_directory_holds_what_the_contract_says(undisturbed: Path) -> None:
    best = (undisturbed / "best").read_text().strip()
    files = {path.name for path in (undisturbed / "checkpoints" / best).iterdir()}
    assert {
        "config.yaml",
        "tokenizer.model",
        "model.safetensors",
        "meta.json",
        "training.safetensors",
        "training.json",
    } <= files
    assert {"config.yaml", "log.jsonl", "cleaning.json", "tensorboard"} <= {p.name for p in undisturbed.iterdir()}
    names = [event["event"] for event in events(undisturbed)]
    assert names[0] == "start" and names[-1] == "finished"
    valid = [event for event in events(undisturbed) if event["event"] == "valid"]
    assert [event["step"] for event in valid] == [25, 50, 60]
    assert {"nll", "perplexity", "accuracy", "ece", "bleu", "chrf"} <= valid[0].keys()
    trained = [event["nll"] for event in events(undisturbed) if event["event"] == "train"]
    assert trained[-1] < trained[0] - 0.2


def test_one_process_makes_the_same_updates_as_two(corpus: Path, undisturbed: Path, tmp_path: Path) -> None:
    run = tmp_path / "alone"
    assert train(corpus, run, "--threads", "1").returncode == 0
    assert [events(folder)[0]["processes"] for folder in (run, undisturbed)] == [1, 2]
    alone, together = (
        [(e["step"], e["loss"], e["tokens"]) for e in events(folder) if e["event"] == "train"]
        for folder in (run, undisturbed)
    )
    assert len(alone) == 12
    for one, other in zip(alone, together):
        assert one == pytest.approx(other, rel=1e-4)


def test_a_finished_run_is_left_alone(corpus: Path, undisturbed: Path) -> None:
    before = (undisturbed / "log.jsonl").read_bytes()
    config = undisturbed.parent / "undisturbed.yaml"
    done = subprocess.run([sys.executable, str(ROOT / "train.py"), str(config)], capture_output=True, text=True)
    assert done.returncode == 0
    assert "finished" in done.stderr
    assert (undisturbed / "log.jsonl").read_bytes() == before


def test_another_config_is_refused_in_one_line(corpus: Path, undisturbed: Path) -> None:
    done = train(corpus, undisturbed, "--train.learning_rate", "0.02")
    assert done.returncode == 2
    assert "train.learning_rate" in done.stderr and done.stderr.count("\n") == 1


def test_fine_tuning_starts_from_the_weights_and_the_tokeniser_of_a_model(
    corpus: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "tuned"
    done = train(
        corpus,
        run,
        "--train.init_from",
        str(undisturbed),
        "--train.max_steps",
        "1",
        "--train.learning_rate",
        "1e-9",
        "--tokenizer.sampling",
        "0",
    )
    assert done.returncode == 0, done.stderr
    first = next(event for event in events(run) if event["event"] == "valid")
    best = (undisturbed / "best").read_text().strip()
    scores = {f"step_{e['step']:08d}": e["nll"] for e in events(undisturbed) if e["event"] == "valid"}
    assert first["nll"] == pytest.approx(scores[best], abs=1e-4)


def test_a_student_killed_on_its_way_ends_as_one_that_was_not_whatever_the_number_of_processes(
    corpus: Path, undisturbed: Path, tmp_path: Path
) -> None:
    options = ["--train.teacher", str(undisturbed), "--train.teacher_weight", "0.7", "--train.teacher_temperature", "2"]
    options += ["--model.width", "8", "--train.max_steps", "20", "--train.average", "none", "--train.log_every", "1"]
    options += ["--tokenizer.sampling", "0"]
    whole, killed, alone = (tmp_path / name for name in ("whole", "killed", "alone"))
    assert interrupt(corpus, killed, signal.SIGKILL, 8, *options) == -signal.SIGKILL
    for run, threads in ((whole, "2"), (killed, "2"), (alone, "1")):
        done = train(corpus, run, *options, "--threads", threads)
        assert done.returncode == 0, done.stderr
        assert ("going on after update" in done.stderr) is (run == killed)
    assert weights(killed) == weights(whole)
    assert [events(run)[0]["processes"] for run in (whole, alone)] == [2, 1]
    logs = [[(e["loss"], e["nll"]) for e in events(run) if e["event"] == "train"] for run in (whole, killed, alone)]
    assert len(logs[0]) == 20 and logs[0] == logs[1]
    for one, other in zip(logs[0], logs[2], strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    assert logs[0][-1][0] < logs[0][0][0] - 0.2


def test_averaged_checkpoints_become_a_model(undisturbed: Path) -> None:
    meta = json.loads((undisturbed / "checkpoints" / "average" / "meta.json").read_text())
    assert meta["average_of"] == ["step_00000060", "step_00000050"]
    folders = [undisturbed / "checkpoints" / name for name in ("average", *meta["average_of"])]
    mean, last, before = (load_file(folder / "model.safetensors") for folder in folders)
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, (last[name] + before[name]) / 2)


def test_a_failed_first_attempt_leaves_nothing_and_may_be_corrected(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "corrected"
    failed = train(corpus, run, "--train.max_steps", "1", "--data.root", str(tmp_path / "nowhere"))
    assert failed.returncode == 2 and failed.stderr.count("\n") == 1
    assert not run.exists()
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").write_text(SETTINGS.format(run=run, root=corpus))  # a start that was killed early
    done = train(corpus, run, "--train.max_steps", "1", "--train.average", "none")
    assert done.returncode == 0, done.stderr
    assert (run / "last").read_text() == "step_00000001\n"


def test_a_diverging_run_ends_in_one_line_and_saves_nothing_broken(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "diverging"
    done = train(
        corpus,
        run,
        "--train.learning_rate",
        "10",
        "--train.weight_decay",
        "100",
        "--train.warmup_steps",
        "0",
        "--train.clip_norm",
        "0",
        "--train.log_every",
        "50",
        "--train.validate_every",
        "20",
        "--train.checkpoint_every",
        "0",
        "--train.max_steps",
        "40",
    )
    assert done.returncode == 2
    assert "diverged" in done.stderr and "learning_rate" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (run / "last").exists()
