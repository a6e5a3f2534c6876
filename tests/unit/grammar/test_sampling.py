"""Sampling from the grammar: determinism, splits, lists of translations."""

from __future__ import annotations

import random

import pytest

from mt.errors import UserError
from mt.grammar.grammar import Grammar, sample_pairs


def test_same_arguments_give_the_same_pairs() -> None:
    assert list(sample_pairs(("de", "en"), 50, 3)) == list(sample_pairs(("de", "en"), 50, 3))
    assert list(sample_pairs(("de", "en"), 50, 3)) != list(sample_pairs(("de", "en"), 50, 4))


def test_splits_share_no_source_whatever_the_seeds() -> None:
    train = {source for source, _ in sample_pairs(("fr", "en"), 1000, 1)}
    others = [
        {source for source, _ in sample_pairs(("fr", "en"), 25, seed, split=split)}
        for seed, split in ((1, "valid"), (7, "test"))
    ]
    assert not train & others[0] and not train & others[1] and not others[0] & others[1]


def test_every_sampled_pair_is_among_the_listed_translations() -> None:
    grammar = Grammar.load("de", "en")
    rng = random.Random(5)
    for _ in range(25):
        source, target = grammar.sample(rng)
        translations = grammar.translations(source)
        assert target in translations
        assert abs(sum(translations.values()) - 1) < 1e-9
        assert list(translations.values()) == sorted(translations.values(), reverse=True)


def test_unknown_language_or_sentence_is_a_user_error() -> None:
    with pytest.raises(UserError, match="no language"):
        Grammar.load("de", "it")
    with pytest.raises(UserError, match="not a sentence"):
        Grammar.load("de", "en").translations("Das ist das Haus vom Nikolaus.")
