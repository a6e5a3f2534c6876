"""Beam search over sentences side by side. It knows no model: it drives `step(tokens, state)`.

Hypotheses grow by the sum of their log-probabilities and are normalised when they end, so that a length
penalty ranks finished hypotheses only. At each position the `beam` best unfinished hypotheses of a sentence
go on; one that ends among the `beam` best candidates is finished. A sentence is done when

- `beam` of its hypotheses are finished, or
- none that is unfinished can still enter its `nbest` best: log-probabilities are at most 0 and the penalty
  never falls with length, so total / penalty(longest allowed) bounds whatever a hypothesis can become, or
- its longest allowed output is reached; there every hypothesis must end, at the real probability of ending.

Sentences that are done leave the batch at once. Order is fixed: higher score first, then the earlier
hypothesis, then the lower token id; so a sentence's result does not depend on its neighbours. A beam of 1 is
greedy search.

Shapes: `sentences` are those given, `live` those still in the batch; a row is one hypothesis of a live
sentence, the `beam` rows of a sentence side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from mt.decoding.candidates import top_tokens
from mt.decoding.penalties import length_penalty


class SearchState(Protocol):
    """What the model remembers of each row."""

    def reorder(self, beam_indices: Tensor, /) -> None:
        """Row i goes on from what row `beam_indices[i]` was; (rows,) int64, within the same sentence."""

    def keep(self, rows: Tensor, /) -> None:
        """As `reorder`, but sentences of which no row is named leave; (kept,) int64, whole sentences."""


AnyState = TypeVar("AnyState", bound=SearchState)
Step = Callable[[Tensor, AnyState], Tensor]
"""(rows,) int64 tokens and the state -> (rows, vocabulary) logits or log-probabilities, overwritten here"""


class Hypothesis(NamedTuple):
    """A finished output."""

    tokens: list[int]
    """end of sentence included"""
    log_probs: np.ndarray
    """(tokens,) float32, natural log of the model's probability of each token"""
    total: float
    """sum of log_probs"""
    score: float
    """total over the length penalty: what the search ranked by"""


@torch.inference_mode()
def beam_search(
    step: Step[AnyState],
    state: AnyState,
    max_lengths: Sequence[int],
    *,
    beam: int,
    nbest: int = 1,
    penalty: str = "average",
    alpha: float = 1.0,
    begin_id: int,
    end_id: int,
    forbidden_ids: Sequence[int] = (),
    device: torch.device | str = "cpu",
) -> list[list[Hypothesis]]:
    """Searches for the best outputs of each sentence.

    Args:
        step: scores the next token of each row.
        state: of len(max_lengths) * beam rows, nothing read yet; used up.
        max_lengths: for each sentence the longest output, end of sentence included, at least 1.
        beam: hypotheses kept at each position, at least 1.
        nbest: how many outputs of a sentence, at most `beam`.
        penalty, alpha: see `length_penalty`.
        begin_id: the token that each row reads first.
        end_id: the token that ends a hypothesis.
        forbidden_ids: tokens that are never chosen.
        device: of the state.

    Returns:
        For each sentence up to `nbest` different hypotheses, best first; at least one, unless `step` gives
        every allowed token a probability of 0.
    """
    assert 1 <= nbest <= beam and all(length >= 1 for length in max_lengths)
    if not max_lengths:
        return []
    search = _Search(max_lengths, beam, nbest, penalty, alpha, end_id, forbidden_ids, device)
    tokens = torch.full((len(max_lengths) * beam,), begin_id, device=device)
    while True:
        rows, tokens, left = search.advance(step(tokens, state))
        if not len(rows):
            return search.results()
        if left:
            state.keep(rows)
        else:
            state.reorder(rows)


class _Candidates(NamedTuple):
    """The best continuations of each live sentence, best first; each field (live, candidates)."""

    totals: Tensor
    parents: Tensor
    """hypothesis of the sentence that is continued, 0 to beam - 1"""
    tokens: Tensor
    log_probs: Tensor

    def take(self, order: Tensor) -> _Candidates:
        return _Candidates(*(field.gather(1, order) for field in self))


