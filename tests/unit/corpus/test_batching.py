"""Batch plans: every pair once, budget kept, a pure function, little padding."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mt.config import TokenizerConfig
from mt.corpus.batching import _cut, epoch_copies, pad_batch, plan_batches
from mt.corpus.tokenizer import train_tokenizer
from mt.files.lines import read_lines

lengths = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=120).map(
    lambda pairs: np.array(pairs, dtype=np.int32).reshape(-1, 2).T
)


def captions(pairs: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Lengths as Multi30k has them with 8,000 pieces: mean 16 and 16, spread 5, correlation 0.75."""
    generator = np.random.default_rng(seed)
    common = generator.normal(size=pairs)
    sides = [
        16 + 5 * (0.87 * common + 0.5 * generator.normal(size=pairs)) + generator.gamma(1.0, 1.0, size=pairs)
        for _ in range(2)
    ]
    source, target = (np.clip(np.round(side), 4, 60).astype(np.int32) for side in sides)
    return source, target


def padding_share(batches: list[np.ndarray], source: np.ndarray, target: np.ndarray) -> float:
    """Padding as a share of all positions of both sides."""
    rectangles = [len(batch) * int(side[batch].max()) for batch in batches for side in (source, target)]
    return 1 - sum(int(side[batch].sum()) for batch in batches for side in (source, target)) / sum(rectangles)


@settings(deadline=None, max_examples=150)
@given(lengths, st.integers(20, 200), st.integers(0, 5), st.integers(0, 3))
def test_every_pair_that_fits_stands_in_the_plan_once(sides, batch_tokens, seed, epoch):
    source, target = sides
    batches = plan_batches(source, target, batch_tokens=batch_tokens, max_length=20, seed=seed, epoch=epoch)
    planned = np.concatenate([np.empty(0, dtype=np.int64), *batches])
    assert sorted(planned.tolist()) == np.flatnonzero(np.maximum(source, target) <= 20).tolist()


@settings(deadline=None, max_examples=150)
@given(lengths, st.integers(40, 300), st.integers(0, 5))
def test_rows_times_longest_side_keep_the_budget(sides, batch_tokens, seed):
    source, target = sides
    batches = plan_batches(source, target, batch_tokens=batch_tokens, max_length=40, seed=seed, epoch=0)
    for indices in batches:
        assert indices.dtype == np.int64 and len(indices) > 0
        assert len(indices) * max(source[indices].max(), target[indices].max()) <= batch_tokens


