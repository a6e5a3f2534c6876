from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mt.config import SearchConfig
from mt.decoding import beam_search as beam_search_module
from mt.decoding.beam_search import beam_search, best_continuations
from mt.decoding.constraints import Constraints
from mt.decoding.types import Hypothesis, normalised_score

PAD, BEGIN, END = 0, 1, 2
PENALTIES = [("none", 1.0), ("average", 1.0), ("average", 0.6), ("gnmt", 0.6), ("gnmt", 1.0), ("reward", 0.7)]
Table = Callable[[int, tuple[int, ...]], list[float]]


class PrefixState:
    """Remembers for each row its sentence and what it has read: all that a table needs."""

    def __init__(self, sentences: int) -> None:
        self.rows: list[tuple[int, tuple[int, ...]]] = [(sentence, ()) for sentence in range(sentences)]
        self.rows_scored = 0

    def expand(self, beams: int) -> None:
        self.rows = [row for row in self.rows for _ in range(beams)]

    def reorder(self, beam_indices: Tensor) -> None:
        assert len(beam_indices) == len(self.rows)
        self.select(beam_indices)

    def select(self, rows: Tensor) -> None:
        self.rows = [self.rows[row] for row in rows.tolist()]


def random_table(seed: int, vocabulary: int, grid: float = 0.0) -> Table:
    """Log-probabilities that depend on sentence and prefix; on a grid many of them are equal."""

    def table(sentence: int, prefix: tuple[int, ...]) -> list[float]:
        generator = np.random.default_rng([seed, sentence, *prefix])
        logits = generator.normal(size=vocabulary) * 2
        if grid:
            logits = np.round(logits / grid) * grid
        return (logits - np.log(np.exp(logits).sum())).tolist()

    return table


def table_step(table: Table, sentences: list[int]) -> Callable[[Tensor, PrefixState], Tensor]:
    def step(tokens: Tensor, state: PrefixState) -> Tensor:
        state.rows = [
            (sentence, (*prefix, token)) for (sentence, prefix), token in zip(state.rows, tokens.tolist(), strict=True)
        ]
        state.rows_scored += len(state.rows)
        return torch.tensor([table(sentences[sentence], prefix[1:]) for sentence, prefix in state.rows])

    return step


RULES = ("forbidden_ids", "min_length", "no_repeat_ngram", "prefixes")


def search(
    table: Table, limits: list[int], beam: int, sentences: list[int] | None = None, **options: Any
) -> tuple[list[list[Hypothesis]], PrefixState]:
    state = PrefixState(len(limits))
    rules = {name: options.pop(name) for name in RULES if name in options}
    constraints = Constraints(limits, end_id=END, **{"forbidden_ids": (PAD, BEGIN), **rules})
    step = table_step(table, list(range(len(limits))) if sentences is None else sentences)
    return beam_search(step, state, constraints, SearchConfig(beam=beam, **options), BEGIN), state


def every_output(
    table: Table, sentence: int, limit: int, vocabulary: int, penalty: str, alpha: float, min_length: int
) -> list:
    """(score, tokens) of every output of `min_length` to `limit` tokens, best first; at the limit it has to end."""
    words = [token for token in range(vocabulary) if token not in (PAD, BEGIN, END)]
    outputs = []
    for length in range(min(min_length, limit) - 1, limit):
        for body in itertools.product(words, repeat=length):
            tokens = (*body, END)
            total = sum(table(sentence, tokens[:position])[token] for position, token in enumerate(tokens))
            outputs.append((normalised_score(total, penalty, len(tokens), alpha), list(tokens)))
    return sorted(outputs, key=lambda output: (-output[0], output[1]))


@pytest.mark.parametrize(("penalty", "alpha"), PENALTIES)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("vocabulary", [4, 6])
@pytest.mark.parametrize(("stop", "nbest", "min_length"), [("first_beam", 12, 1), ("exact", 12, 3), ("exact", 1, 1)])
def test_wide_beam_equals_exhaustive_search(
    penalty: str, alpha: float, seed: int, vocabulary: int, stop: str, nbest: int, min_length: int
) -> None:
    limits = [4, 1, 3]
    table = random_table(seed, vocabulary)
    # 1 + 3 + 9 + 27 outputs: nothing is ever pruned.
    found, _ = search(
        table, limits, 40, nbest=nbest, length_penalty=penalty, length_alpha=alpha, stop=stop, min_length=min_length
    )
    for sentence, (hypotheses, limit) in enumerate(zip(found, limits, strict=True)):
        expected = every_output(table, sentence, limit, vocabulary, penalty, alpha, min_length)[:nbest]
        assert [hypothesis.tokens for hypothesis in hypotheses] == [tokens for _, tokens in expected]
        assert [hypothesis.score for hypothesis in hypotheses] == pytest.approx(
            [score for score, _ in expected], abs=1e-5
        )


