"""Pieces that translate each other, learnt from pairs."""

from __future__ import annotations

import numpy as np
import pytest

import mt.corpus.lexicon
from mt.corpus.lexicon import likeliest_targets

END = 0
NONE = np.empty(0, dtype=np.int64)


def test_one_round_counts_what_two_pairs_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Source 1 meets targets 1 and 2, source 2 only 2. By hand, shares of each link in the first round: pair one
    (1, 2, end -> 1, 2, end) 1/3 each, pair two (2, end -> 2, end) 1/2 each."""
    sources, targets = [np.array([1, 2, END]), np.array([2, END])], [np.array([1, 2, END]), np.array([2, END])]
    monkeypatch.setattr(mt.corpus.lexicon, "_ROUNDS", 1)
    likeliest = likeliest_targets(sources, targets, (4, 4), 4, NONE)
    # Source 1: all equal, ties by id. Source 2: target 1 1/3, target 2 and the end 5/6 each. Source 3: met nothing.
    assert likeliest.tolist() == [[0, 2, 1, -1], [0, 1, 2, -1], [0, 2, 1, -1], [-1, -1, -1, -1]]


def test_planted_translations_come_first() -> None:
    """Each source piece has its own translation, in sentences that shuffle them and add a frequent piece."""
    generator = np.random.default_rng(1)
    translation = generator.permutation(np.arange(2, 42))
    sources, targets = [], []
    for _ in range(2500):  # more than one chunk
        source = generator.integers(2, 42, size=generator.integers(2, 8))
        sources.append(np.append(source, END))
        targets.append(np.concatenate([generator.permutation(translation[source - 2]), [1, 1], [END]]))
    likeliest = likeliest_targets(sources, targets, (42, 42), 3, NONE)
    assert likeliest[2:, 0].tolist() == translation.tolist()
    assert set(likeliest[END, :2].tolist()) == {END, 1}, "the end takes what belongs to no piece"
    without = likeliest_targets(sources, targets, (42, 42), 3, without=np.array([END, 1]))
    assert without[2:, 0].tolist() == translation.tolist() and not np.isin(without, [END, 1]).any()