@pytest.mark.parametrize("length", [0, 1, 2, 3, 20])
def test_pairs_of_equal_lengths_fill_whole_batches(length):
    lengths = np.full(43, length)
    batches = plan_batches(lengths, lengths, batch_tokens=20, max_length=20, seed=1, epoch=0)
    rows = 20 // max(1, length)
    assert sorted(map(len, batches), reverse=True)[: 43 // rows] == [rows] * (43 // rows)
    assert len(batches) == -(-43 // rows)


def test_plan_is_a_pure_function_of_its_arguments():
    source, target = captions(3000)
    options = {"batch_tokens": 512, "max_length": 60}
    first = plan_batches(source, target, **options, seed=1, epoch=0)
    np.random.seed(99)
    again = plan_batches(source.astype(np.int64), target.copy(), **options, seed=1, epoch=0)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    for other in ({"seed": 2, "epoch": 0}, {"seed": 1, "epoch": 1}):
        changed = plan_batches(source, target, **options, **other)
        assert [batch.tolist() for batch in changed] != [batch.tolist() for batch in first]


def test_order_does_not_change_between_versions():
    """Resuming on another machine or NumPy version must go on in the same order: the plan is pinned."""
    source, target = np.divmod(np.arange(400) * 7919 % 961, 31)
    batches = plan_batches(source + 1, target + 1, batch_tokens=128, max_length=31, seed=7, epoch=3)
    text = " ".join(",".join(map(str, batch.tolist())) for batch in batches)
    assert hashlib.blake2b(text.encode(), digest_size=8).hexdigest() == "61e7b6adbc303b18"


def test_epochs_group_pairs_differently():
    source, target = captions(5000)
    options = {"batch_tokens": 1024, "max_length": 60, "seed": 1}
    first, second = (
        {frozenset(batch.tolist()) for batch in plan_batches(source, target, **options, epoch=epoch)}
        for epoch in (0, 1)
    )
    assert len(first & second) < 0.2 * len(first)


def test_batches_come_in_random_order_of_length():
    source, target = captions(20000)
    batches = plan_batches(source, target, batch_tokens=1024, max_length=60, seed=1, epoch=0)
    means = np.array([source[batch].mean() for batch in batches])
    assert abs(np.corrcoef(means[1:], means[:-1])[0, 1]) < 0.2


def test_padding_stays_below_three_percent_on_lengths_like_multi30k():
    source, target = captions(29000)
    for epoch in range(3):
        batches = plan_batches(source, target, batch_tokens=4096, max_length=256, seed=1, epoch=epoch)
        assert padding_share(batches, source, target) < 0.03
        # little padding is not bought with small batches
        full = np.maximum(source, target).sum() / 4096
        assert len(batches) < 1.3 * full


def test_padding_stays_below_three_percent_on_multi30k():
    folder = _corpora() / "multi30k"
    if not folder.exists():
        pytest.skip(f"{folder} is not there; say where the corpora are with MT_CORPORA")
    german, english = (list(read_lines([folder / f"train.{language}.gz"])) for language in ("de", "en"))
    tokenizer = train_tokenizer(TokenizerConfig(vocabulary_size=8000), german[::4], english[::4])
    source = np.array([len(ids) for ids in tokenizer.encode_source(german)])
    target = np.array([len(ids) for ids in tokenizer.encode_target(english)])
    batches = plan_batches(source, target, batch_tokens=4096, max_length=256, seed=1, epoch=0)
    assert padding_share(batches, source, target) < 0.03
    assert sum(map(len, batches)) == 29000


def test_a_million_pairs_are_planned_in_seconds():
    source, target = captions(1_000_000)
    batches = plan_batches(source, target, batch_tokens=4096, max_length=256, seed=1, epoch=0)
    assert sum(map(len, batches)) == 1_000_000  # without vectorised planning this test takes a minute


@pytest.mark.parametrize(
    ("weight", "seen"),
    [(1.0, [1, 1, 1, 1]), (2.0, [2, 2, 2, 2]), (0.5, [0.5, 0.5, 0.5, 0.5]), (1.5, [1.5] * 4), (0.25, [0.25] * 4)],
)
def test_weight_is_the_mean_number_of_times_a_pair_is_seen(weight, seen):
    copies = np.stack([epoch_copies(np.full(1000, weight), seed=5, epoch=epoch) for epoch in range(4)])
    assert copies.mean(axis=1).tolist() == seen
    assert set(np.unique(copies)) <= {int(weight), int(np.ceil(weight))}
    assert (copies.sum(axis=0) == 4 * weight).all(), "over four epochs each pair is seen equally often"


def test_weights_decide_how_often_pairs_stand_in_the_plan():
    source, target = captions(300)
    weights = np.repeat([2.0, 0.5, 1.0], 100)
    options = {"batch_tokens": 256, "max_length": 60, "seed": 1}
    total = np.zeros(300, dtype=int)
    for epoch in range(2):
        batches = plan_batches(source, target, **options, epoch=epoch, weights=weights)
        total += np.bincount(np.concatenate(batches), minlength=300)
    assert total.tolist() == [4] * 100 + [1] * 100 + [2] * 100


def test_no_pairs_make_no_batches():
    empty = np.empty(0, dtype=np.int32)
    assert plan_batches(empty, empty, batch_tokens=10, max_length=5, seed=1, epoch=0) == []


def test_padding_fills_the_right_of_shorter_rows():
    rows = [np.array([5, 6, 7], dtype=np.int32), np.array([], dtype=np.int32), np.array([8], dtype=np.int32)]
    padded = pad_batch(rows, pad_id=9)
    assert padded.dtype == np.int64
    assert padded.tolist() == [[5, 6, 7], [9, 9, 9], [8, 9, 9]]
    assert pad_batch([], pad_id=0).shape == (0, 0)


def _corpora() -> Path:
    default = Path(__file__).resolve().parents[3].parent / "shared" / "corpora"
    return Path(os.environ.get("MT_CORPORA", default))


def plain_copies(weights: list[float], phases: np.ndarray, epoch: int) -> list[int]:
    """floor(weight * e + phase) is how often a pair has been seen up to epoch e."""
    return [
        math.floor(weight * (epoch + 1) + phase) - math.floor(weight * epoch + phase)
        for weight, phase in zip(weights, phases.tolist())
    ]


@pytest.mark.parametrize("seed", [0, 3, -1])
def test_copies_follow_from_weight_and_a_phase_that_each_pair_keeps(seed):
    weights = [0.25, 1.0, 2.75, 0.5, 3.0, 1.125, 0.125, 2.0]  # exact in binary
    tenths = [epoch_copies(np.full(8, 0.0625), seed=seed, epoch=epoch) for epoch in range(16)]
    # a weight of 1/16 makes the phase visible: the pair is seen first where it passes 1
    phases = 1 - (np.stack(tenths).argmax(0) + 1) / 16
    assert sorted(phases.tolist()) == [(number + 0.5) / 8 for number in range(8)]
    for epoch in range(9):
        found = epoch_copies(np.array(weights), seed=seed, epoch=epoch)
        assert found.tolist() == plain_copies(weights, phases, epoch)


def test_copies_do_not_change_between_versions():
    found = [epoch_copies(np.full(12, 0.25), seed=7, epoch=epoch).tolist() for epoch in range(2)]
    assert found == [[0, 0, 1, 0, 0, 0, 1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 1, 0, 1, 1, 0, 0, 0]]


def test_order_of_large_batches_does_not_change_between_versions():
    """As above, where batches are large enough for every part of what a cut costs to count."""
    source, target = np.divmod(np.arange(3000) * 7919 % 961, 31)
    batches = plan_batches(source + 1, target + 1, batch_tokens=1000, max_length=30, seed=-5, epoch=1)
    text = " ".join(",".join(map(str, batch.tolist())) for batch in batches)
    assert hashlib.blake2b(text.encode(), digest_size=8).hexdigest() == "88bec3d8c8e7d21c"


pieces = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9), st.integers(0, 30)), max_size=8)


@settings(deadline=None, max_examples=150)
@given(pieces, st.integers(54, 90))
def test_a_line_is_cut_where_it_costs_least(line, batch_tokens):
    rows, source, target, cut_cost = np.array(line, dtype=np.int64).reshape(-1, 4).T

    def cost(cuts: Iterable[tuple[int, int]]) -> float:
        total = 0
        for first, last in cuts:
            wide, high = source[first:last].max(), target[first:last].max()
            pairs = int(rows[first:last].sum())
            if pairs * max(wide, high) > batch_tokens:
                return math.inf
            total += pairs * int(wide + high) + int(cut_cost[last - 1])
        return total

    found = _cut(rows, source, target, batch_tokens, cut_cost)
    assert [first for first, _ in sorted(found)] + [len(line)] == [0] + [last for _, last in sorted(found)]
    every = [
        cost(pairwise((0, *places, len(line))))
        for count in range(len(line))
        for places in combinations(range(1, len(line)), count)
    ]
    assert not line or cost(found) == min(every)
