"""The order of updates hangs on the position alone, and on nobody's help."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from mt.config import Config
from mt.config_file import read_config
from mt.corpus.prepare import prepare
from mt.training.feed import Feed, Update, _ahead
from mt.training.parallel import Group


@pytest.fixture
def config(tiny_config: Path) -> Config:
    config = read_config(tiny_config)
    return replace(config, train=replace(config.train, max_steps=0, max_epochs=2, accumulate=3, batch_tokens=128))


def feed(config: Config, rank: int = 0, world: int = 1) -> Feed:
    return Feed(config, prepare(config), Group(rank, world), torch.device("cpu"))


def contents(update: Update) -> tuple[dict[int, list[list[int]]], int, bool]:
    return {number: batch.source.tolist() for number, batch in update.batches}, update.done, update.ends_epoch


def test_updates_go_on_from_any_position(config: Config) -> None:
    whole = [contents(update) for update in feed(config).updates(0, 0)]
    first = next(number for number, (_, _, ends) in enumerate(whole, 1) if ends)
    assert first == feed(config).updates_per_epoch() > 3
    assert sum(ends for _, _, ends in whole) == 2 and whole[-1][2]
    for start in (2, first - 1, first, first + 3):
        done = 0 if start == first else whole[start - 1][1]
        assert [contents(update) for update in feed(config).updates(int(start >= first), done)] == whole[start:]
    assert list(feed(config).updates(2, 0)) == []


def test_processes_share_the_batches_of_each_update(config: Config) -> None:
    whole = [contents(update) for update in feed(config).updates(0, 0)]
    shares = [[contents(update) for update in feed(config, rank, 2).updates(0, 0)] for rank in range(2)]
    for number, (batches, done, ends) in enumerate(whole):
        mine, others = (share[number] for share in shares)
        assert mine[1:] == others[1:] == (done, ends)
        assert not mine[0].keys() & others[0].keys()
        assert {**mine[0], **others[0]} == batches


def test_what_is_made_ahead_is_the_same_and_an_error_comes_in_its_place() -> None:
    def failing() -> Iterator[int]:
        yield from range(10)
        raise OSError("no space")

    assert list(_ahead(iter(range(50)))) == list(range(50))
    items = _ahead(failing())
    assert list(islice(items, 10)) == list(range(10))
    with pytest.raises(OSError, match="no space"):
        next(items)


def test_the_thread_ends_with_the_one_that_is_served() -> None:
    items = _ahead(iter(range(10**9)))
    assert next(items) == 0
    thread = next(thread for thread in threading.enumerate() if thread.name == "batches ahead")
    items.close()  # type: ignore[attr-defined]
    thread.join(timeout=10)
    assert not thread.is_alive()
