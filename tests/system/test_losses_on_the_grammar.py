"""Every loss trains on text of the shipped grammar, as a user would run it: the loss falls, and so does the NLL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

CONFIG = """\
run_dir: {run_dir}
data:
  source_language: de
  target_language: en
  train: [{{grammar: {{pairs: 2000, seed: 1}}}}]
  valid: [{{grammar: {{pairs: 20, seed: 2}}, split: valid}}]
  cache: {cache}
tokenizer: {{vocabulary_size: 500}}
model: {{width: 64, encoder_layers: 1, decoder_layers: 1, encoder_feed_forward: 128, decoder_feed_forward: 128}}
loss: {loss}
train: {{max_steps: 80, batch_tokens: 1024, learning_rate: 3.0e-3, warmup_steps: 20, log_every: 10}}
threads: 1
"""

LOSSES = {
    "{name: label_smoothed_kl}": "ls:0.1|target:uniform_nopad|kl",
    "{name: label_smoothed_kl, smoothing: 0}": "ls:0|target:hard|kl",
    "{definition: unigram}": "ls:0.1|target:unigram|kl",
    "{name: encouraging, log_end: 0.5}": "el|log_end:0.5|ls:0.1|target:uniform_nopad|excluded:pad,bos",
    "{name: encouraging, log_end: 1, smoothing: 0}": "el|log_end:1|ls:0|target:hard|excluded:pad,bos",
    "{name: encouraging, reference: true}": "el|log_end:0.5|ls:0.1|target:uniform|reference:clamp1e-05",
    "{name: focal}": "focal|gamma:2",
    "{name: inverse_focal}": "inverse_focal|gamma:1|scale:1",
    "{name: confidence_penalty}": "confidence_penalty|beta:0.1",
    "{name: r_drop}": "r_drop|alpha:5|ls:0.1|target:uniform_nopad|kl",
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The text is drawn and prepared once for all runs."""
    return tmp_path_factory.mktemp("prepared")


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_falls_and_is_named_in_the_log(loss: str, cache: Path, tmp_path: Path, run_command: Any) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG.format(run_dir=tmp_path / "run", cache=cache, loss=loss))
    done = run_command("train.py", path)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert events[0]["loss"] == LOSSES[loss]
    steps = [event for event in events if event["event"] == "train"]
    assert steps[0]["nll"] - steps[-1]["nll"] > 1
    assert steps[0]["loss"] - steps[-1]["loss"] > 1
    meta = json.loads(next((tmp_path / "run" / "checkpoints").glob("step_*/meta.json")).read_text())
    assert meta["loss"] == LOSSES[loss]
