"""The updates of a run in order, each with this process's batches, from any position on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from mt.config import Config
from mt.corpus.batching import plan_batches
from mt.corpus.prepare import Prepared, epoch_store
from mt.corpus.store import TokenStore
from mt.training.batch import Batch
from mt.training.memory import activation_bytes
from mt.training.parallel import Group

_CPU_ELEMENTS, _CPU_TOKENS = 1 << 17, 512
"""positions times width, and positions, that make a batch large enough for a processor"""
_AHEAD = 4
"""updates that a thread prepares while a GPU computes"""

Item = TypeVar("Item")


def batch_shape(config: Config, device: torch.device) -> tuple[int, int]:
    """Most positions of a batch, and batches of an update: as configured on a GPU, in smaller portions on a processor.

    There several small batches are as fast as a large one, need less memory, and can be shared among processes.
    """
    train, portions = config.train, 1
    if device.type == "cpu":
        enough = max(_CPU_TOKENS, _CPU_ELEMENTS // config.model.width, train.max_length)
        # A power of two, which two or four processes share evenly.
        portions = 1 << max(1, train.batch_tokens // enough).bit_length() - 1
    return train.batch_tokens // portions, train.accumulate * portions


class Update(NamedTuple):
    """What one update is made of."""

    batches: list[tuple[int, Batch]]
    """this process's share: number in the update, and batch"""
    done: int
    """batches of the epoch that are done after it, those of other processes too"""
    ends_epoch: bool


class Feed:
    """Data order of a run: a pure function of config and text, so that resuming needs only a position."""

    def __init__(self, config: Config, prepared: Prepared, group: Group, device: torch.device) -> None:
        self.config, self.prepared, self.group, self.device = config, prepared, group, device
        self.batch_tokens, self.batches = batch_shape(config, device)
        self._planned: tuple[int, TokenStore, list[np.ndarray]] | None = None

    def updates(self, epoch: int, done: int) -> Iterator[Update]:
        """All updates after `done` batches of an epoch, epoch after epoch.

        For a GPU a thread prepares them ahead. On a processor it would take from the cores that compute.
        """
        made = self._updates(epoch, done)
        return _ahead(made) if self.device.type == "cuda" else made

    def _updates(self, epoch: int, done: int) -> Iterator[Update]:
        train = self.config.train
        while train.max_epochs == 0 or epoch < train.max_epochs:
            store, plan = self.plan(epoch)
            for start in range(done, len(plan), self.batches):
                end = min(start + self.batches, len(plan))
                mine = range(start + self.group.rank, end, self.group.world)
                batches = [(number - start, self.batch(store, plan[number])) for number in mine]
                yield Update(batches, end, end == len(plan))
            epoch, done = epoch + 1, 0

    def batch(self, store: TokenStore, indices: np.ndarray) -> Batch:
        """These pairs of the store as a batch on the device."""
        return Batch(store, indices, self.prepared.tokenizer, self.device)

    def plan(self, epoch: int) -> tuple[TokenStore, list[np.ndarray]]:
        """The store of an epoch and the pairs of each of its batches; the last one asked for is kept."""
        if self._planned is None or self._planned[0] != epoch:
            self._planned = None  # the old one goes before the new one comes
            config, store = self.config, epoch_store(self.prepared, self.config, epoch)
            plan = plan_batches(
                store.source_lengths,
                store.target_lengths,
                batch_tokens=self.batch_tokens,
                max_length=config.train.max_length,
                seed=config.seed,
                epoch=epoch,
                weights=store.weights,
            )
            self._planned = epoch, store, plan
        return self._planned[1:]

    def updates_per_epoch(self) -> int:
        """As many as in the first epoch; others may be cut into a few more or less."""
        return -(-len(self.plan(0)[1]) // self.batches)

    def largest(self, epoch: int, passes: int) -> tuple[Batch, float]:
        """The batch of an epoch that needs the most memory, and an estimate of that in bytes."""
        store, plan = self.plan(epoch)
        filled = [indices for indices in plan if len(indices)]
        rows = np.array([len(indices) for indices in filled])
        source = np.array([store.source_lengths[indices].max() for indices in filled])
        target = np.array([store.target_lengths[indices].max() for indices in filled])
        needed = activation_bytes(rows, source, target, self.config, passes)
        most = int(needed.argmax())
        return self.batch(store, filled[most]), float(needed[most])


def _ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items; a thread makes the next few while the last one is used. An error comes in its place."""
    made: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(_AHEAD)
    ended = threading.Event()

    def put(item: Item | None, error: BaseException | None) -> None:
        while not ended.is_set():
            try:
                made.put((item, error), timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put(item, None)
                if ended.is_set():
                    return
            put(None, None)
        except BaseException as error:
            put(None, error)

    threading.Thread(target=work, name="batches ahead", daemon=True).start()
    try:
        while True:
            item, error = made.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        ended.set()