@pytest.mark.parametrize(("penalty", "alpha"), PENALTIES)
def test_stopping_early_loses_no_winner(penalty: str, alpha: float) -> None:
    """The best one alone and the best of a list that is kept up to the end are the same."""
    limits = [5] * 10
    table = random_table(7, 6)
    alone, _ = search(table, limits, 121, nbest=1, length_penalty=penalty, length_alpha=alpha)
    in_list, _ = search(table, limits, 121, nbest=121, length_penalty=penalty, length_alpha=alpha)
    assert [hypotheses[0].tokens for hypotheses in alone] == [hypotheses[0].tokens for hypotheses in in_list]


def test_stops_as_soon_as_nothing_can_win() -> None:
    # The end has 0.9 at once; whatever goes on has at most 0.1: without a penalty one step is enough.
    def table(sentence: int, prefix: tuple[int, ...]) -> list[float]:
        return [-math.inf, -math.inf, math.log(0.9), math.log(0.06), math.log(0.04)]

    found, state = search(table, [50], 3, length_penalty="none")
    assert found[0][0].tokens == [END] and state.rows_scored == 1
    # The mean of log-probabilities could still rise; three finished hypotheses end that search.
    found, state = search(table, [50], 3, length_penalty="average")
    assert found[0][0].tokens == [END] and 1 < state.rows_scored <= 7


@pytest.mark.parametrize(
    ("share", "stop", "winner"),
    [
        (0.19, "first_beam", 1),
        (0.19, "no_gain", 11),
        (0.19, "exact", 11),
        (0.1, "first_beam", 1),
        (0.1, "no_gain", 1),
        (0.1, "exact", 11),
    ],
)
def test_stopping_rules_end_where_they_say(share: float, stop: str, winner: int) -> None:
    """Two steps finish a beam of 2, the worst with ln(0.18) / 2. Left is ln(share) / 2, better with share 0.19, worse
    with 0.1; it goes on at hardly a cost, so that at length 11 it beats ln(0.5), the best."""

    def table(sentence: int, prefix: tuple[int, ...]) -> list[float]:
        ends, words = 0.001, (0.9985, 0.0005)
        if len(prefix) < 2:
            left = share / 0.2
            ends, words = {(): (0.5, (0.3, 0.2)), (3,): (0.6, (0.2, 0.2)), (4,): (0.01, (left, 0.99 - left))}[prefix]
        elif len(prefix) == 10:
            ends, words = 0.999, (0.0005, 0.0005)
        return [-math.inf, -math.inf, math.log(ends), *map(math.log, words)]

    found, state = search(table, [20], 2, length_penalty="average", stop=stop)
    assert found[0][0].tokens == ([END] if winner == 1 else [4, *[3] * 9, END])
    if winner == 1:
        assert state.rows_scored == 1 + 2


@pytest.mark.parametrize("beam", [1, 3, 40])
@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_at_a_temperature_its_distribution_is_what_is_searched(beam: int, temperature: float) -> None:
    """As a search of a table of those probabilities; log_probs stay the model's own."""
    table, limits = random_table(11, 6), [5, 3]

    def tempered(sentence: int, prefix: tuple[int, ...]) -> list[float]:
        raised = np.exp(np.array(table(sentence, prefix)) / temperature)
        return np.log(raised / raised.sum()).tolist()

    expected, _ = search(tempered, limits, beam, nbest=beam)
    found, _ = search(table, limits, beam, nbest=beam, temperature=temperature)
    for sentence, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert [each.tokens for each in ours] == [each.tokens for each in theirs]
        for one, other in zip(ours, theirs):
            assert one.total == pytest.approx(other.total, abs=1e-5)
            assert one.score == pytest.approx(other.score, abs=1e-5)
            own = [table(sentence, tuple(one.tokens[:place]))[token] for place, token in enumerate(one.tokens)]
            assert one.log_probs.tolist() == pytest.approx(own, abs=1e-5)


def test_done_sentences_leave_the_batch() -> None:
    def table(sentence: int, prefix: tuple[int, ...]) -> list[float]:
        ends = len(prefix) >= 10 * sentence
        return [-math.inf, -math.inf, math.log(0.99 if ends else 0.01), math.log(0.01 if ends else 0.99)]

    found, state = search(table, [40, 40, 40], 1)
    assert [len(hypotheses[0].tokens) for hypotheses in found] == [1, 11, 21]
    assert state.rows_scored == 1 + 11 + 21


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    limit=st.integers(1, 8),
    grid=st.sampled_from([0.0, 1.0]),
    penalty=st.sampled_from(PENALTIES),
)
def test_beam_of_one_is_greedy(seed: int, limit: int, grid: float, penalty: tuple) -> None:
    table = random_table(seed, 7, grid)
    expected: list[int] = []
    while END not in expected:
        scores = table(0, tuple(expected))
        last = len(expected) == limit - 1
        allowed = [END] if last else [token for token in range(7) if token not in (PAD, BEGIN)]
        expected.append(max(allowed, key=lambda token: (np.float32(scores[token]), -token)))
    found, _ = search(table, [limit], 1, length_penalty=penalty[0], length_alpha=penalty[1])
    assert found[0][0].tokens == expected


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    beam=st.integers(1, 6),
    grid=st.sampled_from([0.0, 1.0]),
    penalty=st.sampled_from(PENALTIES),
    limits=st.lists(st.integers(1, 9), min_size=2, max_size=6),
)
def test_neighbours_change_nothing(seed: int, beam: int, grid: float, penalty: tuple, limits: list[int]) -> None:
    table = random_table(seed, 8, grid)
    options = {"nbest": beam, "length_penalty": penalty[0], "length_alpha": penalty[1]}
    together, _ = search(table, limits, beam, **options)
    for sentence, limit in enumerate(limits):
        alone, _ = search(table, [limit], beam, [sentence], **options)
        assert readable(alone[0]) == readable(together[sentence])


