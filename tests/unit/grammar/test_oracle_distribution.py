"""The listed probabilities are the true ones: brute force, chi-square, next-token distribution."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest

from mt.errors import UserError
from mt.grammar.engine import Abstract
from mt.grammar.grammar import Grammar, sample_pairs
from mt.grammar.inflection import english_noun
from mt.grammar.oracle import OracleDistribution, oracle_of
from mt.grammar.structures import Lexeme

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


whole = lru_cache(Grammar.load)


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
    lexicon["Noun"] = [with_synonym(noun) if noun.name == "teacher_f" else noun for noun in lexicon["Noun"]]
    grammar._abstract = Abstract(rules, lexicon)
    return grammar


def with_synonym(noun: Lexeme) -> Lexeme:
    """So that `teacher`, said of men and women, is the word for a woman in 3 of 10 cases only."""
    changed = replace(noun, variants={})
    for language, variants in noun.variants.items():
        changed.variants[language] = [replace(variant, lexeme=changed) for variant in variants]
    woman, words = changed.variants["en"][0], {"teacher": 0.3, "schoolmistress": 0.7}
    changed.variants["en"] = [replace(woman, probability=p, forms=english_noun(word)[1]) for word, p in words.items()]
    return changed


def every_meaning(abstract: Abstract, category: str, klass: str) -> Iterator[tuple[Any, float]]:
    """All meanings of a category with their probabilities, by plain recursion."""
    items, cumulative, _ = abstract.options(category, klass)
    for item, low, high in zip(items, [0.0, *cumulative], cumulative):
        if isinstance(item, Lexeme):
            yield item, (high - low) / cumulative[-1]
            continue
        partial: list[tuple[list[Any], float]] = [([], (high - low) / cumulative[-1])]
        for slot in item.slots:
            partial = [
                ([*parts, part], chance * probability)
                for parts, chance in partial
                for part, probability in every_meaning(abstract, slot.category, abstract.class_of(slot, klass, parts))
            ]
        for parts, chance in partial:
            yield abstract.meaning(item, parts), chance


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
    for _ in range(7000):
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
    rng, bins = random.Random(2), [0] * 10
    for source, target in sample_pairs(("en", "de"), 200, 2):
        below = 0.0
        for translation, probability in whole("en", "de").translations(source).items():
            if translation == target:
                bins[min(int((below + rng.random() * probability) * 10), 9)] += 1
                break
            below += probability
    assert sum(bins) == 200
    assert sum((count - 20) ** 2 / 20 for count in bins) < chi_square_limit(9)


@pytest.mark.parametrize("languages", [("de", "en"), ("fr", "de")])
def test_no_source_has_more_than_512_translations_and_they_sum_to_one(languages: tuple[str, str]) -> None:
    for source, _ in sample_pairs(languages, 40, 9):
        listed = whole(*languages).translations(source)
        assert 1 <= len(listed) <= 512
        assert math.fsum(listed.values()) == pytest.approx(1, abs=1e-9)


END = 0
SEQUENCES = {(1, 2, 3, END): 0.5, (1, 2, END): 0.2, (1, 4, END): 0.2, (5, END): 0.1}


def distribution() -> OracleDistribution:
    return OracleDistribution(list(SEQUENCES), SEQUENCES.values())


def test_next_token_distribution_by_hand() -> None:
    def after(prefix: list[int]) -> dict[int, float]:
        ids, probabilities = distribution().next(prefix)
        return dict(zip(ids.tolist(), probabilities.tolist()))

    assert after([]) == pytest.approx({1: 0.9, 5: 0.1})
    assert after([1]) == pytest.approx({2: 7 / 9, 4: 2 / 9})
    assert after([1, 2]) == pytest.approx({3: 5 / 7, END: 2 / 7})
    assert after([5]) == {END: 1.0}
    assert after([2]) == after([1, 2, END]) == {}  # no translation begins so


def test_translations_that_the_tokeniser_cannot_tell_apart_count_as_one() -> None:
    same = OracleDistribution([(1, END), (2, END), (1, END)], [0.5, 0.3, 0.2])
    assert same.sequences == pytest.approx({(1, END): 0.7, (2, END): 0.3})
    assert same.nll([1, END]) == pytest.approx(-math.log(0.7))


def test_entropy_of_the_sequence_is_the_sum_over_prefixes() -> None:
    oracle = distribution()
    expected = -sum(p * math.log(p) for p in SEQUENCES.values())
    prefixes = {ids[:length] for ids in SEQUENCES for length in range(len(ids))}
    chain = 0.0
    for prefix in prefixes:
        mass = sum(p for ids, p in SEQUENCES.items() if ids[: len(prefix)] == prefix)
        chain -= mass * sum(q * math.log(q) for q in oracle.next(prefix)[1])
    assert oracle.entropy() == pytest.approx(expected) == pytest.approx(chain)
    assert oracle.expected_tokens() == pytest.approx(0.5 * 4 + 0.2 * 3 + 0.2 * 3 + 0.1 * 2)


def by_letter(texts: list[str]) -> list[list[int]]:
    return [[*map(ord, text), END] for text in texts]


def test_oracle_of_a_text_is_that_of_its_listed_translations() -> None:
    pairs = list(sample_pairs(("de", "en"), 6, 3))
    sources, references = map(list, zip(*pairs))
    oracle = oracle_of(("de", "en"), sources, references, by_letter)
    listed = [whole("de", "en").translations(source) for source in sources]
    assert oracle.translations == listed
    letters = sum(p * (len(text) + 1) for each in listed for text, p in each.items())
    assert oracle.entropy == pytest.approx(-sum(p * math.log(p) for each in listed for p in each.values()) / letters)
    chosen = [each[reference] for each, reference in zip(listed, references)]
    assert oracle.nll == pytest.approx(-sum(map(math.log, chosen)) / sum(len(text) + 1 for text in references))
    for reference, rows, probability in zip(by_letter(references), oracle.rows, chosen):
        steps = [dict(zip(ids.tolist(), true.tolist()))[token] for token, (ids, true) in zip(reference, rows)]
        assert len(rows) == len(reference) and math.prod(steps) == pytest.approx(probability)


def test_oracle_of_a_foreign_sentence_or_language_is_a_user_error() -> None:
    with pytest.raises(UserError, match="not a sentence of the de grammar"):
        oracle_of(("de", "en"), ["Das ist das Haus vom Nikolaus."], ["No."], by_letter)
    with pytest.raises(UserError, match="no language 'it'"):
        oracle_of(("de", "it"), ["Ja."], ["Si."], by_letter)
