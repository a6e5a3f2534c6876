"""Subword sampling: a random segmentation of each word, exact and reproducible in any process.

SentencePiece can sample by itself, but not reproducibly: in version 0.2.3 the same seed gives other segmentations in
each process, so that no training could be continued exactly. Here the model gives its pieces, and NumPy draws the
segmentation:

- unigram models: forward filtering, backward sampling over all segmentations, each with probability proportional to
  p ** alpha (Kudo 2018, "Subword Regularization", section 3.2, l = infinity);
- BPE models: BPE-dropout (Provilkov et al. 2020): before each merge, every possible merge is left out with the given
  probability; the best of the others is done; without any, the word is finished. (SentencePiece leaves a merge out once
  and for all: there the same probability makes smaller pieces.)

Pieces never cross a word boundary, so words are drawn one by one, all words of about the same length at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from mt.corpus.batching import pad_batch

SPACE = "▁"  # SentencePiece's sign for a space, the first character of each word
_REMEMBERED = 100_000  # words whose pieces are remembered, about 1 kB each


class SubwordSampler:
    """Draws segmentations with the pieces of a loaded SentencePieceProcessor, BPE or unigram."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        special = (processor.is_control, processor.is_unknown, processor.is_byte, processor.is_unused)
        ids = range(processor.get_piece_size())
        self._pieces = {processor.id_to_piece(piece): piece for piece in ids if not any(is_(piece) for is_ in special)}
        self._scores = np.array([processor.get_score(piece) for piece in ids])
        # the score of a BPE piece is its rank, negated; that of a unigram piece a natural logarithm
        self._unigram = not all(self._scores[piece].is_integer() for piece in self._pieces.values())
        self._longest = max(map(len, self._pieces), default=1)
        self._pieces_inside = lru_cache(_REMEMBERED)(self._find_pieces)

    def encode(self, lines: Sequence[str], sampling: float, seed: int) -> list[list[int]]:
        """As `Tokenizer.encode_sampled`; some ten thousand lines at a time."""
        generator = np.random.PCG64(np.random.SeedSequence([seed, 0]))
        numbers: dict[str, int] = {}  # of the different words
        text: list[int] = []  # every word in order, as its number
        line_ends = []
        for line in self._processor.normalize(list(lines)):
            text += [numbers.setdefault(SPACE + word, len(numbers)) for word in line.split(SPACE) if word]
            line_ends.append(len(text))
        vocabulary, words = list(numbers), np.array(text, dtype=np.int64)
        lengths = np.array([self._padded_length(word) for word in vocabulary], dtype=np.int64)
        # Of each drawn piece its id, and the place in the text of the word that it is of.
        found, places = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
        for length in np.unique(lengths).tolist():
            members, where = np.flatnonzero(lengths == length), np.flatnonzero(lengths[words] == length)
            group = [vocabulary[number] for number in members.tolist()]
            pieces = self._segment(group, length, np.searchsorted(members, words[where]), sampling, generator)
            rows, columns = np.nonzero(pieces >= 0)
            found.append(pieces[rows, columns])
            places.append(where[rows])
        place = np.concatenate(places)
        order = np.argsort(place, kind="stable")  # the pieces of a word stay in order
        of_lines = np.split(np.concatenate(found)[order], np.searchsorted(place[order], line_ends))[:-1]
        return [[*line.tolist(), self._processor.eos_id()] for line in of_lines]

    def _padded_length(self, word: str) -> int:
        """Words are drawn together with those of the same padded length; 0: not drawn but encoded."""
        if not all(character in self._pieces for character in word):
            return 0
        step = 4 if len(word) <= 32 else 32
        return -(-len(word) // step) * step

    def _segment(
        self, texts: list[str], length: int, words: np.ndarray, sampling: float, generator: np.random.PCG64
    ) -> np.ndarray:
        """(words, width) ids of each word of a group in order, with -1 between and after them."""
        if length == 0:
            return pad_batch(self._processor.encode([text[1:] for text in texts]), -1)[words]
        inside = [self._pieces_inside(text) for text in texts]
        rows = np.repeat(np.arange(len(texts)), [found.shape[1] for found in inside])
        end, characters, ids = np.concatenate(inside, axis=1)
        shape = len(texts), length, min(length, self._longest)
        spans = _Spans(np.array(list(map(len, texts))), np.full(shape, -1, dtype=np.int64), np.full(shape, -np.inf))
        spans.piece[rows, end, characters - 1] = ids
        spans.score[rows, end, characters - 1] = self._scores[ids]
        return (_sample_unigram if self._unigram else _drop_merges)(spans, words, sampling, generator)

    def _find_pieces(self, text: str) -> np.ndarray:
        """(3, pieces) int32: last character, number of characters and id of every piece inside a word."""
        found = [
            (end - 1, end - start, self._pieces[text[start:end]])
            for end in range(1, len(text) + 1)
            for start in range(max(0, end - self._longest), end)
            if text[start:end] in self._pieces
        ]
        return np.array(found, dtype=np.int32).T


class _Spans(NamedTuple):
    """The pieces inside each word of a group, by where they end."""

    lengths: np.ndarray  # (words,) characters of each word
    # (words, length, widest) int64; [w, e, n] is the id of the piece of n + 1 characters that ends with character e of
    # word w, or -1: there is no such piece
    piece: np.ndarray
    score: np.ndarray  # the same shape, float64: its score, or -inf


def _uniform(generator: np.random.PCG64, *shape: int) -> np.ndarray:
    """Numbers in [0, 1) from the raw stream of PCG64, which no NumPy version changes."""
    raw = np.asarray(generator.random_raw(int(np.prod(shape))), dtype=np.uint64)
    return np.asarray((raw >> np.uint64(11)) * 2.0**-53).reshape(shape)  # 53 bits, all that float64 holds


def _sample_unigram(spans: _Spans, words: np.ndarray, alpha: float, generator: np.random.PCG64) -> np.ndarray:
    """Forward filtering over each different word, backward sampling for each occurrence.

    (words, length) int64: the id of the piece that ends with this character, or -1.
    """
    count, length, widest = spans.score.shape
    forward = np.full((count, length + 1), -np.inf)  # log of the summed weight of all segmentations so far
    forward[:, 0] = 0
    cumulative = np.zeros((count, length, widest))  # of the last piece's number of characters
    for end in range(length):
        characters = min(end + 1, widest)
        weight = forward[:, end::-1][:, :characters] + alpha * spans.score[:, end, :characters]
        most = weight.max(axis=1, keepdims=True)
        most[np.isneginf(most)] = 0  # beyond the end of a shorter word
        summed = np.cumsum(np.exp(weight - most), axis=1)
        with np.errstate(divide="ignore"):
            forward[:, end + 1] = most[:, 0] + np.log(summed[:, -1])
        cumulative[:, end, :characters] = summed
        cumulative[:, end, characters:] = summed[:, -1:]
    drawn = np.full((len(words), length), -1, dtype=np.int64)
    position = spans.lengths[words]
    rows = np.arange(len(words))
    while len(rows):
        end = position[rows] - 1
        table = cumulative[words[rows], end]
        # strictly below the total, so that the last piece with any weight is the last choice
        choice = (table <= (_uniform(generator, len(rows)) * table[:, -1])[:, None]).sum(axis=1)
        drawn[rows, end] = spans.piece[words[rows], end, choice]
        position[rows] -= choice + 1
        rows = rows[position[rows] > 0]
    return drawn


def _drop_merges(spans: _Spans, words: np.ndarray, dropout: float, generator: np.random.PCG64) -> np.ndarray:
    """BPE-dropout for each occurrence; result as in `_sample_unigram`."""
    _, length, widest = spans.score.shape
    drawn = np.full((len(words), length), -1, dtype=np.int64)
    rows = np.arange(len(words))
    # (rows, symbols + 1): where each symbol begins and the next one ends; past the end of a word: its length
    borders = np.minimum(np.arange(length + 1), spans.lengths[words][:, None])
    while len(rows):
        merged = borders[:, 2:] - borders[:, :-2]  # characters of each two neighbours
        score = np.full(merged.shape, -np.inf)
        row, column = np.nonzero((merged <= widest) & (borders[:, 2:] > borders[:, 1:-1]))
        end = borders[row, column + 2] - 1
        score[row, column] = spans.score[words[rows[row]], end, merged[row, column] - 1]
        if dropout > 0:
            score[_uniform(generator, *score.shape) < dropout] = -np.inf
        best = score.argmax(axis=1) if score.shape[1] else np.zeros(len(rows), dtype=np.int64)
        goes_on = np.isfinite(score.max(axis=1, initial=-np.inf))
        done, ends = rows[~goes_on], borders[~goes_on]  # the symbols of a word that is finished are its pieces
        size = np.diff(ends, axis=1)
        row, column = np.nonzero(size)
        end = ends[row, column + 1] - 1
        drawn[done[row], end] = spans.piece[words[done[row]], end, size[row, column] - 1]
        rows, borders, best = rows[goes_on], borders[goes_on], best[goes_on]
        column = np.arange(borders.shape[1] - 1)
        borders = np.where(column <= best[:, None], borders[:, :-1], borders[:, 1:])
    return drawn