def readable(hypotheses: list[Hypothesis]) -> list[tuple]:
    return [(item.tokens, item.log_probs.tolist(), item.total, item.score) for item in hypotheses]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), beam=st.integers(1, 6), penalty=st.sampled_from(PENALTIES))
def test_lists_are_sorted_unique_and_consistent(seed: int, beam: int, penalty: tuple) -> None:
    limits = [5, 9, 1, 7]
    table = random_table(seed, 8)
    found, _ = search(table, limits, beam, nbest=beam, length_penalty=penalty[0], length_alpha=penalty[1])
    for sentence, (hypotheses, limit) in enumerate(zip(found, limits, strict=True)):
        assert 1 <= len(hypotheses) <= beam
        scores = [hypothesis.score for hypothesis in hypotheses]
        assert scores == sorted(scores, reverse=True)
        assert len({tuple(hypothesis.tokens) for hypothesis in hypotheses}) == len(hypotheses)
        for tokens, log_probs, total, score, _ in hypotheses:
            assert tokens[-1] == END and tokens.count(END) == 1 and len(tokens) <= limit
            assert PAD not in tokens and BEGIN not in tokens
            expected = [table(sentence, tuple(tokens[:place]))[token] for place, token in enumerate(tokens)]
            assert log_probs.tolist() == pytest.approx(expected, abs=1e-5)
            assert total == pytest.approx(sum(expected), abs=1e-5)
            assert score == pytest.approx(normalised_score(total, penalty[0], len(tokens), penalty[1]), abs=1e-5)


def test_a_finished_hypothesis_takes_no_place_from_those_that_go_on() -> None:
    def table(sentence: int, prefix: tuple[int, ...]) -> list[float]:
        ends = {(): 0.4, (4,): 0.97}.get(prefix, 0.1)
        words = [0.35, 0.2, 0.05] if not prefix else [(1 - ends) / 3] * 3
        return [-math.inf, -math.inf, math.log(ends), *(math.log(word) for word in words)]

    # Two words go on beside the end, which is the likeliest at first; the second of them wins.
    found, _ = search(table, [6], 2)
    assert found[0][0].tokens == [4, END]


def test_ties_go_to_the_lower_token() -> None:
    def table(sentence: int, prefix: tuple[int, ...]) -> list[float]:
        return [math.log(1 / 6)] * 6

    found, _ = search(table, [2], 4, nbest=4, length_penalty="none")
    assert [hypothesis.tokens for hypothesis in found[0]] == [[END], [3, END], [4, END], [5, END]]


def test_logits_and_log_probabilities_give_the_same() -> None:
    table = random_table(3, 8)

    def shifted(sentence: int, prefix: tuple[int, ...]) -> list[float]:
        return [value + 5.0 for value in table(sentence, prefix)]

    plain, _ = search(table, [6, 6], 3)
    moved, _ = search(shifted, [6, 6], 3)
    for first, second in zip(plain, moved, strict=True):
        assert first[0].tokens == second[0].tokens
        assert first[0].log_probs == pytest.approx(second[0].log_probs, abs=1e-5)


def test_the_longest_output_ends_at_its_real_probability() -> None:
    def table(sentence: int, prefix: tuple[int, ...]) -> list[float]:
        return [-math.inf, -math.inf, math.log(0.001), math.log(0.999)]

    found, _ = search(table, [3], 1)
    assert found[0][0].tokens == [3, 3, END]
    assert found[0][0].log_probs.tolist() == pytest.approx([math.log(0.999)] * 2 + [math.log(0.001)], abs=1e-5)


def test_no_sentence_gives_no_result() -> None:
    assert search(random_table(0, 5), [], 3)[0] == []


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
    monkeypatch.setattr(
        beam_search_module, "_ordered", lambda values, places, *_: (seen.append(places), (values, places))[1]
    )
    log_probs = torch.full((1, 4, 228), -50.0)  # three blocks of 64 and 36 columns
    log_probs[0, :, 164:192] = -1.0 - torch.rand(4, 28, generator=torch.Generator().manual_seed(1))
    log_probs[0, 1, 227] = -0.5
    _, places = best_continuations(log_probs, torch.zeros(1, 4), 6)
    assert places[0, 0] == 228 + 227
    assert len(set(seen[0][0].tolist())) == 7  # one more than asked for
