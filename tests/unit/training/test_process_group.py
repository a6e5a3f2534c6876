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
from torch.distributed import HashStore  # type: ignore[attr-defined]

from mt.config import LossConfig, ModelConfig
from mt.errors import UserError
from mt.losses.build import build_loss
from mt.model.transformer import Transformer
from mt.training.data import Batch
from mt.training.distributed import Failures, Group, own_processes
from mt.training.loss import add_gradients
from mt.training.optimiser import Gradients

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


def gradients_of_two_updates(group: Group, file: str) -> None:
    """One of 7 batches of very different sizes, one of a single batch: fewer than there are processes."""
    config = ModelConfig(
        width=16, encoder_layers=1, decoder_layers=1, encoder_feed_forward=32, decoder_feed_forward=32, dropout=0.2
    )
    loss = build_loss(LossConfig(), pad_id=0, begin_id=2, vocabulary_size=VOCABULARY)
    parts, found = np.split(np.arange(40), [1, 3, 4, 20, 22, 39]), {}
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        model = Transformer(config, VOCABULARY, VOCABULARY, pad_id=0).train().to(dtype)
        gradients = Gradients(model, group)
        for update, batches in enumerate([parts, parts[:1]]):
            gradients.clear()
            for number in range(group.rank, len(batches), group.world_size):
                batch = Batch(Pairs(), batches[number], SimpleNamespace(pad_id=0, begin_id=2), torch.device("cpu"))  # type: ignore[arg-type]
                torch.manual_seed(number)
                add_gradients(model, batch, loss, gradients)
            figures = gradients.reduce()
            assert figures["tokens"] == sum(len(Pairs().target(index)) for part in batches for index in part)
            found[f"gradient {update} {dtype}"] = gradients.flat.clone()
    # What is not a tensor goes from one to all, and from all to one.
    assert group.broadcast(f"from {group.rank}") == "from 0"
    gathered = group.gather(f"from {group.rank}")
    assert gathered == ([f"from {rank}" for rank in range(group.world_size)] if group.is_main else [])
    if group.is_main:
        save_file(found, file)


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_give_the_gradient_of_one_and_hear_of_each_other(world_size: int, tmp_path: Path) -> None:
    files = [str(tmp_path / name) for name in ("alone", "together")]
    gradients_of_two_updates(Group(), files[0])
    with own_processes(world_size, gradients_of_two_updates, files[1]) as group:
        gradients_of_two_updates(group, files[1])
    alone, together = (load_file(file) for file in files)
    assert len(alone) == 4
    for name, gradient in alone.items():
        tolerance = 1e-6 if gradient.dtype == torch.float32 else 1e-14
        assert float(gradient.norm()) > 0.1
        torch.testing.assert_close(gradient, together[name], atol=tolerance, rtol=tolerance)


def fails(group: Group) -> None:
    if not group.is_main:
        raise UserError("the data is not there; fetch it")
    group.broadcast(None)
    group.broadcast(None)


def test_the_main_process_tells_why_a_process_of_its_own_has_failed() -> None:
    with pytest.raises(UserError, match="^the data is not there; fetch it$"), own_processes(2, fails) as group:
        fails(group)


def test_the_first_failure_is_the_one_that_is_told() -> None:
    store = HashStore()
    first, second, telling, silent = (
        Failures(store, 1, machine, tells) for machine, tells in [("a", True), ("a", True), ("b", True), ("b", False)]
    )
    assert telling.received(patience=0) is None
    assert first.notify("no memory")
    assert not second.notify("the others have gone")
    ending = telling.received()
    assert isinstance(ending, UserError) and str(ending) == "no memory"
    for failures in (second, silent):  # one line a machine is enough
        assert isinstance(failures.received(), SystemExit)


def test_a_process_that_waits_for_ever_is_ended_by_its_watch() -> None:
    program = (
        "import time; from torch.distributed import HashStore; import mt.training.distributed as distributed\n"
        "distributed._POLL = distributed._GRACE = 0.1\n"
        "store = HashStore(); distributed.Failures(store, 1, 'b', True).watch()\n"
        "distributed.Failures(store, 1, 'a', True).notify('gone')\n"
        "time.sleep(60)\n"
    )
    started = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert (ended.returncode, ended.stderr) == (2, "error: gone\n")
    assert time.monotonic() - started < 50