class _Search:
    def __init__(
        self,
        max_lengths: Sequence[int],
        beam: int,
        nbest: int,
        penalty: str,
        alpha: float,
        end_id: int,
        forbidden_ids: Sequence[int],
        device: torch.device | str,
    ) -> None:
        self.beam, self.nbest = beam, nbest
        self.end_id, self.forbidden_ids = end_id, forbidden_ids
        self.device = device
        sentences, longest = len(max_lengths), max(max_lengths)
        penalties = [length_penalty(penalty, length, alpha) for length in range(1, longest + 1)]
        self.penalties = torch.tensor([1.0, *penalties], device=device)
        self.length = 0
        self.live = torch.arange(sentences, device=device)
        self.max_lengths = torch.tensor(list(max_lengths), device=device)
        self.shortest = min(max_lengths)
        # All rows of a sentence are equal at first: only one of them may be continued.
        self.totals = torch.full((sentences, beam), -torch.inf, device=device)
        self.totals[:, 0] = 0.0
        # What was chosen at each position, by sentence given; a hypothesis is read going back over its parents.
        history = (longest, sentences, beam)
        self.tokens = torch.empty(history, dtype=torch.int64, device=device)
        self.parents = torch.empty(history, dtype=torch.int64, device=device)
        self.log_probs = torch.empty(history, device=device)
        # Finished hypotheses by sentence given, best first; unused places have the score -inf.
        finished = (sentences, beam)
        self.finished_count = torch.zeros(sentences, dtype=torch.int64, device=device)
        self.finished = {
            "scores": torch.full(finished, -torch.inf, device=device),
            "totals": torch.zeros(finished, device=device),
            "log_probs": torch.zeros(finished, device=device),
            "parents": torch.zeros(finished, dtype=torch.int64, device=device),
            "lengths": torch.zeros(finished, dtype=torch.int64, device=device),
        }

    def advance(self, logits: Tensor) -> tuple[Tensor, Tensor, bool]:
        """Chooses the next token of every hypothesis.

        Args:
            logits: (live * beam, vocabulary) of the next token.

        Returns:
            rows: (live * beam,) int64, the row that each hypothesis goes on from; none when all is done.
            tokens: (live * beam,) int64, what each has just chosen.
            left: whether sentences have left the batch.
        """
        self.length += 1
        candidates = self._candidates(logits)
        ends = (candidates.tokens == self.end_id) & (candidates.totals > -torch.inf)
        chosen = candidates
        if bool(ends.any()):
            self._finish(candidates, ends[:, : self.beam])
            chosen = candidates.take(ends.to(torch.int8).argsort(dim=1, stable=True)[:, : self.beam])
        chosen = _Candidates(*(field[:, : self.beam] for field in chosen))
        self.totals = chosen.totals
        position = self.length - 1
        self.tokens[position, self.live] = chosen.tokens
        self.parents[position, self.live] = chosen.parents
        self.log_probs[position, self.live] = chosen.log_probs
        first_rows = torch.arange(0, self.totals.numel(), self.beam, device=self.device)
        rows = chosen.parents + first_rows[:, None]
        staying = (~self._done()).nonzero()[:, 0]
        if len(staying) == len(self.live):
            return rows.flatten(), chosen.tokens.flatten(), False
        self.live, self.totals = self.live[staying], self.totals[staying]
        self.max_lengths = self.max_lengths[staying]
        self.shortest = int(self.max_lengths.min()) if len(staying) else 0
        return rows[staying].flatten(), chosen.tokens[staying].flatten(), True

    def _candidates(self, logits: Tensor) -> _Candidates:
        """The 2 * beam best continuations: at most `beam` of them end, so `beam` are left to go on."""
        logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
        must_end = None
        if self.length >= self.shortest:
            must_end = (self.max_lengths <= self.length).repeat_interleave(self.beam)
            end_log_probs = logits[:, self.end_id] - logits.logsumexp(-1)
        # Of one row no more than `beam` that go on and one that ends can be among the candidates that matter.
        log_probs, tokens = top_tokens(logits, self.beam + 1, self.forbidden_ids)
        if must_end is not None:
            log_probs[must_end] = -torch.inf
            log_probs[must_end, 0] = end_log_probs[must_end].to(log_probs.dtype)
            tokens[must_end, 0] = self.end_id
        each = log_probs.size(1)
        log_probs = log_probs.float().reshape(-1, self.beam * each)
        totals = self.totals.repeat_interleave(each, dim=1) + log_probs
        totals, order = totals.sort(dim=1, descending=True, stable=True)
        order = order[:, : 2 * self.beam]
        return _Candidates(
            totals[:, : 2 * self.beam],
            order // each,
            tokens.reshape(-1, self.beam * each).gather(1, order),
            log_probs.gather(1, order),
        )

    def _finish(self, candidates: _Candidates, ends: Tensor) -> None:
        """Puts those of the first candidates that end, `ends` (live, beam) bool, among the finished."""
        totals = candidates.totals[:, : self.beam]
        new = {
            "scores": (totals / self.penalties[self.length]).masked_fill(~ends, -torch.inf),
            "totals": totals,
            "log_probs": candidates.log_probs[:, : self.beam],
            "parents": candidates.parents[:, : self.beam],
            "lengths": torch.full_like(candidates.parents[:, : self.beam], self.length),
        }
        scores = torch.cat([self.finished["scores"][self.live], new["scores"]], dim=1)
        order = scores.argsort(dim=1, descending=True, stable=True)[:, : self.beam]
        for name, field in self.finished.items():
            field[self.live] = torch.cat([field[self.live], new[name]], dim=1).gather(1, order)
        self.finished_count[self.live] += ends.sum(1)

    def _done(self) -> Tensor:
        """(live,) bool: which sentences need no further step."""
        attainable = self.totals[:, 0] / self.penalties[self.max_lengths]
        settled = attainable <= self.finished["scores"][self.live, self.nbest - 1]
        return settled | (self.finished_count[self.live] >= self.beam) | (self.max_lengths <= self.length)

    def results(self) -> list[list[Hypothesis]]:
        """Reads the `nbest` best finished hypotheses of every sentence back from the history."""
        finished = {name: field[:, : self.nbest].cpu().numpy() for name, field in self.finished.items()}
        history_tokens, history_parents, history_log_probs = (
            field[: self.length].cpu().numpy() for field in (self.tokens, self.parents, self.log_probs)
        )
        sentences, lengths = np.arange(len(finished["scores"]))[:, None], finished["lengths"]
        shape = (*lengths.shape, self.length)
        tokens, log_probs = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.float32)
        hypothesis = finished["parents"].copy()
        for position in range(self.length - 1, -1, -1):
            before_end = position < lengths - 1
            tokens[:, :, position] = history_tokens[position, sentences, hypothesis]
            log_probs[:, :, position] = history_log_probs[position, sentences, hypothesis]
            parents = history_parents[position, sentences, hypothesis]
            hypothesis = np.where(before_end, parents, hypothesis)
        places = np.arange(self.length)
        at_end = places == lengths[:, :, None] - 1
        tokens[at_end] = self.end_id
        log_probs = np.where(at_end, finished["log_probs"][:, :, None], log_probs)
        return [
            [
                Hypothesis(
                    tokens[sentence, place, : lengths[sentence, place]].tolist(),
                    log_probs[sentence, place, : lengths[sentence, place]],
                    float(finished["totals"][sentence, place]),
                    float(finished["scores"][sentence, place]),
                )
                for place in range(self.nbest)
                if finished["scores"][sentence, place] > -np.inf
            ]
            for sentence in range(len(lengths))
        ]
