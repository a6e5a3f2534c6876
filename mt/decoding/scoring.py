"""Forced decoding: what the model thinks of given translations, token by token, and what it looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from mt.config import SearchConfig
from mt.decoding.records import shortened, token_fields
from mt.decoding.sources import length_groups, padded
from mt.decoding.types import Hypothesis, normalised_score
from mt.model.directory import LoadedModel
from mt.model.layers import DecoderLayer
from mt.model.transformer import Transformer

_WINDOW = 4000  # pairs that are sorted by length at a time
_BLOCK = 512  # tokens whose scores over the whole vocabulary exist at a time

Transform = Callable[[Tensor], Tensor]
"""(tokens, vocabulary) float32 log-probabilities -> as many recalibrated ones"""


class Distributions(NamedTuple):
    """Whole distributions of the next token, for a block of tokens."""

    log_probs: Tensor
    """(tokens, vocabulary) float32, after the transform if there is one"""
    target_ids: Tensor
    """(tokens,) int64"""
    pairs: np.ndarray
    """(tokens,) int64, which pair of the call each token is of"""
    positions: np.ndarray
    """(tokens,) int64, from 0"""
    hidden: Tensor
    """(tokens, width), the decoder's last states, which `Transformer.logits` multiplies with the output matrix"""


class ForcedScores(NamedTuple):
    """One pair; each field (target tokens,), end of sentence included."""

    log_probs: np.ndarray
    """float32, natural log of the probability of each target token given the ones before it"""
    confidence: np.ndarray
    """float32, probability of the likeliest token there"""
    correct: np.ndarray
    """bool, whether the likeliest token is the target's"""
    predicted: np.ndarray
    """int64, id of the likeliest token"""
    squares: np.ndarray
    """float32, sum of the squared probabilities of all tokens there (for the Brier score)"""

    @property
    def total(self) -> float:
        """Sum of log_probs, nats."""
        return float(self.log_probs.sum(dtype=np.float64))


def score_pairs(
    loaded: LoadedModel,
    sources: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    *,
    transform: Transform | None = None,
    observe: Callable[[Distributions], None] | None = None,
) -> Iterator[ForcedScores]:
    """Scores each target given its source, in order, over the vocabulary for a few hundred tokens at a time.

    Args:
        loaded: the model.
        sources, targets: ids, end of sentence last, no beginning.
        transform: recalibrates the distributions; all that comes out is of those.
        observe: is shown the distributions of a few hundred tokens at a time, each token once, in any order, by the
            time its pair's result comes; they are gone when it returns.
    """
    for start in range(0, len(sources), _WINDOW):
        window = range(start, min(start + _WINDOW, len(sources)))
        results: dict[int, ForcedScores] = {}
        lengths = [max(len(sources[pair]), len(targets[pair])) for pair in window]
        for group in length_groups(lengths, loaded.config.decode.batch_tokens):
            pairs = {window[place]: (sources[window[place]], targets[window[place]]) for place in group}
            results |= zip(pairs, _score_batch(loaded, pairs, transform, observe))
        for pair in window:
            yield results.pop(pair)


def forced_hypotheses(
    loaded: LoadedModel, sources: Sequence[Sequence[int]], outputs: Sequence[Sequence[list[int]]], options: SearchConfig
) -> list[list[Hypothesis]]:
    """Outputs (ids, of each source several) that were found without the model's whole distribution as hypotheses
    with the model's own scores, best first."""
    repeated = [source for source, each in zip(sources, outputs) for _ in each]
    forced = score_pairs(loaded, repeated, [ids for each in outputs for ids in each])
    found: list[list[Hypothesis]] = [[] for _ in sources]
    for hypotheses, each in zip(found, outputs):
        for ids, scores in zip(each, forced):
            score = normalised_score(scores.total, options.length_penalty, len(ids), options.length_alpha)
            hypotheses.append(Hypothesis(ids, scores.log_probs, scores.total, score))
        hypotheses.sort(key=lambda hypothesis: -hypothesis.score)
    return found


