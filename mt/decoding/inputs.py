"""What the confidence estimator looks at: numbers of each token and each line of the model's own output.

All of it is known once the search is done: nothing needs another pass of the model, and any engine will do. What would
need one (entropy, margin to the second piece, attention) added nothing on text of other kinds (docs/calibration.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mt.corpus.tokenizer import Tokenizer
from mt.metrics.labels import SPACE
from mt.metrics.noise import Floats

_OF_TOKEN = (
    "log_odds",  # of the token's probability, within 8 either way, as all log-odds here
    "probability",
    "log_odds_before",  # of the token before, and after; 8 at the ends
    "log_odds_after",
    "line_log_prob",  # mean log-probability of the line's tokens, nats
    "position",  # share of the line's tokens up to this one
    "repeated",  # how often the piece was put out before in this line, at most 3
    "is_end",
    "starts_word",
    "frequency",  # log (1 + how often the training text holds the piece); 0 where no counts are known
    "length",  # log (tokens of the output)
    "source_frequency",  # mean over the pieces of the source of what frequency is for the output
    "source_fertility",  # log (pieces of the source / its words)
)
TOKEN_INPUTS = (*_OF_TOKEN, *(f"log_odds * {name}" for name in _OF_TOKEN))
"""the products say how much a token's log-odds are worth there: less in a long line, or among doubtful tokens"""
LINE_INPUTS = {
    "probability": ("surer tokens", "less sure tokens"),  # mean probability of the tokens
    "log_prob": ("likelier tokens", "unlikelier tokens"),  # mean log-probability, nats
    "log_prob_by_character": ("likelier long pieces", "unlikelier long pieces"),  # the same, weighted by length
    "least": ("surer at worst", "less sure at worst"),  # lowest log-odds
    "length": ("longer lines", "shorter lines"),  # log (tokens of the output)
    "length_ratio": ("longer than their source", "shorter than their source"),  # log (tokens of output / of source)
    "characters": ("longer pieces", "shorter pieces"),  # characters a token
    "frequency": ("commoner pieces", "rarer pieces"),  # mean over the output, as for tokens
    "source_frequency": ("commoner source pieces", "rarer source pieces"),
    "repeated": ("more repetition", "less repetition"),  # mean over the output, as for tokens
}
"""name: what more and less of it means"""
_FAR = 8.0


class OutputInputs:
    """Inputs of the outputs of one model; `piece_counts`: see LoadedModel."""

    def __init__(self, tokenizer: Tokenizer, piece_counts: tuple[Sequence[int], Sequence[int]] | None) -> None:
        self.end_id = tokenizer.end_id
        self.source_starts, self.starts = (
            np.array([piece.startswith(SPACE) for piece in pieces]) for pieces in tokenizer.vocabularies
        )
        self.characters = np.array([len(piece) for piece in tokenizer.vocabularies[1]], dtype=np.float64)
        self.characters[self.end_id] = 0
        counts = piece_counts or (np.zeros(tokenizer.source_size), np.zeros(tokenizer.target_size))
        self.source_frequency, self.frequency = (np.log1p(np.asarray(side, dtype=np.float64)) for side in counts)

    def __call__(
        self, sources: Sequence[Sequence[int]], outputs: Sequence[Sequence[int]], log_probs: Sequence[Any]
    ) -> tuple[Floats, Floats]:
        """Of outputs with at least one token: ids of sources and outputs, end of sentence last, and the natural log of
        the probability of each token -> (tokens of all outputs, len(TOKEN_INPUTS)), (outputs, len(LINE_INPUTS))."""
        lengths, source_lengths = (np.array([len(ids) for ids in side]) for side in (outputs, sources))
        line = np.repeat(np.arange(len(lengths)), lengths)
        starts, source_starts = (np.cumsum(each) - each for each in (lengths, source_lengths))
        ids, source_ids = (np.concatenate([np.asarray(each) for each in side]) for side in (outputs, sources))

        def per_line(values: Floats, of: Callable[..., Any] = np.add) -> Floats:
            return np.asarray(of.reduceat(values, starts), dtype=np.float64)  # type: ignore[attr-defined]

        log_prob = np.minimum(np.concatenate([np.asarray(each, dtype=np.float64) for each in log_probs]), -1e-6)
        log_odds = (log_prob - np.log(-np.expm1(log_prob))).clip(-_FAR, _FAR)
        probability = np.exp(log_prob)
        before, after = np.roll(log_odds, 1), np.roll(log_odds, -1)
        before[starts] = after[starts + lengths - 1] = _FAR
        mean_log_prob, length = per_line(log_prob) / lengths, np.log(lengths)
        repeated = np.minimum(_times_before(line, ids), 3).astype(np.float64)
        frequency, characters = self.frequency[ids], self.characters[ids]
        words = np.add.reduceat(self.source_starts[source_ids].astype(np.float64), source_starts)
        of_source = np.add.reduceat(self.source_frequency[source_ids], source_starts) / source_lengths
        position = (np.arange(len(line)) - starts[line] + 1) / lengths[line]
        of_token: list[Any] = [log_odds, probability, before, after, mean_log_prob[line], position, repeated]
        of_token += [ids == self.end_id, self.starts[ids], frequency, length[line], of_source[line]]
        of_token += [np.log(source_lengths / words.clip(min=1))[line]]
        of_line: list[Any] = [per_line(probability) / lengths, mean_log_prob]
        of_line += [per_line(log_prob * characters) / per_line(characters).clip(min=1), per_line(log_odds, np.minimum)]
        of_line += [length, np.log(lengths / source_lengths), per_line(characters) / lengths]
        of_line += [per_line(frequency) / lengths, of_source, per_line(repeated) / lengths]
        tokens = np.stack([np.asarray(each, dtype=np.float64) for each in of_token], axis=1)
        return np.hstack([tokens, log_odds[:, None] * tokens]), np.stack(of_line, axis=1)


def _times_before(line: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """For each token how often its id stands before it in its line; `line` rises."""
    order = np.lexsort((ids, line))  # stable: the tokens of a group stay in their order
    new = np.append(True, (np.diff(line[order]) != 0) | (np.diff(ids[order]) != 0))
    first = np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
    times = np.empty_like(order)
    times[order] = np.arange(len(order)) - first
    return times
