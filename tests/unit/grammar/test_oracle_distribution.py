"""The listed probabilities are the true ones: brute force, chi-square, next-token distribution."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from mt.grammar.engine import Abstract, Lexeme, Meaning
from mt.grammar.grammar import Grammar, TokenTruth, next_token_distribution, sample_pairs

KEPT_RULES = {
    "Statement",
    "Transitive/Clause",
    "Pronominal/Clause",
    "Pronoun",
    "CommonSubject",
    "Common",
    "NoPlace",
    "NoTime",
}
KEPT_LEXEMES = {
    "Verb": {"read.verb", "buy.verb", "see.verb"},
    "Noun": {"teacher_f", "teacher_m", "car", "letter"},
    "Det": {"def", "her", "their", "formal", "indef"},
    "Pronoun": {"she", "they_m", "they_f", "formal", "I_f"},
    "ObjectPronoun": {"her", "it_ff", "it_fm", "things_m", "them_f", "formal"},
    "Tense": {"now", "past", "is", "was"},
    "Polarity": {"pos", "neg"},
    "Manner": {"plain"},
    "Number": {"s", "p"},
}


def tiny(source: str, target: str) -> Grammar:
    """A grammar of a few words, small enough to write out whole."""
    grammar = Grammar.load(source, target)
    rules = {
        category: [(weight, rule) for weight, rule in group if rule.name in KEPT_RULES]
        for category, group in grammar._abstract.rules.items()
    }
    lexicon = {
        category: [lexeme for lexeme in group if lexeme.name in KEPT_LEXEMES.get(category, ())]
        for category, group in grammar._abstract.lexicon.items()
    }
    grammar._abstract = Abstract(rules, lexicon)
    return grammar


def every_meaning(abstract: Abstract, category: str, klass: str) -> Iterator[tuple[Any, float]]:
    """All meanings of a category with their probabilities, by plain recursion."""
    items, cumulative, total, _ = abstract.options(category, klass)
    for item, low, high in zip(items, [0.0, *cumulative], cumulative):
        if isinstance(item, Lexeme):
            yield item, (high - low) / total
            continue
        partial: list[tuple[list[Any], float]] = [([], (high - low) / total)]
        for _, part_category, pieces in item.parts:
            partial = [
                ([*parts, part], chance * probability)
                for parts, chance in partial
                for part, probability in every_meaning(abstract, part_category, abstract.class_of(pieces, klass, parts))
            ]
        for parts, chance in partial:
            yield Meaning(item, parts, abstract.meta(item, parts)), chance


@pytest.mark.parametrize(("source", "target"), [("de", "fr"), ("fr", "en"), ("en", "de")])
def test_translations_equal_enumeration_of_all_meanings(source: str, target: str) -> None:
    grammar = tiny(source, target)
    joint: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for meaning, chance in every_meaning(grammar._abstract, "Sentence", ""):
        sources, targets = grammar._source.sentences(meaning), grammar._target.sentences(meaning)
        words = [len([word for word in text.split() if word not in "!?"]) for text in [*sources, *targets]]
        if min(words) < 3 or max(words) > 25:
            continue
        for (s, p), (t, q) in itertools.product(sources.items(), targets.items()):
            joint[s][t] += chance * p * q
    assert len(joint) > 500
    rng = random.Random(0)
    ambiguous = [s for s in sorted(joint) if len(joint[s]) > 3]
    for text in rng.sample(sorted(joint), 60) + rng.sample(ambiguous, 40):
        total = math.fsum(joint[text].values())
        listed = grammar.translations(text)
        assert set(listed) == set(joint[text])
        for translation, probability in listed.items():
            assert probability == pytest.approx(joint[text][translation] / total, rel=1e-9)


def chi_square_limit(degrees: int) -> float:
    """The 99.99 % quantile of chi-square, Wilson and Hilferty's approximation."""
    return degrees * (1 - 2 / (9 * degrees) + 3.719 * math.sqrt(2 / (9 * degrees))) ** 3


