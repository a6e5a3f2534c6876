"""Processes share an update: the same gradient, and one failure ends all."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch._C._distributed_c10d import HashStore

from mt.config import LossConfig, ModelConfig
from mt.errors import UserError
from mt.losses.build import build_loss
from mt.model.transformer import Transformer
from mt.training.alarm import Alarm
from mt.training.batch import Batch, add_gradients
from mt.training.launch import own_processes
from mt.training.parallel import Gradients, Group

VOCABULARY = 40


class Pairs:
    """40 random pairs of 2 to 12 tokens, the last one the end of sentence (3)."""

    def __init__(self) -> None:
        generator = np.random.default_rng(5)

        def sentence() -> np.ndarray:
            return np.append(generator.integers(4, VOCABULARY, generator.integers(1, 12)), 3).astype(np.int32)

        self.pairs = [(sentence(), sentence()) for _ in range(40)]

    def source(self, index: int) -> np.ndarray:
        return self.pairs[index][0]

    def target(self, index: int) -> np.ndarray:
        return self.pairs[index][1]


def gradient_of_two_updates(group: Group, file: str, double: bool) -> None:
    """One of 7 batches of very different sizes, one of a single batch: fewer than there are processes."""
    torch.manual_seed(0)
    config = ModelConfig(
        width=16, encoder_layers=1, decoder_layers=1, encoder_feed_forward=32, decoder_feed_forward=32, dropout=0.2
    )
    model = Transformer(config, VOCABULARY, VOCABULARY, pad_id=0).train()
    model = model.double() if double else model
    loss = build_loss(LossConfig(), pad_id=0, begin_id=2, vocabulary_size=VOCABULARY)
    gradients, found = Gradients(model, group), {}
    parts = np.split(np.arange(40), [1, 3, 4, 20, 22, 39])
    for update, batches in enumerate([parts, parts[:1]]):
        gradients.clear()
        for number in range(group.rank, len(batches), group.world):
            batch = Batch(Pairs(), batches[number], SimpleNamespace(pad_id=0, begin_id=2), torch.device("cpu"))  # type: ignore[arg-type]
            torch.manual_seed(number)
            add_gradients(model, batch, loss, gradients)
        figures = gradients.reduce()
        assert figures["tokens"] == sum(len(Pairs().target(index)) for part in batches for index in part)
        found[f"gradient {update}"] = gradients.flat.clone()
    if group.leads:
        save_file(found, file)


@pytest.mark.parametrize(("world", "double", "tolerance"), [(2, False, 1e-6), (3, False, 1e-6), (3, True, 1e-14)])
def test_processes_give_the_gradient_of_one(world: int, double: bool, tolerance: float, tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("alone", "together")]
    gradient_of_two_updates(Group(), files[0], double)
    with own_processes(world, gradient_of_two_updates, files[1], double) as group:
        gradient_of_two_updates(group, files[1], double)
    alone, together = (load_file(file) for file in files)
    for name, gradient in alone.items():
        assert float(gradient.norm()) > 0.1
        torch.testing.assert_close(gradient, together[name], atol=tolerance, rtol=tolerance)


def values(group: Group, expected: list[str]) -> None:
    assert group.share(f"from {group.rank}") == "from 0"
    assert group.gather(f"from {group.rank}") == (expected if group.leads else [])


def test_values_are_shared_and_gathered() -> None:
    expected = ["from 0", "from 1"]
    with own_processes(2, values, expected) as group:
        values(group, expected)
    values(Group(), ["from 0"])


def fails(group: Group) -> None:
    if not group.leads:
        raise UserError("the data is not there; fetch it")
    group.share(None)
    group.share(None)


def test_the_leader_tells_why_a_process_of_its_own_has_failed() -> None:
    with pytest.raises(UserError, match="^the data is not there; fetch it$"), own_processes(2, fails) as group:
        fails(group)


def test_the_first_failure_is_the_one_that_is_told() -> None:
    store = HashStore()
    first, second, speaker, silent = (
        Alarm(store, 1, machine, speaks) for machine, speaks in [("a", True), ("a", True), ("b", True), ("b", False)]
    )
    assert speaker.heard(patience=0) is None
    assert first.sound("no memory")
    assert not second.sound("the others have gone")
    ending = speaker.heard()
    assert isinstance(ending, UserError) and str(ending) == "no memory"
    for alarm in (second, silent):  # one line a machine is enough
        assert isinstance(alarm.heard(), SystemExit)


def test_a_process_that_waits_for_ever_is_ended_by_its_alarm() -> None:
    program = (
        "import time; from torch._C._distributed_c10d import HashStore; import mt.training.alarm as alarm\n"
        "alarm._POLL = alarm._GRACE = 0.1\n"
        "store = HashStore(); alarm.Alarm(store, 1, 'b', True).watch()\n"
        "alarm.Alarm(store, 1, 'a', True).sound('gone')\n"
        "time.sleep(60)\n"
    )
    started = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert (ended.returncode, ended.stderr) == (2, "error: gone\n")
    assert time.monotonic() - started < 50
