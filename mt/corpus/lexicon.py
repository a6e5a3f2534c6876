"""Which target pieces go with a source piece: IBM model 1 (Brown et al. 1993, section 4.1), learnt from pairs of ids.

Each target piece of a pair comes from one of the source pieces of that pair, any of them at first, and the counts
of one round are the probabilities of the next (expectation maximisation). The end of sentence, which every source
has, plays the empty word: it takes what belongs to no piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
_ROUNDS = 4  # of expectation maximisation
_CHUNK = 2000  # pairs whose links exist at a time


def likeliest_targets(
    sources: Sequence[np.ndarray], targets: Sequence[np.ndarray], sizes: tuple[int, int], count: int, without: Ids
) -> Ids:
    """The `count` likeliest target pieces of each source piece.

    Args:
        sources, targets: of each pair the ids of a side, end of sentence last.
        sizes: pieces of the source and of the target vocabulary.
        count: how many; a piece that has met fewer has -1 in the places left.
        without: target pieces that stay out of the lists.

    Returns:
        (source pieces, count) int64, the likeliest first; ties by the lower id.
    """
    links = np.unique(np.concatenate([np.unique(keys) for keys, _ in _chunks(sources, targets, sizes[1])]))
    of_source = links // sizes[1]
    probability = np.ones(len(links))
    for _ in range(_ROUNDS):
        expected = np.zeros(len(links))
        for keys, first in _chunks(sources, targets, sizes[1]):
            places = np.searchsorted(links, keys)
            shares = probability[places]
            totals = np.add.reduceat(shares, first)
            shares /= np.repeat(totals, np.diff([*first, len(keys)]))
            expected += np.bincount(places, shares, minlength=len(links))
        probability = expected / np.bincount(of_source, expected)[of_source]
    kept = np.isin(links % sizes[1], without, invert=True)
    links, of_source, probability = links[kept], of_source[kept], probability[kept]
    links = links[np.lexsort((-probability, of_source))]  # the order of the source pieces stays
    rank = np.arange(len(links)) - np.searchsorted(of_source, of_source)
    likeliest = np.full((sizes[0], count), -1)
    likeliest[of_source[rank < count], rank[rank < count]] = links[rank < count] % sizes[1]
    return likeliest


def _chunks(sources: Sequence[np.ndarray], targets: Sequence[np.ndarray], size: int) -> Iterator[tuple[Ids, Ids]]:
    """The links of some pairs at a time: (links,) source id * size + target id, all of a target token side by side; and
    (target tokens,) where those of each target token begin.
    """
    for begin in range(0, len(sources), _CHUNK):
        source, target = sources[begin : begin + _CHUNK], targets[begin : begin + _CHUNK]
        source_lengths, target_lengths = (np.array([len(ids) for ids in side]) for side in (source, target))
        tokens = np.concatenate(target).astype(np.int64)
        count = np.repeat(source_lengths, target_lengths)  # links of each target token
        first = np.cumsum(count) - count
        begins = np.repeat(np.cumsum(source_lengths) - source_lengths, target_lengths)
        places = np.arange(count.sum()) + np.repeat(begins - first, count)
        yield np.concatenate(source).astype(np.int64)[places] * size + np.repeat(tokens, count), first
