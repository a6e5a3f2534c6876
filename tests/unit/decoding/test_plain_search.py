"""The search against a plain one that keeps lists, step for step."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mt.config import SearchConfig
from mt.decoding import beam_search as beam_search_module
from mt.decoding.beam_search import beam_search, normalised, tempered
from mt.decoding.constraints import Constraints
from mt.decoding.types import length_penalty, length_reward

END = 0  # the lowest token: where all are equally likely it comes first


class Found(NamedTuple):
    tokens: tuple[int, ...]
    total: float
    score: float


class State:
    """What each row has read, and how many rows were scored."""

    def __init__(self, sentences: int) -> None:
        self.rows: list[tuple[int, tuple[int, ...]]] = [(sentence, ()) for sentence in range(sentences)]
        self.rows_scored = 0

    def expand(self, beams: int) -> None:
        self.rows = [row for row in self.rows for _ in range(beams)]

    def reorder(self, rows: torch.Tensor) -> None:
        assert len(rows) == len(self.rows)
        self.rows = [self.rows[row] for row in rows.tolist()]

    def select(self, rows: torch.Tensor) -> None:
        assert len(rows) < len(self.rows), "every sentence stays: rows are put in another order, none is taken out"
        self.rows = [self.rows[row] for row in rows.tolist()]


def log_probs(seed: int, vocabulary: int, sentence: int, prefix: tuple[int, ...]) -> np.ndarray:
    logits = np.random.default_rng([seed, sentence, *prefix]).normal(size=vocabulary) * 1.5
    return logits - np.log(np.exp(logits).sum())


def repeats(tokens: tuple[int, ...], size: int) -> bool:
    """Whether the last `size` tokens stand in a row before."""
    return size > 0 and any(tokens[at : at + size] == tokens[-size:] for at in range(len(tokens) - size))


def plain_search(seed: int, vocabulary: int, sentence: int, limit: int, options: SearchConfig) -> tuple[list, int]:
    """The outputs and the number of rows scored, by the rules that the module states."""

    def normalise(total: float, length: int) -> float:
        penalty = length_penalty(options.length_penalty, length, options.length_alpha)
        return total / penalty + length_reward(options.length_penalty, length, options.length_alpha)

    beam, nbest = options.rows, options.wanted
    going, finished, ended, scored = [((), 0.0)], [], 0, 0
    for length in range(1, limit + 1):
        scored += 1 if length == 1 else beam
        candidates = []
        for tokens, total in going:
            own = log_probs(seed, vocabulary, sentence, tokens) / options.temperature
            own -= np.log(np.exp(own).sum())
            allowed = [END] if length == limit else range(length < options.min_length, vocabulary)
            candidates += [
                ((*tokens, token), total + own[token])
                for token in allowed
                if length == limit or not repeats((*tokens, token), options.no_repeat_ngram)
            ]
        candidates.sort(key=lambda each: -each[1])
        ends = [each for each in candidates[:beam] if each[0][-1] == END]
        finished += [Found(tokens, total, normalise(total, length)) for tokens, total in ends]
        finished = sorted(finished, key=lambda each: -each.score)[:beam]
        ended += len(ends)
        going = [each for each in candidates[: 2 * beam] if each[0][-1] != END][:beam]
        if not going:
            break
        best = going[0][1]
        bound = best / length_penalty(options.length_penalty, limit, options.length_alpha)
        bound += length_reward(options.length_penalty, limit, options.length_alpha)
        if len(finished) >= nbest and bound <= finished[nbest - 1].score:
            break
        full = ended >= beam
        worse = full and normalise(best, length) <= finished[-1].score
        if (options.stop == "first_beam" and full) or (options.stop == "no_gain" and worse):
            break
    return finished[:nbest], scored


def search(
    seed: int, vocabulary: int, limits: list[int], options: SearchConfig
) -> tuple[list[list[Found]], int, list[list[list[float]]]]:
    state = State(len(limits))

    def step(tokens: torch.Tensor, state: State) -> torch.Tensor:
        state.rows = [(row, (*read, token)) for (row, read), token in zip(state.rows, tokens.tolist(), strict=True)]
        state.rows_scored += len(state.rows)
        return torch.tensor(np.array([log_probs(seed, vocabulary, row, read[1:]) for row, read in state.rows])).float()

    constraints = Constraints(
        limits, end_id=END, min_length=options.min_length, no_repeat_ngram=options.no_repeat_ngram
    )
    found = beam_search(step, state, constraints, options, 1)
    outputs = [[Found(tuple(each.tokens), each.total, each.score) for each in sentence] for sentence in found]
    return outputs, state.rows_scored, [[each.log_probs.tolist() for each in sentence] for sentence in found]


OPTIONS = st.fixed_dictionaries(
    {
        "beam": st.integers(1, 6),
        "stop": st.sampled_from(["exact", "first_beam", "no_gain"]),
        "length_penalty": st.sampled_from(["none", "average", "gnmt", "reward"]),
        "length_alpha": st.sampled_from([0.0, 0.6, 1.0, 1.7]),
        "min_length": st.integers(1, 4),
        "no_repeat_ngram": st.sampled_from([0, 0, 1, 2]),
        "temperature": st.sampled_from([1.0, 2.0, 0.7]),
        "nbest": st.integers(1, 6),
    }
).map(lambda given: SearchConfig(**given | {"nbest": min(given["nbest"], given["beam"])}))
LIMITS = st.lists(st.integers(1, 9), min_size=1, max_size=4)


@settings(max_examples=120, derandomize=True)  # float32 and float64 would order the odd pair otherwise
@given(st.integers(0, 10_000), st.integers(2, 7), LIMITS, OPTIONS)
def test_finds_and_scores_what_a_plain_search_does(
    seed: int, vocabulary: int, limits: list[int], options: SearchConfig
) -> None:
    found, scored, own = search(seed, vocabulary, limits, options)
    plain = [plain_search(seed, vocabulary, sentence, limit, options) for sentence, limit in enumerate(limits)]
    for sentence, (ours, (theirs, _)) in enumerate(zip(found, plain, strict=True)):
        assert [each.tokens for each in ours] == [each.tokens for each in theirs]
        assert [each.total for each in ours] == pytest.approx([each.total for each in theirs], abs=1e-5)
        assert [each.score for each in ours] == pytest.approx([each.score for each in theirs], abs=1e-5)
        for each, given_log_probs in zip(ours, own[sentence]):
            expected = [
                log_probs(seed, vocabulary, sentence, each.tokens[:place])[token]
                for place, token in enumerate(each.tokens)
            ]
            assert given_log_probs == pytest.approx(expected, abs=1e-5)
    assert scored == sum(rows for _, rows in plain)


class _Device(str):
    """A place of tensors that says it is a GPU: there the search does not ask for values at every step."""

    type = "cuda"


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(2, 6), LIMITS, st.sampled_from([[], [20]]), OPTIONS)
def test_sentences_that_stay_in_the_batch_when_they_are_done_change_no_result(
    seed: int, vocabulary: int, limits: list[int], long: list[int], options: SearchConfig
) -> None:
    limits = limits + long
    expected = search(seed, vocabulary, limits, options)
    start = beam_search_module._Search.__init__

    def elsewhere(self: Any, *given_arguments: Any) -> None:
        start(self, *given_arguments)
        self.device = _Device("cpu")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beam_search_module._Search, "__init__", elsewhere)
        found = search(seed, vocabulary, limits, options)
    assert (found[0], found[2]) == (expected[0], expected[2])
    assert found[1] >= expected[1]


class _Elsewhere(torch.Tensor):
    """Values that say they lie on a GPU."""

    @property
    def device(self) -> Any:
        return _Device("cpu")


def test_on_a_gpu_ties_within_what_was_chosen_are_in_the_same_order() -> None:
    values = torch.tensor([[-2.0, -1.0, -2.0, -1.0, -3.0], [-1.0, -4.0, -1.0, -1.0, -2.0]])
    places = torch.tensor([[7, 9, 2, 4, 1], [30, 3, 8, 20, 5]])
    found = beam_search_module._ordered(values.as_subclass(_Elsewhere), places, values, values, 4)
    assert found[0].tolist() == [[-1.0, -1.0, -2.0, -2.0], [-1.0, -1.0, -1.0, -2.0]]
    assert found[1].tolist() == [[4, 9, 2, 7], [8, 20, 30, 5]]


def stops(log_probs: dict[tuple[int, ...], list[float]], limit: int, **options: Any) -> int:
    """Rows scored by a search over these log-probabilities, -9 where there are none; sums of them are exact."""
    state = State(1)

    def step(tokens: torch.Tensor, state: State) -> torch.Tensor:
        state.rows = [(row, (*read, token)) for (row, read), token in zip(state.rows, tokens.tolist(), strict=True)]
        state.rows_scored += len(state.rows)
        return torch.tensor([log_probs.get(read[1:], [-9.0] * 4) for _, read in state.rows])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beam_search_module, "normalised", lambda logits: logits)
        beam_search(step, state, Constraints([limit], end_id=END), SearchConfig(length_penalty="average", **options), 1)
    return state.rows_scored


@pytest.mark.parametrize(("ahead", "scored"), [(0.0, 1 + 3), (0.25, 1 + 3 + 3)])
def test_no_gain_stops_where_the_best_unfinished_output_is_as_good_as_the_worst_finished_one(
    ahead: float, scored: int
) -> None:
    """Finished by the second step: -1, -4 / 2 and -4.5 / 2; unfinished (-4.5 + ahead) / 2, worse than the second."""
    table = {(): [-1.0, -1, -2, -9], (1,): [-3.0, -3.5 + ahead, -9, -9], (2,): [-2.5, -9, -9, -9]}
    assert stops(table, 20, beam=3, stop="no_gain") == scored


@pytest.mark.parametrize(("ahead", "scored"), [(0.0, 1), (0.25, 1 + 2)])
def test_the_exact_rule_stops_where_an_output_could_at_best_be_as_good(ahead: float, scored: int) -> None:
    assert stops({(): [-1.0, -4 + ahead, -9, -9]}, 4, beam=2, stop="exact") == scored


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_log_probabilities_are_float32_or_wider_over_any_leading_shape(kind: torch.dtype) -> None:
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(kind)
    expected = logits.double().log_softmax(-1)
    found = normalised(logits.clone())
    assert found.dtype == (torch.float64 if kind == torch.float64 else torch.float32)
    assert float((found - expected).abs().max()) < 1e-6
    softer = tempered(found, 2.0)
    assert float((softer - (expected / 2).log_softmax(-1)).abs().max()) < 1e-6
    assert float((tempered(found, 0.5) - (expected * 2).log_softmax(-1)).abs().max()) < 1e-5
    assert tempered(found, 1.0) is found and softer is not found