def score_lines(loaded: LoadedModel, pairs: Iterable[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """Scores pairs of lines, in order, reading a window of them at a time.

    Yields:
        For each pair line (from 0), source, target, score (sum of log_probs, nats), confidence (mean of
        token_confidence), tokens, log_probs and token_confidence of the target as the tokeniser splits it; unknown and
        target_unknown, the tokens that no piece is known for; and overlong, whether the source has more tokens than
        the config's decode.max_length. It is read whole all the same: translation splits it, and its score is then the
        sum over parts that a given target cannot be divided into.
    """
    tokenizer, longest, unknown_id = loaded.tokenizer, loaded.config.decode.max_length, loaded.tokenizer.unknown_id
    pairs, numbers = iter(pairs), count()
    while window := list(islice(pairs, _WINDOW)):
        source_ids = tokenizer.encode_source([source for source, _ in window])
        target_ids = tokenizer.encode_target([target for _, target in window])
        scored = score_pairs(loaded, source_ids, target_ids)
        for (source, target), read, ids, scores, line in zip(window, source_ids, target_ids, scored, numbers):
            given = {"line": line, "source": source, "target": target, "score": shortened(scores.total)}
            told = {"unknown": read.count(unknown_id), "target_unknown": ids.count(unknown_id)}
            of_tokens = token_fields(tokenizer.target_pieces(ids), scores.log_probs)
            yield {**given, **of_tokens, **told, "overlong": len(read) > longest}


@torch.inference_mode()
def _score_batch(
    loaded: LoadedModel,
    pairs: dict[int, tuple[Sequence[int], Sequence[int]]],
    transform: Transform | None,
    observe: Callable[[Distributions], None] | None,
) -> list[ForcedScores]:
    """The scores of pairs (number of the pair: ids of source and target), by one pass of the model over them."""
    model, tokenizer = loaded.model, loaded.tokenizer
    device = model.output_weight.device
    sources, targets = zip(*pairs.values())
    lengths = [len(target) for target in targets]
    target_ids = padded(targets, tokenizer.pad_id, device)
    target_input = target_ids.roll(1, dims=1)
    target_input[:, 0] = tokenizer.begin_id  # over the last token, which has rolled round to here
    hidden = model.decode(target_input, model.encode(padded(sources, tokenizer.pad_id, device)))
    real = torch.arange(target_ids.size(1), device=device) < torch.tensor(lengths, device=device)[:, None]
    hidden, target_ids = hidden[real], target_ids[real]  # (tokens, width), (tokens,)
    numbers = np.repeat(list(pairs), lengths)
    positions = np.concatenate([np.arange(length) for length in lengths])
    parts = []
    for first in range(0, len(target_ids), _BLOCK):
        rows = slice(first, first + _BLOCK)
        ids = target_ids[rows]
        log_probs = model.logits(hidden[rows]).float().log_softmax(-1)
        if transform is not None:
            log_probs = transform(log_probs).float()
        if observe is not None:
            observe(Distributions(log_probs, ids, numbers[rows], positions[rows], hidden[rows]))
        best, best_ids = log_probs.max(-1)
        chosen = log_probs.gather(1, ids[:, None])[:, 0]
        # The squares come last, in place: nobody needs the block any more.
        parts.append((chosen, best.exp(), best_ids == ids, best_ids, log_probs.mul_(2).exp_().sum(-1)))
    fields = (torch.cat(field).cpu().numpy() for field in zip(*parts))
    return [ForcedScores(*own) for own in zip(*(np.split(field, np.cumsum(lengths)[:-1]) for field in fields))]


def alignments(
    loaded: LoadedModel, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], batch_tokens: int
) -> list[list[list[int]]]:
    """Aligns outputs with their sources (ids, end of sentence last) by the model's attention to the source.

    The weights of the last decoder layer but one, averaged over its heads, follow word alignments best (Garg et al.
    2019, section 4.1). They are read where the output token is predicted. Returned is [source token, output token] for
    each token of each output but its end, counted from 0; the end of the source is aligned with nothing.
    """
    found: list[list[list[int]]] = [[] for _ in sources]
    pad_id, device = loaded.tokenizer.pad_id, loaded.model.output_weight.device
    lengths = [max(len(source), len(target)) for source, target in zip(sources, targets)]
    for group in length_groups(lengths, batch_tokens):
        read = padded([[loaded.tokenizer.begin_id, *targets[index][:-1]] for index in group], pad_id, device)
        weights = attention(loaded.model, padded([sources[index] for index in group], pad_id, device), read)
        for row, index in zip(weights, group):
            words = len(sources[index]) - 1
            if words:
                best = row[: len(targets[index]) - 1, :words].argmax(-1).tolist()
                found[index] = [[source, target] for target, source in enumerate(best)]
    return found


@torch.inference_mode()
def attention(model: Transformer, source_ids: Tensor, target_input: Tensor) -> Tensor:
    """Attention of the last decoder layer but one to the source, the mean over its heads: (batch, target_length,
    source_length), each row sums to 1, 0 at padding; arguments as `Transformer.forward` reads them."""
    layer = cast(DecoderLayer, model.decoder[max(len(model.decoder) - 2, 0)])
    seen: list[tuple[Any, ...]] = []
    # Torch's attention returns no weights: they are computed again from what goes into it.
    hook = layer.cross.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    try:
        model(source_ids, target_input)
    finally:
        hook.remove()
    hidden, projected, mask = seen[0]
    keys = projected[0]  # (batch, heads, source_length, head_width)
    query = layer.cross.query(hidden).unflatten(2, (keys.size(1), -1)).transpose(1, 2)
    scores = query @ keys.transpose(2, 3) * keys.size(-1) ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1).mean(1)