def test_sampled_frequencies_of_single_sources_agree_with_the_list() -> None:
    grammar, rng = tiny("de", "fr"), random.Random(1)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for _ in range(12000):
        source, target = grammar.sample(rng)
        counts[source][target] += 1
    statistic, degrees = 0.0, 0
    for source, observed in sorted(counts.items(), key=lambda item: -item[1].total())[:60]:
        listed, total = grammar.translations(source), observed.total()
        cells = [(observed[t], total * p) for t, p in listed.items() if total * p >= 5]
        rest = total - sum(o for o, _ in cells), total - sum(e for _, e in cells)
        cells += [rest] if rest[1] >= 5 else []
        statistic += sum((o - e) ** 2 / e for o, e in cells)
        degrees += max(len(cells) - 1, 0)
    assert degrees > 50
    assert statistic < chi_square_limit(degrees)


def test_sampled_translations_fall_uniformly_on_the_listed_distribution() -> None:
    """Over sources of the whole grammar: where the sampled target lies in its cumulative distribution is uniform."""
    grammar, rng = Grammar.load("en", "de"), random.Random(2)
    bins = [0] * 10
    for source, target in sample_pairs(("en", "de"), 400, 2):
        below = 0.0
        for translation, probability in grammar.translations(source).items():
            if translation == target:
                bins[min(int((below + rng.random() * probability) * 10), 9)] += 1
                break
            below += probability
    assert sum(bins) == 400
    assert sum((count - 40) ** 2 / 40 for count in bins) < chi_square_limit(9)


@pytest.mark.parametrize("languages", [("de", "en"), ("fr", "de")])
def test_no_source_has_more_than_512_translations_and_they_sum_to_one(languages: tuple[str, str]) -> None:
    grammar = Grammar.load(*languages)
    for source, _ in sample_pairs(languages, 150, 9):
        listed = grammar.translations(source)
        assert 1 <= len(listed) <= 512
        assert math.fsum(listed.values()) == pytest.approx(1, abs=1e-9)


TRANSLATIONS = {"a b c": 0.5, "a b": 0.2, "a d": 0.2, "e": 0.1}
IDS = {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}


def encode(text: str) -> list[int]:
    return [IDS[word] for word in text.split()]


def test_next_token_distribution_by_hand() -> None:
    assert next_token_distribution(TRANSLATIONS, encode, 0, []) == pytest.approx({1: 0.9, 5: 0.1})
    assert next_token_distribution(TRANSLATIONS, encode, 0, [1]) == pytest.approx({2: 7 / 9, 4: 2 / 9})
    assert next_token_distribution(TRANSLATIONS, encode, 0, [1, 2]) == pytest.approx({3: 5 / 7, 0: 2 / 7})
    assert next_token_distribution(TRANSLATIONS, encode, 0, [5]) == {0: 1.0}
    assert next_token_distribution(TRANSLATIONS, encode, 0, [2]) is None
    assert next_token_distribution(TRANSLATIONS, encode, 0, [1, 2, 0]) is None


def test_entropy_of_the_sequence_is_the_sum_over_prefixes() -> None:
    truth = TokenTruth(TRANSLATIONS, encode, 0)
    expected = -sum(p * math.log(p) for p in TRANSLATIONS.values())
    prefixes = {tokens[:n] for tokens in truth.sequences for n in range(len(tokens))}
    chain = 0.0
    for prefix in prefixes:
        mass = sum(p for tokens, p in truth.sequences.items() if tokens[: len(prefix)] == prefix)
        row = truth.next(prefix)
        assert row is not None
        chain -= mass * sum(q * math.log(q) for q in row.values())
    assert truth.entropy() == pytest.approx(expected) == pytest.approx(chain)
    assert truth.expected_tokens() == pytest.approx(0.5 * 4 + 0.2 * 3 + 0.2 * 3 + 0.1 * 2)
