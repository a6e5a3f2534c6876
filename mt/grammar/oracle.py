"""The oracle distribution: on text of the grammar, the true probability of every next token of a translation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

from mt.grammar.grammar import Grammar
from mt.processes import available_cores, ordered_map
from mt.progress import progress_bar

Row = tuple[np.ndarray, np.ndarray]
"""ids that can come next, int64, and their true probabilities, float64"""


class OracleDistribution:
    """The true distribution over token sequences, given one source.

    Two translations that the tokeniser cannot tell apart count as one.
    """

    def __init__(self, sequences: Iterable[Sequence[int]], probabilities: Iterable[float]) -> None:
        """`sequences`: ids of each translation, end of sentence last; `probabilities`: theirs."""
        self.sequences: dict[tuple[int, ...], float] = {}
        for ids, probability in zip(sequences, probabilities):
            self.sequences[tuple(ids)] = self.sequences.get(tuple(ids), 0.0) + probability
        self._next: dict[tuple[int, ...], dict[int, float]] = {}
        for ids, probability in self.sequences.items():
            for length, token in enumerate(ids):
                row = self._next.setdefault(ids[:length], {})
                row[token] = row.get(token, 0.0) + probability

    def next(self, prefix: Sequence[int]) -> Row:
        """The distribution of the token after `prefix`; empty where no translation begins so."""
        row = self._next.get(tuple(prefix), {})
        total = math.fsum(row.values())  # exact, in whatever order translations come
        return np.array(list(row), dtype=np.int64), np.array([each / total for each in row.values()], dtype=np.float64)

    def entropy(self) -> float:
        """Entropy of the whole token sequence, nats; divided by `expected_tokens` it is the entropy per token."""
        return -math.fsum(p * math.log(p) for p in self.sequences.values() if p > 0)

    def expected_tokens(self) -> float:
        """Expected number of tokens of a translation, end of sentence included."""
        return math.fsum(p * len(ids) for ids, p in self.sequences.items())

    def nll(self, ids: Sequence[int]) -> float:
        """-log of the probability of a translation, nats; of 1e-300 where it is none."""
        return -math.log(self.sequences.get(tuple(ids), 0.0) or 1e-300)


class Oracle(NamedTuple):
    """What is true of a test set of the grammar."""

    translations: list[dict[str, float]]
    """those of each source with their probabilities, most probable first"""
    rows: list[list[Row]]
    """for each source the distribution before each token of its reference"""
    entropy: float
    """nats per expected token"""
    nll: float
    """of the references, nats per token; it differs from the entropy by the luck of the draw"""


Encode = Callable[[list[str]], list[list[int]]]
"""ids of translations, end of sentence last"""


def oracle_of(languages: tuple[str, str], sources: list[str], references: list[str], encode: Encode) -> Oracle:
    """The oracle of sentences of the grammar, each with one reference, worked out on all cores.

    Raises:
        UserError: a source that the grammar cannot have produced, or languages it does not have.
    """
    listed: list[dict[str, float]] = []
    rows: list[list[Row]] = []
    entropy = expected_tokens = nll = tokens = 0.0
    Grammar.load(*languages)  # an unknown language is refused here, once
    processes = min(available_cores(), max(1, len(sources) // 50))  # each has to load the grammar, a second
    results = ordered_map(partial(_translations, languages), sources, processes=processes, alone=0)
    with progress_bar(len(sources), "truth", "line") as bar:
        for translations, reference in zip(results, references):
            *sequences, reference_ids = encode([*translations, reference])
            distribution = OracleDistribution(sequences, translations.values())
            listed.append(translations)
            rows.append([distribution.next(reference_ids[:place]) for place in range(len(reference_ids))])
            entropy += distribution.entropy()
            expected_tokens += distribution.expected_tokens()
            nll += distribution.nll(reference_ids)
            tokens += len(reference_ids)
            bar.update()
    return Oracle(listed, rows, entropy / expected_tokens, nll / tokens)


def _translations(languages: tuple[str, str], source: str) -> dict[str, float]:
    return _loaded(*languages).translations(source)


_loaded = lru_cache(maxsize=1)(Grammar.load)  # once in each process: it takes a second
