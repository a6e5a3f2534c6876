"""The exact distribution of the next token, given the translations of a source and a tokeniser."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence


class TokenTruth:
    """Tokenised translations of one source, summed by prefix.

    Two translations that the tokeniser cannot tell apart count as one.
    """

    def __init__(self, translations: Mapping[str, float], encode: Callable[[str], Sequence[int]], end_id: int) -> None:
        self.sequences: dict[tuple[int, ...], float] = {}
        for text, probability in translations.items():
            tokens = (*encode(text), end_id)
            self.sequences[tokens] = self.sequences.get(tokens, 0.0) + probability
        self._following: dict[tuple[int, ...], dict[int, float]] = {}
        for tokens, probability in self.sequences.items():
            for length, token in enumerate(tokens):
                row = self._following.setdefault(tokens[:length], {})
                row[token] = row.get(token, 0.0) + probability

    def next(self, prefix: Sequence[int]) -> dict[int, float] | None:
        """Probability of each possible next token id after `prefix`; None where no translation begins so."""
        row = self._following.get(tuple(prefix))
        if row is None:
            return None
        total = math.fsum(row.values())
        return {token: probability / total for token, probability in row.items()}

    def entropy(self) -> float:
        """Entropy of the whole token sequence, nats; divided by `expected_tokens` it is the entropy per token."""
        return -math.fsum(p * math.log(p) for p in self.sequences.values() if p > 0)

    def expected_tokens(self) -> float:
        """Expected number of tokens of a translation, end of sentence included."""
        return math.fsum(p * len(tokens) for tokens, p in self.sequences.items())


def next_token_distribution(
    translations: Mapping[str, float], encode: Callable[[str], Sequence[int]], end_id: int, prefix: Sequence[int]
) -> dict[int, float] | None:
    """`TokenTruth(...).next(prefix)` for a single question: ids to probabilities; None outside the truth's support."""
    return TokenTruth(translations, encode, end_id).next(prefix)
