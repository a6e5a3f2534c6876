"""What the confidence estimator looks at: numbers of each token and each line of the model's own output.

All of it is known once the search is done: nothing needs another pass of the model, and any engine will do. Measured on
foreign text, entropy, the margin to the second piece and attention added nothing to these (docs/calibration.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mt.corpus.tokenizer import Tokenizer
from mt.metrics.labels import SPACE
from mt.metrics.noise import Floats

TOKEN_INPUTS = (
    "log_odds",  # of the token's probability, within 8 either way, as all log-odds here
    "log_odds_before",  # of the token before, and after; 8 at the ends
    "log_odds_after",
    "line_log_prob",  # mean log-probability of the line's tokens, nats
    "line_least",  # the lowest log-odds in the line
    "position",  # share of the line's tokens up to this one
    "repeated",  # how often the piece was put out before in this line, at most 3
    "is_end",
    "end_log_odds",  # log_odds where the token ends the line, else 0
    "starts_word",
    "frequency",  # log (1 + how often the training text holds the piece); 0 where no counts are known
    "source_frequency",  # its mean over the pieces of the source
    "source_fertility",  # log (pieces of the source / its words)
    "length_ratio",  # log (tokens of output / of source)
)
LINE_INPUTS = {
    "probability": ("surer", "less sure"),  # mean probability of the tokens
    "log_prob": ("surer", "less sure"),  # mean log-probability, nats
    "total": ("likelier as a whole", "less likely as a whole"),  # sum of log-probabilities, nats
    "least": ("surer where least sure", "less sure where least sure"),  # lowest log-odds
    "log_odds": ("surer", "less sure"),  # mean
    "doubtful": ("more doubtful tokens", "fewer doubtful tokens"),  # share of tokens below probability 1/2
    "length": ("longer", "shorter"),  # log (tokens of output)
    "length_ratio": ("longer than its source", "shorter than its source"),
    "frequency": ("commoner pieces", "rarer pieces"),  # mean over the output, as for tokens
    "source_frequency": ("commoner source pieces", "rarer source pieces"),
    "source_fertility": ("source words in more pieces", "source words in fewer pieces"),
    "repeated": ("more repetition", "less repetition"),  # mean of the tokens'
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
        total, least, log_odds_sum = per_line(log_prob), per_line(log_odds, np.minimum), per_line(log_odds)
        before, after = np.roll(log_odds, 1), np.roll(log_odds, -1)
        before[starts] = after[starts + lengths - 1] = _FAR
        repeated = np.minimum(_times_before(line, ids), 3).astype(np.float64)
        is_end = (ids == self.end_id).astype(np.float64)
        words = np.add.reduceat(self.source_starts[source_ids].astype(np.float64), source_starts)
        of_source = np.add.reduceat(self.source_frequency[source_ids], source_starts) / source_lengths
        fertility = np.log(source_lengths / words.clip(min=1))
        ratio = np.log(lengths / source_lengths)
        tokens = (
            *(log_odds, before, after, (total / lengths)[line], least[line]),
            *((np.arange(len(line)) - starts[line] + 1) / lengths[line], repeated, is_end, is_end * log_odds),
            *(self.starts[ids].astype(np.float64), self.frequency[ids]),
            *(each[line] for each in (of_source, fertility, ratio)),
        )
        lines = (
            *(per_line(np.exp(log_prob)) / lengths, total / lengths, total, least, log_odds_sum / lengths),
            *(per_line((log_prob < np.log(0.5)).astype(np.float64)) / lengths, np.log(lengths), ratio),
            *(per_line(self.frequency[ids]) / lengths, of_source, fertility, per_line(repeated) / lengths),
        )
        return np.stack(tokens, axis=1), np.stack(lines, axis=1)


def _times_before(line: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """For each token how often its id stands before it in its line; `line` rises."""
    order = np.lexsort((ids, line))  # stable: the tokens of a group stay in their order
    new = np.append(True, (np.diff(line[order]) != 0) | (np.diff(ids[order]) != 0))
    first = np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))
    times = np.empty_like(order)
    times[order] = np.arange(len(order)) - first
    return times
