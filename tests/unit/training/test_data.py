"""The order of updates hangs on the position alone; how a batch is cut into micro-batches on a processor."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from mt.config import Config, CorpusConfig, DataConfig, ModelConfig, TrainConfig
from mt.config_file import read_config
from mt.corpus.prepare import prepare
from mt.errors import UserError
from mt.training.data import Update, UpdateLoader, batch_shape, prefetch
from mt.training.distributed import Group


@pytest.fixture
def config(tiny_config: Path) -> Config:
    config = read_config(tiny_config)
    return replace(config, train=replace(config.train, max_steps=0, max_epochs=2, accumulate=3, batch_tokens=128))


def loader(config: Config, rank: int = 0, world_size: int = 1) -> UpdateLoader:
    return UpdateLoader(config, prepare(config), Group(rank, world_size), torch.device("cpu"))


def contents(update: Update) -> tuple[dict[int, list[list[int]]], int, bool]:
    return {number: batch.source.tolist() for number, batch in update.batches}, update.done, update.ends_epoch


def test_updates_go_on_from_any_position(config: Config) -> None:
    whole = [contents(update) for update in loader(config).updates(0, 0)]
    first = next(number for number, (_, _, ends) in enumerate(whole, 1) if ends)
    assert first == loader(config).updates_per_epoch() > 3
    assert sum(ends for _, _, ends in whole) == 2 and whole[-1][2]
    for start in (2, first - 1, first, first + 3):
        done = 0 if start == first else whole[start - 1][1]
        assert [contents(update) for update in loader(config).updates(int(start >= first), done)] == whole[start:]
    assert list(loader(config).updates(2, 0)) == []


def test_processes_deal_out_the_batches_of_each_update(config: Config) -> None:
    whole = [contents(update) for update in loader(config).updates(0, 0)]
    parts = [[contents(update) for update in loader(config, rank, 2).updates(0, 0)] for rank in range(2)]
    for number, (batches, done, ends) in enumerate(whole):
        mine, others = (part[number] for part in parts)
        assert mine[1:] == others[1:] == (done, ends)
        assert not mine[0].keys() & others[0].keys()
        assert {**mine[0], **others[0]} == batches


def test_the_batch_with_the_most_positions_is_found(config: Config) -> None:
    made = loader(config)
    batch = made.largest(0)
    all_batches = [
        batch for update in islice(made.updates(0, 0), made.updates_per_epoch()) for _, batch in update.batches
    ]
    assert len(all_batches) > 10
    assert batch.slots == max(each.slots for each in all_batches) > min(each.slots for each in all_batches)


def test_an_epoch_that_no_pair_has_its_turn_in_is_told_at_the_start(config: Config) -> None:
    """It would be looked for without end."""
    rare = [replace(corpus, weight=1e-300) for corpus in config.data.train]
    made = loader(replace(config, data=replace(config.data, train=rare)))
    for ask in (lambda: made.largest(0), made.updates_per_epoch, lambda: next(made.updates(1, 0))):
        with pytest.raises(UserError, match=r"data\.train: no pair has its turn in epoch [01]; raise the weights"):
            ask()


def test_what_is_prefetched_is_the_same_and_an_error_comes_in_its_place() -> None:
    def failing() -> Iterator[int]:
        yield from range(1, 11)
        raise OSError("no space")

    assert list(prefetch(iter(range(50)))) == list(range(50))
    items = prefetch(failing())
    assert list(islice(items, 10)) == list(range(1, 11))
    with pytest.raises(OSError, match="no space"):
        next(items)


def test_the_thread_that_prefetches_ends_with_the_one_that_is_served() -> None:
    items = prefetch(iter(range(10**9)))
    assert next(items) == 0
    thread = next(thread for thread in threading.enumerate() if thread.name.startswith("prefetch"))
    items.close()  # type: ignore[attr-defined]
    thread.join(timeout=10)
    assert not thread.is_alive()


def shape(width: int, batch_tokens: int, accumulate: int, device: str) -> tuple[int, int]:
    text = [CorpusConfig(source=["a"], target=["b"])]
    config = Config(
        run_dir="run",
        data=DataConfig(source_language="de", target_language="en", train=text, valid=text),
        model=ModelConfig(width=width),
        train=TrainConfig(max_steps=1, batch_tokens=batch_tokens, accumulate=accumulate),
    )
    return batch_shape(config, torch.device(device))


@pytest.mark.parametrize(
    ("width", "expected"), [(64, (2048, 2)), (128, (2048, 2)), (256, (1024, 4)), (512, (512, 8)), (1024, (512, 8))]
)
def test_a_large_batch_becomes_micro_batches_that_fit_the_width(width: int, expected: tuple[int, int]) -> None:
    assert shape(width, 4096, 1, "cpu") == expected


def test_micro_batches_are_a_power_of_two_and_multiply_the_batches_of_an_update() -> None:
    assert shape(256, 3500, 3, "cpu") == (1750, 6)
    assert shape(256, 300, 2, "cpu") == (300, 2)


def test_a_gpu_gets_batches_as_configured() -> None:
    assert shape(256, 4096, 2, "cuda") == (4096, 2)


def test_a_position_beyond_the_epoch_is_refused(config: Config) -> None:
    with pytest.raises(UserError, match=r"training\.json says that 1000000000 batches of an epoch of \d+ are done"):
        next(loader(config).updates(0, 10**9))
