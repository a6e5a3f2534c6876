"""Made-up text, for measurements without a corpus: nothing of it means anything, but its lengths are real ones."""

from __future__ import annotations

import random
from functools import cache

from mt.config import TokenizerConfig
from mt.corpus.tokenizer import Tokenizer, train_tokenizer

VOCABULARY = 8000

# Multi30k's German test set: words of a line at the 5th, 15th, ..., 95th percentile.
_WORDS_OF_LINES = (6, 8, 9, 9, 10, 11, 12, 13, 15, 19)


def random_lines(count: int, seed: int) -> list[str]:
    """Lines of made-up words, as long as those of Multi30k."""
    generator = random.Random(seed)
    words = _words()
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    return [" ".join(generator.choices(words, weights, k=generator.choice(_WORDS_OF_LINES))) for _ in range(count)]


@cache
def random_tokenizer() -> Tokenizer:
    """8,000 pieces learnt from such lines."""
    text = random_lines(8_000, 3)
    return train_tokenizer(TokenizerConfig(algorithm="bpe", vocabulary_size=VOCABULARY), text, text)


def _words() -> list[str]:
    generator = random.Random(1)
    syllables = [first + second for first in "bdfghklmnprstvwz" for second in "aeiou"]
    return sorted({"".join(generator.choices(syllables, k=generator.randint(1, 4))) for _ in range(12_000)}, key=len)
