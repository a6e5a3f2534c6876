"""Words from subword tokens."""

from __future__ import annotations

import pytest

from mt.metrics.labels import words_of_tokens


@pytest.mark.parametrize(
    ("tokens", "words", "word_of_token"),
    [
        ("▁A ▁mo on . </s>", ["A", "moon.", "</s>"], [0, 1, 1, 1, 2]),
        ("mo@@ on shines </s>", ["moon", "shines", "</s>"], [0, 0, 1, 2]),
        ("a b", ["a", "b"], [0, 1]),
        ("in ▁the", ["in", "the"], [0, 1]),  # the first token without its mark
        ("", [], []),
        ("▁a b </s> c ▁d e", ["ab", "</s>", "c", "de"], [0, 0, 1, 2, 3, 3]),  # an end has no part in a word
        ("a@@ b </s> c@@ d@@ e f", ["ab", "</s>", "cde", "f"], [0, 0, 1, 2, 2, 2, 3]),
        ("a </s> </s>", ["a", "</s>", "</s>"], [0, 1, 2]),
        ("▁a@@ b ▁c", ["a@@b", "c"], [0, 0, 1]),  # marks of spaces are there: the other mark is text
    ],
)
def test_tokens_form_words(tokens: str, words: list[str], word_of_token: list[int]) -> None:
    assert words_of_tokens(tokens.split()) == (words, word_of_token)
