"""From subword tokens to words: which tokens form a word, and how confident the system is of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

END = "</s>"
SPACE = "\u2581"
"""what SentencePiece puts in front of a token that follows a space"""


def words_of_tokens(tokens: Sequence[str]) -> tuple[list[str], list[int]]:
    """Words, and for each token the index of its word.

    Tokens form words by SentencePiece's mark of a space, or by a trailing "@@" of subword-nmt; else each is a word.
    The end of sentence is a word of its own.
    """
    marked = any(token.startswith(SPACE) for token in tokens)
    words: list[str] = []
    word_of_token = []
    joined = False
    for token in tokens:
        starts = token == END or (token.startswith(SPACE) if marked else not joined)
        if starts or not words or words[-1] == END:
            words.append("")
        joined = not marked and token.endswith("@@")
        words[-1] += token.removesuffix("@@") if joined else token.removeprefix(SPACE)
        word_of_token.append(len(words) - 1)
    return words, word_of_token


def word_confidence(confidence: Sequence[float], word_of_token: Sequence[int]) -> list[float]:
    """Confidence of each word: the product of its tokens' ones, which is the model's own probability of the whole
    word given what is before it."""
    parts: list[list[float]] = [[] for _ in range(max(word_of_token, default=-1) + 1)]
    for value, word in zip(confidence, word_of_token, strict=True):
        parts[word].append(float(value))
    return [math.prod(part) for part in parts]
