"""Token-budget batches grouped by length.

The plan is a pure function of (lengths, weights, seed, epoch): nothing else decides which pairs stand in which batch
and in which order, so resuming needs only a position in the plan.

Random numbers are raw 64-bit draws of PCG64, whose stream NumPy guarantees for ever, and all sorting is
stable; `Generator.permutation` may change between NumPy versions (NEP 19) and is not used.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_TIES, _STRIPS, _PARTING, _CUTS, _SHUFFLE, _PHASE = range(1, 7)  # one random stream for each use


def plan_batches(
    source_lengths: np.ndarray,
    target_lengths: np.ndarray,
    *,
    batch_tokens: int,
    max_length: int,
    seed: int,
    epoch: int,
    weights: np.ndarray | None = None,
) -> list[np.ndarray]:
    """The batches of one epoch, in the order they are trained on.

    Pairs of equal lengths on both sides fill whole batches without padding; what is left over is lined up by length
    and cut where the padding is least (`_group`). Which pair stands where among its equals, where leftovers are parted
    and the order of the batches are random in each epoch.

    Args:
        source_lengths, target_lengths: (pairs,) integers, tokens of each side, end of sentence included.
        batch_tokens: most positions of a batch on either side, padding included.
        max_length: pairs with a longer side are left out; at most batch_tokens.
        seed, epoch: decide all random choices; epochs count from 0.
        weights: (pairs,) float, how often each pair is seen in an epoch on average (`epoch_copies`), or None: once.

    Returns:
        One int64 array of pair indices for each batch. No pairs: an empty list.
    """
    indices = np.flatnonzero(np.maximum(source_lengths, target_lengths) <= max_length)
    if weights is not None:
        indices = np.repeat(indices, epoch_copies(weights, seed=seed, epoch=epoch)[indices])
    if not len(indices):
        return []

    indices = indices[np.argsort(_draws(len(indices), seed, epoch, _TIES), kind="stable")]
    batches = _group(indices, source_lengths, target_lengths, batch_tokens, seed=seed, epoch=epoch)
    order = np.argsort(_draws(len(batches), seed, epoch, _SHUFFLE), kind="stable")
    return [batches[number] for number in order]


def epoch_copies(weights: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """How often each pair is seen in this epoch.

    Each pair has a phase in [0, 1), fixed by the seed. Up to epoch e it is seen floor(weight * e + phase) times: weight
    2 means twice in each epoch; 0.5 means every second epoch, half of the pairs in each; 1.5 means once plus half.
    (pairs,) float64, above 0, give (pairs,) int64.
    """
    part, whole = np.modf(weights)
    phase = np.empty(len(weights))
    order = np.argsort(_draws(len(weights), seed, 0, _PHASE), kind="stable")
    phase[order] = (np.arange(len(weights)) + 0.5) / len(weights)
    return np.asarray(whole + np.floor(part * (epoch + 1) + phase) - np.floor(part * epoch + phase), dtype=np.int64)


def pad_batch(sequences: Sequence[np.ndarray], pad_id: int) -> np.ndarray:
    """One rectangle of ids, (rows, longest) int64, filled up with `pad_id` at the right; (0, 0) for no sequences."""
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    padded = np.full((len(lengths), lengths.max(initial=0)), pad_id, dtype=np.int64)
    if padded.size:
        padded[np.arange(padded.shape[1]) < lengths[:, None]] = np.concatenate(sequences)
    return padded


def _draws(count: int, seed: int, epoch: int, stream: int) -> np.ndarray:
    """(count,) uint64, a stream of its own for each (seed, epoch, stream)."""
    entropy = [seed & 0xFFFFFFFFFFFFFFFF, epoch, stream]  # SeedSequence refuses negative numbers
    return np.asarray(np.random.PCG64(np.random.SeedSequence(entropy)).random_raw(count), dtype=np.uint64)


def _group(
    indices: np.ndarray, source: np.ndarray, target: np.ndarray, batch_tokens: int, *, seed: int, epoch: int
) -> list[np.ndarray]:
    """Cuts the pairs into batches of similar lengths, rows * longest <= batch_tokens.

    Lengths are small integers, so most pairs of a large corpus share both with many others: they fill batches without
    padding. The leftovers of each such cell, parted in two at a random place, are lined up in strips of two source
    lengths, by target length upwards and downwards in turns, so that neighbours in the line are neighbours in both
    lengths; `_cut` divides the line. Where strips begin and a little of what a cut costs are random too: otherwise
    every fifth batch would return in each epoch.
    """
    line = _place_in_line(source[indices], target[indices], int(_draws(1, seed, epoch, _STRIPS)[0] % 2))
    order = np.argsort(line, kind="stable")  # pairs of equal lengths stay in their random order
    indices, line = indices[order], line[order]
    del order

    start = np.flatnonzero(np.diff(line, prepend=-1))
    end = np.append(start[1:], len(line))
    # (cells,): the lengths of every cell
    source, target = (side[indices[start]].astype(np.int64) for side in (source, target))
    capacity = batch_tokens // np.maximum(np.maximum(source, target), 1)
    leftover = end - (end - start) % capacity
    batches = [
        indices[first : first + rows]
        for begin, stop, rows in zip(start, leftover, capacity)
        for first in range(begin, stop, rows)
    ]

    remaining = end - leftover
    parting = _draws(len(remaining), seed, epoch, _PARTING) >> np.uint64(1)  # so that it fits int64
    middle = leftover + parting.astype(np.int64) % np.maximum(remaining, 1)
    piece_start = np.stack([leftover, middle], axis=1).ravel()
    piece_end = np.stack([middle, end], axis=1).ravel()
    filled = piece_end > piece_start
    piece_start, piece_end, source, target = (
        each[filled] for each in (piece_start, piece_end, np.repeat(source, 2), np.repeat(target, 2))
    )
    rows = piece_end - piece_start
    noise = _draws(len(rows), seed, epoch, _CUTS) % np.uint64(batch_tokens // 20 + 1)
    cut_cost = batch_tokens // 6 + noise.astype(np.int64)
    for first, last in _cut(rows, source, target, batch_tokens, cut_cost):
        batches.append(np.concatenate([indices[piece_start[at] : piece_end[at]] for at in range(first, last)]))
    return batches


def _place_in_line(source: np.ndarray, target: np.ndarray, shift: int) -> np.ndarray:
    """(pairs,) int64: where each pair stands in the line, the same for equal lengths on both sides."""
    source, target = source.astype(np.int64), target.astype(np.int64)
    ceiling, strip = int(target.max()) + 1, (source + shift) // 2
    return ((strip * ceiling + np.where(strip % 2 == 0, target, ceiling - 1 - target)) * 2) + source % 2


def _cut(
    rows: np.ndarray, source: np.ndarray, target: np.ndarray, batch_tokens: int, cut_cost: np.ndarray
) -> list[tuple[int, int]]:
    """Divides a line of pieces into batches, (first piece, last piece + 1), at the least cost (dynamic programming).

    The cost is the number of positions of both sides, padding included, plus for each batch the `cut_cost` of its last
    piece: without that, ever smaller batches would have ever less padding. `rows`, (pieces,) int64, are the pairs of
    each piece, `source` and `target` the lengths that all of them have; each piece alone keeps the budget.
    """
    pieces = len(rows)
    before = np.concatenate([[0], np.cumsum(rows)])
    most = before[:-1] + batch_tokens // np.maximum(np.maximum(source, target), 1)
    reaches = np.searchsorted(before, most, side="right") - 1  # no batch from a piece on goes further
    cost = np.full(pieces + 1, np.iinfo(np.int64).max)
    cost[0] = 0
    came_from = np.zeros(pieces + 1, dtype=np.int64)
    for first, reach in enumerate(reaches):
        widest_source = np.maximum.accumulate(source[first:reach])
        widest_target = np.maximum.accumulate(target[first:reach])
        taken = before[first + 1 : reach + 1] - before[first]
        slots = taken * np.maximum(widest_source, widest_target)
        fits = int(np.searchsorted(slots, batch_tokens, side="right"))
        total = (cost[first] + cut_cost[first:reach] + taken * (widest_source + widest_target))[:fits]
        better = total < cost[first + 1 : first + 1 + fits]
        cost[first + 1 : first + 1 + fits][better] = total[better]
        came_from[first + 1 : first + 1 + fits][better] = first
    batches = []
    while pieces:
        batches.append((int(came_from[pieces]), pieces))
        pieces = int(came_from[pieces])
    return batches
