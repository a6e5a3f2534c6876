"""Beam search over sentences side by side. It knows no model: it drives `step(tokens, state)`.

Hypotheses grow by the sum of their log-probabilities and are normalised when they end, so that a length
penalty ranks finished hypotheses only. At each position the `beam` best unfinished hypotheses of a sentence
go on; one that ends among the `beam` best candidates is finished. A sentence is done when

- none that is unfinished can still enter its `nbest` best: log-probabilities are at most 0 and the penalty
  never falls with length, so total / penalty(longest allowed), plus the largest reward that is left, bounds
  whatever a hypothesis can become, or
- its longest allowed output is reached; there every hypothesis must end, at the real probability of ending, or
- the stopping rule says so:
  - "exact": never; a wide enough beam then finds the best outputs there are (Hugging Face early_stopping="never");
  - "first_beam": as soon as `beam` hypotheses are finished (fairseq; Hugging Face early_stopping=True);
  - "no_gain": once `beam` are finished and the best unfinished one, were it to end here at no cost, would not
    beat the worst of them (Hugging Face early_stopping=False).

Sentences that are done leave the batch: at once, or on a GPU, where asking stops it, every few steps; until
then they do not change. Order is fixed: higher score first, then the earlier hypothesis, then the lower token
id; so a sentence's result does not depend on its neighbours. A beam of 1 is greedy search.

Shapes: `sentences` are those given, `live` those still in the batch; a row is one hypothesis of a live
sentence, the `width` rows of a sentence side by side: one at the first step, `beam` from then on.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from mt.config import SearchConfig
from mt.decoding.constraints import Constraints
from mt.decoding.types import AnyState, Hypothesis, Step, length_penalty, length_reward

# Columns are compared in blocks of so many first, whose maxima torch finds fastest (measured, AVX-512).
_BLOCK = 64
_STEPS_BETWEEN_CHECKS = 8  # on a GPU, which has to wait whenever the processor asks for a value


@torch.inference_mode()
def beam_search(
    step: Step[AnyState], state: AnyState, constraints: Constraints, options: SearchConfig, begin_id: int
) -> list[list[Hypothesis]]:
    """Searches for the best outputs of each sentence.

    Args:
        step: scores the next token of each row.
        state: of one row a sentence, nothing read yet; used up.
        constraints: of the sentences: longest outputs, forbidden tokens and the like; used up.
        options: `rows` hypotheses are kept at each position and `wanted` of them come back; temperature, length
            penalty and stopping rule.
        begin_id: the token that each row reads first.

    Returns:
        For each sentence up to `options.wanted` different hypotheses, best first; at least one, unless `step` gives
        every allowed token a probability of 0.
    """
    if not len(constraints.max_lengths):
        return []
    search = _Search(constraints, options)
    tokens = torch.full_like(constraints.max_lengths, begin_id)
    while True:
        logits = step(tokens, state)
        if search.length == 0:  # all beams of a sentence begin alike: the first step is made once for them
            state.expand(search.beam)
        rows, tokens, left = search.advance(logits)
        if not len(rows):
            return search.results()
        move = state.select if left else state.reorder
        move(rows)


def normalised(logits: Tensor) -> Tensor:
    """Log-probabilities, float32 or wider, written over the logits where they are as wide."""
    if logits.dtype in (torch.float16, torch.bfloat16):
        return logits.log_softmax(-1, dtype=torch.float32)
    return torch.log_softmax(logits, -1, out=logits)  # one pass; logsumexp alone takes twice the time


def tempered(log_probs: Tensor, temperature: float) -> Tensor:
    """Log-probabilities at a temperature, above 1 flatter; a new tensor, at 1 the one given."""
    return log_probs if temperature == 1 else (log_probs / temperature).log_softmax(-1)


class _Search:
    def __init__(self, constraints: Constraints, options: SearchConfig) -> None:
        self.options, self.beam, self.nbest = options, options.rows, options.wanted
        self.constraints, self.end_id = constraints, constraints.end_id
        self.device = constraints.max_lengths.device
        sentences, longest = len(constraints.max_lengths), constraints.longest
        name, alpha, lengths = options.length_penalty, options.length_alpha, range(longest + 1)
        self.penalties = torch.tensor([length_penalty(name, length, alpha) for length in lengths], device=self.device)
        self.rewards = torch.tensor([length_reward(name, length, alpha) for length in lengths], device=self.device)
        self.length = 0
        self.live = torch.arange(sentences, device=self.device)
        self.done = torch.zeros(sentences, dtype=torch.bool, device=self.device)
        self.totals = torch.zeros((sentences, 1), device=self.device)
        # What was chosen at each position, by sentence given; a hypothesis is read going back over its parents.
        kinds = {"tokens": torch.int64, "parents": torch.int64, "log_probs": torch.float32}
        shape = (longest, sentences, self.beam)
        self.history = {name: torch.empty(shape, dtype=kind, device=self.device) for name, kind in kinds.items()}
        # What each hypothesis has written, by live sentence, where a rule asks for it.
        self.written = self.live.new_empty((sentences, 1, 0)) if constraints.no_repeat_ngram else None
        # Finished hypotheses by sentence given, best first; unused places have the score -inf.
        self.finished_count = torch.zeros_like(self.live)
        scores = torch.full((sentences, self.beam), -torch.inf, device=self.device)
        self.finished = {"scores": scores, "totals": torch.zeros_like(scores), "log_probs": torch.zeros_like(scores)}
        self.finished |= {name: scores.new_zeros(scores.shape, dtype=torch.int64) for name in ("parents", "lengths")}

    def advance(self, logits: Tensor) -> tuple[Tensor, Tensor, bool]:
        """Chooses the next token of every hypothesis; `logits`: (live * width, vocabulary).

        Returns:
            (live * beam,) int64, the row that each hypothesis goes on from, none when all is done; as many tokens, what
            each has just chosen; and whether sentences have left the batch.
        """
        self.length += 1
        candidates = self._candidates(logits)
        ends = (candidates["tokens"] == self.end_id) & (candidates["totals"] > -torch.inf)
        # Without ends the branch changes nothing; a GPU takes it always, as asking would stop it.
        if self.device.type != "cpu" or bool(ends.any()):
            self._finish(candidates, ends[:, : self.beam] & ~self.done[:, None])  # done ones do not change
            # Stable: those that go on come first and stay in the order of their totals.
            order = ends.to(torch.int8).argsort(dim=1, stable=True)[:, : self.beam]
            candidates = {name: field.gather(1, order) for name, field in candidates.items()}
        chosen = {name: field[:, : self.beam] for name, field in candidates.items()}
        self.totals, parents, tokens = chosen["totals"], chosen["parents"], chosen["tokens"]
        for name, field in self.history.items():
            field[self.length - 1, self.live] = chosen[name]
        if self.written is not None:
            before = self.written.gather(1, parents[:, :, None].expand(-1, -1, self.length - 1))
            self.written = torch.cat([before, tokens[:, :, None]], dim=2)
        rows = parents + torch.arange(0, parents.numel(), self.beam, device=self.device)[:, None]
        self.done = self.done | self._done()
        unfinished = self._unfinished()
        if unfinished is None:
            return rows.flatten(), tokens.flatten(), False
        self.live, self.totals, self.done = self.live[unfinished], self.totals[unfinished], self.done[unfinished]
        if self.written is not None:
            self.written = self.written[unfinished]
        self.constraints.select(unfinished)
        return rows[unfinished].flatten(), tokens[unfinished].flatten(), True

    def _candidates(self, logits: Tensor) -> dict[str, Tensor]:
        """The 2 * beam best continuations of each live sentence, best first: at most `beam` of them end, so `beam` are
        left to go on. Each field (live, 2 * beam); "parents": the hypothesis that is continued, 0 to width - 1."""
        live, width = self.totals.shape
        log_probs = normalised(logits)
        searched = tempered(log_probs, self.options.temperature)
        written = None if self.written is None else self.written.flatten(0, 1)
        self.constraints.apply(searched, self.length, written)
        totals, places = best_continuations(searched.view(live, width, -1), self.totals, 2 * self.beam)
        missing = 2 * self.beam - totals.size(1)
        if missing > 0:  # a small vocabulary: fill up with what can never win
            totals = functional.pad(totals, (0, missing), value=-torch.inf)
            places = functional.pad(places, (0, missing))
        vocabulary = logits.size(1)
        own = log_probs.view(live, -1).gather(1, places)
        return {"totals": totals, "parents": places // vocabulary, "tokens": places % vocabulary, "log_probs": own}

    def _finish(self, candidates: dict[str, Tensor], ends: Tensor) -> None:
        """Puts those of the first candidates that end, `ends` (live, beam) bool, among the finished."""
        new = {name: field[:, : self.beam] for name, field in candidates.items()}
        scores = new["totals"] / self.penalties[self.length] + self.rewards[self.length]
        new["scores"] = scores.masked_fill(~ends, -torch.inf)
        new["lengths"] = torch.full_like(new["parents"], self.length)
        scores = torch.cat([self.finished["scores"][self.live], new["scores"]], dim=1)
        order = scores.argsort(dim=1, descending=True, stable=True)[:, : self.beam]  # ties: earlier first
        for name, field in self.finished.items():
            field[self.live] = torch.cat([field[self.live], new[name]], dim=1).gather(1, order)
        self.finished_count[self.live] += ends.sum(1)

    def _done(self) -> Tensor:
        """(live,) bool: which sentences need no further step."""
        longest = self.constraints.max_lengths
        best, scores = self.totals[:, 0], self.finished["scores"][self.live]
        # The reward grows or falls by the same amount a token, so it is largest at one end.
        reward = torch.maximum(self.rewards[longest], self.rewards[min(self.length + 1, len(self.rewards) - 1)])
        done = (best / self.penalties[longest] + reward <= scores[:, self.nbest - 1]) | (longest <= self.length)
        if self.options.stop == "exact":
            return done
        full = self.finished_count[self.live] >= self.beam
        if self.options.stop == "no_gain":
            full &= best / self.penalties[self.length] + self.rewards[self.length] <= scores[:, -1]
        return done | full

    def _unfinished(self) -> Tensor | None:
        """The live sentences that are not done, in their new order; None: all of them, or this step does not check.

        Sentences from the back fill the gaps, so that as few as possible change places.
        """
        steps_between_checks = 1 if self.device.type == "cpu" else _STEPS_BETWEEN_CHECKS
        if self.length % steps_between_checks and self.length < self.constraints.longest:
            return None
        unfinished = (~self.done).nonzero()[:, 0]
        count = len(unfinished)
        if count == len(self.live):
            return None
        order = torch.arange(count, device=self.device)
        order[self.done[:count].nonzero()[:, 0]] = unfinished[unfinished >= count]
        return order

    def results(self) -> list[list[Hypothesis]]:
        """Reads the `nbest` best finished hypotheses of every sentence back from the history."""
        finished = {name: field[:, : self.nbest].cpu().numpy() for name, field in self.finished.items()}
        history = {name: field[: self.length].cpu().numpy() for name, field in self.history.items()}
        sentences, lengths = np.arange(len(finished["scores"]))[:, None], finished["lengths"]
        shape = (*lengths.shape, self.length)
        tokens, log_probs = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.float32)
        hypothesis = finished["parents"].copy()
        for position in range(self.length - 1, -1, -1):
            at = position, sentences, hypothesis
            tokens[:, :, position], log_probs[:, :, position] = history["tokens"][at], history["log_probs"][at]
            hypothesis = np.where(position < lengths - 1, history["parents"][at], hypothesis)  # else not reached yet
        at_end = np.arange(self.length) == lengths[:, :, None] - 1
        tokens[at_end] = self.end_id
        log_probs = np.where(at_end, finished["log_probs"][:, :, None], log_probs)
        found: list[list[Hypothesis]] = [[] for _ in lengths]
        for place in zip(*np.nonzero(finished["scores"] > -np.inf)):  # (sentence, number) by falling score
            total, score, length = (finished[name][place] for name in ("totals", "scores", "lengths"))
            ids, own = tokens[place][:length].tolist(), log_probs[place][:length]
            found[place[0]].append(Hypothesis(ids, own, float(total), float(score)))
        return found


def best_continuations(log_probs: Tensor, totals: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest totals[i, j] + log_probs[i, j, k] of each sentence i.

    Args:
        log_probs: (sentences, hypotheses, vocabulary) float32, of the next token; -inf: never chosen.
        totals: (sentences, hypotheses) float32, of what was read.
        count: how many; fewer come back where there are fewer.

    Returns:
        sums: (sentences, count) float32, largest first; ties by the earlier hypothesis, then the lower token. On
            a GPU a tie for the last place may fall the other way: to look for one would stop the GPU.
        places: (sentences, count) int64, j * vocabulary + k.
    """
    sentences, hypotheses, vocabulary = log_probs.shape
    count = min(count, hypotheses * vocabulary)
    # One more than asked for, to see whether the last place is tied.
    more = min(count + 1, hypotheses * vocabulary)
    blocks = vocabulary // _BLOCK
    if more > hypotheses * blocks:
        values, places = (log_probs + totals[:, :, None]).flatten(1).topk(more, dim=1)
    else:
        # The `more` blocks with the largest maxima hold the `more` largest values: adding a total keeps the order,
        # so maxima are taken first and only what may win is added up.
        maxima = log_probs[:, :, : blocks * _BLOCK].unflatten(2, (blocks, _BLOCK)).amax(3) + totals[:, :, None]
        winners = maxima.flatten(1).topk(more, dim=1, sorted=False).indices
        parents, first = winners // blocks, winners % blocks * _BLOCK
        if blocks * _BLOCK < vocabulary:  # the columns after the last block, of every hypothesis
            every = torch.arange(hypotheses, device=totals.device).expand(sentences, -1)
            parents = torch.cat([parents, every], dim=1)
            first = torch.cat([first, torch.full_like(every, vocabulary - _BLOCK)], dim=1)
        chosen = (parents * vocabulary + first)[:, :, None] + torch.arange(_BLOCK, device=totals.device)
        sums = log_probs.flatten(1).gather(1, chosen.flatten(1)).view(chosen.shape)
        sums += totals.gather(1, parents)[:, :, None]
        sums[:, more:, : (blocks + 1) * _BLOCK - vocabulary] = -torch.inf  # in the last block as well
        values, order = sums.flatten(1).topk(more, dim=1)
        places = chosen.flatten(1).gather(1, order)
    return _ordered(values, places, log_probs, totals, count)


def _ordered(values: Tensor, places: Tensor, log_probs: Tensor, totals: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` of values, largest first, with ties in their order."""
    if values.device.type != "cpu":
        places, order = places.sort(dim=1)  # so that the stable sort leaves ties by place
        values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
        return values[:, :count], places.gather(1, order)[:, :count]
    tied = ((values[:, 1:] == values[:, :-1]) & (values[:, 1:] > -torch.inf)).any(1)
    if bool(tied.any()):
        rows = tied.nonzero()[:, 0]
        sums = (log_probs[rows] + totals[rows, :, None]).flatten(1)
        ordered, order = sums.sort(dim=1, descending=True, stable=True)
        values, places = values.clone(), places.clone()
        values[rows, :count], places[rows, :count] = ordered[:, :count], order[:, :count]
    return values[:, :count], places[:, :count]
