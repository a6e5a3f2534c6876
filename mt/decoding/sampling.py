"""Sampling: outputs drawn from the model's distribution, at a temperature and cut to the likeliest tokens; and
minimum Bayes risk, which chooses among them.

The random numbers of a sample depend on its sentence's seed and its own number alone, so what is drawn for a
sentence depends neither on the others of its batch nor on how many samples are drawn.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mt.config import SearchConfig
from mt.decoding.beam_search import normalised, tempered
from mt.decoding.constraints import Constraints
from mt.decoding.types import AnyState, Hypothesis, Step, normalised_score

Floats = NDArray[np.float64]
_ORDER, _BETA = 6, 2  # of chrF, sacreBLEU's defaults


@torch.inference_mode()
def sample(
    step: Step[AnyState],
    state: AnyState,
    constraints: Constraints,
    seeds: Sequence[Sequence[int]],
    options: SearchConfig,
    begin_id: int,
) -> list[list[Hypothesis]]:
    """Draws outputs of each sentence.

    Args:
        step, state, constraints, begin_id: as in `beam_search`.
        seeds: for each sentence whole numbers, at least 0.
        options: `wanted` samples of each sentence are drawn, independently, at the temperature, from the `top_k`
            likeliest tokens (Fan et al. 2018, section 5.1), from those that together reach `top_p` (Holtzman et al.
            2020, section 3.1) or from those of at least probability `epsilon` (Hewitt et al. 2022, section 4). The
            length penalty has its part in the score, none in what is drawn.

    Returns:
        For each sentence its samples, the best score first; one that was drawn twice stands there twice.
        `total` is of the model's own log-probabilities.
    """
    sentences, longest, count = len(seeds), constraints.longest, options.wanted
    numbers = _uniform_numbers(constraints, seeds, count)
    device = numbers.device
    live = torch.arange(sentences * count, device=device).view(sentences, count)  # which samples the rows are
    ended = torch.zeros_like(live, dtype=torch.bool)
    tokens = torch.full((longest, sentences * count), constraints.end_id, device=device)
    log_probs = torch.zeros((longest, sentences * count), device=device)
    chosen = torch.full((sentences,), begin_id, device=device)
    for position in range(longest):
        own = normalised(step(chosen, state))
        if position == 0:
            state.expand(count)
            own = own.repeat_interleave(count, dim=0)
        rows = live.flatten()
        searched = tempered(own.clone(), options.temperature)  # cloned: `apply` writes into it, `own` is reported
        written = tokens[:position, rows].T if constraints.no_repeat_ngram else None
        constraints.apply(searched, position + 1, written)
        chosen = _drawn(searched, numbers[position, rows], options.top_k, options.top_p, options.epsilon)
        chosen = chosen.masked_fill(ended.flatten(), constraints.end_id)
        tokens[position, rows] = chosen
        log_probs[position, rows] = own.gather(1, chosen[:, None])[:, 0]
        ended = ended | (chosen == constraints.end_id).view(ended.shape)
        unfinished = (~ended.all(1)).nonzero()[:, 0]
        if not len(unfinished):
            break
        if len(unfinished) < len(live):
            places = torch.arange(live.numel(), device=device).view(live.shape)[unfinished].flatten()
            live, ended, chosen = live[unfinished], ended[unfinished], chosen[places]
            constraints.select(unfinished)
            state.select(places)
    return _hypotheses(tokens, log_probs, constraints.end_id, options)


def _uniform_numbers(constraints: Constraints, seeds: Sequence[Sequence[int]], count: int) -> Tensor:
    """(longest, sentences * count) float64 in [0, 1), one for each token of each sample."""
    uniform = np.zeros((constraints.longest, len(seeds) * count))
    for sentence, length in enumerate(constraints.max_lengths.tolist()):
        for number in range(count):
            generator = np.random.default_rng([number, *seeds[sentence]])
            uniform[:length, sentence * count + number] = generator.random(length)
    return torch.from_numpy(uniform).to(constraints.max_lengths.device)


def _drawn(log_probs: Tensor, numbers: Tensor, top_k: int, top_p: float, epsilon: float) -> Tensor:
    """(rows,) tokens: where the cumulative probability of (rows, vocabulary) passes numbers (rows,) in [0, 1)."""
    ids = None
    if top_p < 1:
        log_probs, ids = log_probs.sort(dim=1, descending=True, stable=True)
        log_probs, ids = (log_probs[:, :top_k], ids[:, :top_k]) if top_k else (log_probs, ids)
    elif 0 < top_k < log_probs.size(1):
        log_probs, ids = log_probs.topk(top_k, dim=1)
    if epsilon:  # of all tokens, before they are cut to the likeliest
        likeliest = log_probs.max(1, keepdim=True).values
        log_probs = log_probs.masked_fill((log_probs < math.log(epsilon)) & (log_probs < likeliest), -torch.inf)
    probabilities = log_probs.double().softmax(1)
    cumulative = probabilities.cumsum(1)
    if top_p < 1:
        # A token is kept if those before it do not yet reach top_p: at least the first one.
        kept = cumulative - probabilities < top_p
        kept[:, 0] = True
        cumulative = cumulative.masked_fill(~kept, 0).cummax(1).values  # dropped: no width
    places = torch.searchsorted(cumulative, numbers[:, None] * cumulative[:, -1:], right=True)
    # Rounding must not lead past the last token that may be drawn.
    places = torch.minimum(places, torch.searchsorted(cumulative, cumulative[:, -1:].contiguous()))
    return places[:, 0] if ids is None else ids.gather(1, places)[:, 0]


def _hypotheses(tokens: Tensor, log_probs: Tensor, end_id: int, options: SearchConfig) -> list[list[Hypothesis]]:
    found = []
    for row, scores in zip(tokens.T.cpu().numpy(), log_probs.T.cpu().numpy()):
        length = int(np.argmax(row == end_id)) + 1
        total = float(scores[:length].sum(dtype=np.float64))
        score = normalised_score(total, options.length_penalty, length, options.length_alpha)
        found.append(Hypothesis(row[:length].tolist(), scores[:length], total, score))
    return [
        sorted(found[first : first + options.wanted], key=lambda each: (-each.score, each.tokens))
        for first in range(0, len(found), options.wanted)
    ]


def by_expected_chrf(hypotheses: Sequence[Hypothesis], texts: Sequence[str]) -> list[Hypothesis]:
    """Minimum Bayes risk (Kumar and Byrne 2004; Eikema and Aziz 2020): the hypotheses of one sentence by falling mean
    of chrF(hypothesis, other) over all of them, each as often as it was drawn. That mean becomes their score. Of equal
    texts, which are those of the hypotheses, the first one stays and counts for all."""
    counts = Counter(texts)
    first = dict(zip(reversed(texts), reversed(hypotheses)))  # reversed: of equal texts the first one stays
    expected = pairwise_chrf(list(counts)) @ (np.array(list(counts.values())) / max(len(texts), 1))
    found = [first[text]._replace(score=float(score)) for text, score in zip(counts, expected)]
    return sorted(found, key=lambda hypothesis: -hypothesis.score)


def pairwise_chrf(texts: Sequence[str]) -> Floats:
    """(texts, texts): sacreBLEU's sentence chrF, 0 to 100, of each text as hypothesis against each other as reference.

    Of all pairs at once: the n-grams that two texts share are counted by one product of 0/1 matrices.
    """
    characters = ["".join(text.split()) for text in texts]  # as sacreBLEU, whose chrF leaves out white space
    precision, recall, orders = (np.zeros((len(texts), len(texts))) for _ in range(3))
    for size in range(1, _ORDER + 1):
        counts, shared = _matches(characters, size)
        both = (counts[:, None] > 0) & (counts[None] > 0)  # sacreBLEU averages over these orders only
        precision += np.where(both, shared / np.maximum(counts[:, None], 1), 0)
        recall += np.where(both, shared / np.maximum(counts[None], 1), 0)
        orders += both
    precision, recall = precision / np.maximum(orders, 1), recall / np.maximum(orders, 1)
    below = _BETA**2 * precision + recall
    return np.asarray(100 * (1 + _BETA**2) * precision * recall / np.where(below > 0, below, 1))


def _matches(texts: Sequence[str], size: int) -> tuple[Floats, Floats]:
    """How many n-grams of this size each text has, (texts,), and how many two share, (texts, texts)."""
    places: dict[tuple[str, int], int] = {}
    rows, columns = [], []
    for row, text in enumerate(texts):
        seen: Counter[str] = Counter()
        for start in range(len(text) - size + 1):
            ngram = text[start : start + size]
            # The second occurrence of an n-gram matches a second occurrence only.
            columns.append(places.setdefault((ngram, seen[ngram]), len(places)))
            rows.append(row)
            seen[ngram] += 1
    present = np.zeros((len(texts), len(places)), dtype=np.float32)  # counts this small are exact in float32
    present[rows, columns] = 1
    return present.sum(1, dtype=np.float64), (present @ present.T).astype(np.float64)
