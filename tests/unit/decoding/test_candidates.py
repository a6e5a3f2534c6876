from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mt.decoding import candidates
from mt.decoding.candidates import best_continuations


@settings(max_examples=60, deadline=None)
@given(
    sentences=st.integers(1, 3),
    hypotheses=st.integers(1, 4),
    vocabulary=st.integers(1, 900),
    count=st.integers(1, 9),
    grid=st.sampled_from([0, 2, 40]),
    seed=st.integers(0, 10_000),
)
def test_same_as_sorting_all_continuations(
    sentences: int, hypotheses: int, vocabulary: int, count: int, grid: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    log_probs = torch.randn(sentences, hypotheses, vocabulary, generator=generator)
    totals = torch.randn(sentences, hypotheses, generator=generator)
    if grid:  # many equal sums
        log_probs, totals = (log_probs * grid).round() / grid, totals.round()
    totals[:, 1:][torch.rand(sentences, hypotheses - 1, generator=generator) < 0.3] = -torch.inf
    sums, places = best_continuations(log_probs, totals, count)
    for sentence in range(sentences):
        every = (log_probs[sentence] + totals[sentence, :, None]).flatten().tolist()
        expected = sorted(range(len(every)), key=lambda place: (-every[place], place))[:count]
        assert sums[sentence].tolist() == [every[place] for place in expected]
        reachable = [place for place in expected if every[place] > -torch.inf]
        assert places[sentence, : len(reachable)].tolist() == reachable


@pytest.mark.parametrize("tied", [(4, 500), (4, 5), (399, 400)])
def test_of_a_tie_for_the_last_place_the_lower_token_is_taken(tied: tuple[int, int]) -> None:
    log_probs = torch.full((1, 2, 800), -5.0)
    log_probs[0, 1, list(tied)] = -1.0
    log_probs[0, 0, 700] = -0.5
    _, places = best_continuations(log_probs, torch.zeros(1, 2), 2)
    assert places.tolist() == [[700, 800 + tied[0]]]


def test_columns_after_the_last_whole_block_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []  # before ties, which a column seen twice would look like, are put in order
    monkeypatch.setattr(candidates, "_ordered", lambda values, places, *_: (seen.append(places), (values, places))[1])
    log_probs = torch.full((1, 4, 228), -50.0)  # three blocks of 64 and 36 columns
    log_probs[0, :, 164:192] = -1.0 - torch.rand(4, 28, generator=torch.Generator().manual_seed(1))
    log_probs[0, 1, 227] = -0.5
    _, places = best_continuations(log_probs, torch.zeros(1, 4), 6)
    assert places[0, 0] == 228 + 227
    assert len(set(seen[0][0].tolist())) == 7  # one more than asked for
