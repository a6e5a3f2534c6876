"""What tests of several areas share: a tiny model with random weights, and commands run as a user runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    from mt.corpus.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[1]

# A busy machine is slow now and then; a test fails on what it computes, not on how long that took.
hypothesis.settings.register_profile("mt", deadline=None, database=None)
hypothesis.settings.load_profile("mt")

# No test reaches the network.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

CONFIG = """\
run_dir: {run_dir}
data:
  source_language: de
  target_language: en
  train: [{{source: [train.de], target: [train.en]}}]
  valid: [{{source: [train.de], target: [train.en]}}]
  root: {root}
  cleaning: {{overlap: false}}
tokenizer: {{vocabulary_size: 64}}
model: {{width: 16, encoder_layers: 1, decoder_layers: 1, encoder_heads: 2, decoder_heads: 2,
        encoder_feed_forward: 32, decoder_feed_forward: 32}}
train: {{max_steps: 2, batch_tokens: 256, max_length: 64, validate_every: 2, warmup_steps: 1}}
threads: 1
"""

GERMAN = ["ein Hund läuft", "eine Katze schläft", "der Mann singt ein Lied", "die Frau liest ein Buch"]
ENGLISH = ["a dog runs", "a cat sleeps", "the man sings a song", "the woman reads a book"]


@pytest.fixture
def tiny_config(tmp_path: Path) -> Path:
    """A config file of a run that trains a tiny model for two steps on 100 pairs, all below `tmp_path`."""
    (tmp_path / "train.de").write_text("".join(f"{line} {number}\n" for number in range(25) for line in GERMAN))
    (tmp_path / "train.en").write_text("".join(f"{line} {number}\n" for number in range(25) for line in ENGLISH))
    path = tmp_path / "tiny.yaml"
    path.write_text(CONFIG.format(run_dir=tmp_path / "run", root=tmp_path))
    return path


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Tokenizer:
    """The pieces of `tiny_model`."""
    from mt.config import TokenizerConfig
    from mt.corpus.tokenizer import train_tokenizer

    return train_tokenizer(TokenizerConfig(vocabulary_size=64), GERMAN, ENGLISH)


@pytest.fixture
def tiny_model(tiny_config: Path, tiny_tokenizer: Tokenizer) -> Path:
    """A model directory with random weights, the same in every test."""
    import torch

    from mt.config_file import read_config
    from mt.model.directory import build_model, save_model

    torch.manual_seed(1)  # some draws end at once, or have two outputs that are equally likely
    config = read_config(tiny_config)
    folder = tiny_config.parent / "model"
    folder.mkdir()
    save_model(folder, build_model(config, tiny_tokenizer), tiny_tokenizer, config, {"step": 0})
    return folder


RunCommand = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_command(tmp_path: Path) -> RunCommand:
    """Runs a script of the repository from another folder: `run_command("train.py", "x.yaml", stdin="")`."""

    def run(script: str, *arguments: object, stdin: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / script), *map(str, arguments)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
        return subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            encoding="utf-8",
            cwd=tmp_path,
            env=environment,
            timeout=120,
            check=False,
            **options,
        )

    return run
