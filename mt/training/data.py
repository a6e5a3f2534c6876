"""The data loader: the updates of a run in order, each with this process's batches, from any position on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from mt.config import Config
from mt.corpus.batching import pad_batch, plan_batches
from mt.corpus.epochs import epoch_store
from mt.corpus.prepare import Prepared
from mt.corpus.store import TokenStore
from mt.errors import UserError
from mt.training.distributed import Group

# Positions times width that make a micro-batch large enough for a processor; and positions, at least and at most.
_CPU_ELEMENTS, _CPU_TOKENS, _CPU_MOST_TOKENS = 1 << 18, 512, 2048
# Updates that a thread prepares while a GPU computes.
_PREFETCHED = 4

Item = TypeVar("Item")


class Batch:
    """One micro-batch on the training device."""

    def __init__(self, store: TokenStore, indices: np.ndarray, tokenizer: Any, device: torch.device) -> None:
        """Pads the pairs `indices` of the store.

        `source` (rows, source_length) and `target_input` (rows, target_length) are int64. `targets` (tokens,) holds
        the real target tokens alone, and `positions` (tokens,) where they stand in the flattened rows, so that
        projection and loss do no work on padding; None where there is no padding.
        """
        sources = [store.source(int(index)) for index in indices]
        targets = [store.target(int(index)) for index in indices]
        padded = pad_batch(targets, tokenizer.pad_id)
        inputs = np.full_like(padded, tokenizer.begin_id)
        # The ends of shorter sentences become input too; no real position sees them.
        inputs[:, 1:] = padded[:, :-1]
        real = np.arange(padded.shape[1]) < np.array([len(target) for target in targets])[:, None]
        self.tokens = int(real.sum())
        self.slots = padded.size + len(sources) * max(len(source) for source in sources)
        self.filled = self.tokens + sum(len(source) for source in sources)
        self.source = _on(device, pad_batch(sources, tokenizer.pad_id))
        self.target_input = _on(device, inputs)
        self.targets = _on(device, padded[real])
        self.positions = _on(device, np.flatnonzero(real)) if self.tokens < padded.size else None


def _on(device: torch.device, array: np.ndarray) -> torch.Tensor:
    """An array as a tensor there; a GPU copies it while it computes."""
    tensor = torch.from_numpy(array)
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def batch_shape(config: Config, device: torch.device) -> tuple[int, int]:
    """Most positions of a batch, and batches of an update: as configured on a GPU, in micro-batches on a processor.

    There several small batches are as fast as a large one, need less memory, and can be dealt out among processes.
    """
    train = config.train
    if device.type != "cpu":
        return train.batch_tokens, train.accumulate
    enough = max(_CPU_TOKENS, min(_CPU_MOST_TOKENS, _CPU_ELEMENTS // config.model.width), train.max_length)
    # A power of two, which two or four processes deal out evenly.
    parts = 1 << max(1, train.batch_tokens // enough).bit_length() - 1
    return train.batch_tokens // parts, train.accumulate * parts


class Update(NamedTuple):
    """What one update is made of."""

    batches: list[tuple[int, Batch]]
    """this process's: number in the update, and batch"""
    done: int
    """batches of the epoch that are done after it, of all processes"""
    ends_epoch: bool


class UpdateLoader:
    """Data order of a run: a pure function of config and text, so that resuming needs only a position."""

    def __init__(self, config: Config, prepared: Prepared, group: Group, device: torch.device) -> None:
        self.config, self.prepared, self.group, self.device = config, prepared, group, device
        self.batch_tokens, self.batches = batch_shape(config, device)
        self._planned: tuple[int, TokenStore, list[np.ndarray]] | None = None

    def updates(self, epoch: int, done: int) -> Iterator[Update]:
        """All updates after `done` batches of an epoch, epoch after epoch."""
        made = self._updates(epoch, done)
        # On a processor a thread would take from the cores that compute.
        return prefetch(made) if self.device.type == "cuda" else made

    def _updates(self, epoch: int, done: int) -> Iterator[Update]:
        train = self.config.train
        while train.max_epochs == 0 or epoch < train.max_epochs:
            store, plan = self.plan(epoch)
            if len(plan) <= done:
                raise UserError(
                    f"{self.config.run_dir}: its last training.json says that {done} batches of an epoch of "
                    f"{len(plan)} are done; restore it or give another run_dir"
                )
            for start in range(done, len(plan), self.batches):
                end = min(start + self.batches, len(plan))
                mine = range(start + self.group.rank, end, self.group.world_size)
                tokenizer = self.prepared.tokenizer
                batches = [(each - start, Batch(store, plan[each], tokenizer, self.device)) for each in mine]
                yield Update(batches, end, end == len(plan))
            epoch, done = epoch + 1, 0

    def plan(self, epoch: int) -> tuple[TokenStore, list[np.ndarray]]:
        """The store of an epoch and the pairs of each of its batches; the last one asked for is kept."""
        if self._planned is None or self._planned[0] != epoch:
            self._planned = None  # the old one goes before the new one comes
            store = epoch_store(self.prepared, self.config, epoch)
            source, target = store.source_lengths, store.target_lengths
            limits = {"batch_tokens": self.batch_tokens, "max_length": self.config.train.max_length}
            plan = plan_batches(source, target, **limits, seed=self.config.seed, epoch=epoch, weights=store.weights)
            if not plan:
                raise UserError(
                    f"data.train: no pair has its turn in epoch {epoch}; raise the weights, or train.max_length if the "
                    "pairs have more tokens"
                )
            self._planned = epoch, store, plan
        return self._planned[1:]

    def updates_per_epoch(self) -> int:
        """As many as in the first epoch; others may be cut into a few more or less."""
        return -(-len(self.plan(0)[1]) // self.batches)

    def largest(self, epoch: int) -> Batch:
        """The batch of an epoch with the most positions, padding included."""
        store, plan = self.plan(epoch)
        sides = store.source_lengths, store.target_lengths
        positions = [len(indices) * sum(int(lengths[indices].max()) for lengths in sides) for indices in plan]
        return Batch(store, plan[int(np.argmax(positions))], self.prepared.tokenizer, self.device)


def prefetch(items: Iterator[Item]) -> Iterator[Item]:
    """The same items; a thread makes the next few while the last one is used. An error comes in its place."""
    thread = ThreadPoolExecutor(1, "prefetch")
    try:
        made = deque(thread.submit(next, items, None) for _ in range(_PREFETCHED))
        while (item := made.popleft().result()) is not None:
            made.append(thread.submit(next, items, None))
            yield item
    finally:
        thread.shutdown(wait=False, cancel_futures=True)
