"""What a word of a sentence may be: the tables, forms and rules of a language, looked up by their tokens."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

from mt.grammar.engine import Abstract, Concrete
from mt.grammar.spelling import SOFT_COMMA
from mt.grammar.structures import Form, Key, Pattern, Rule, Variant, Word

COMMON = 20  # a word of more lexemes than this (an auxiliary) does not tell which verb a sentence has
Entries = dict[str, list[tuple[tuple[str, ...], Any]]]
"""by first token (empty where there is none): all tokens, and what they stand for"""


class Unknown(dict[Any, Any]):
    """A dictionary that says None where it has no entry: what a parser does not know is no error."""

    def __missing__(self, key: Any) -> None:
        return None


class Index:
    """One language, looked up by tokens."""

    def __init__(self, abstract: Abstract, concrete: Concrete) -> None:
        self.abstract, self.language, self.spelling = abstract, concrete.language, concrete.spelling
        self.values = {name: Unknown(table) for name, table in concrete.tables.items()}
        """the tables as they are, for `evaluate`"""
        self.tables: dict[str, Entries] = {}
        """by name: tokens and the features that give them"""
        self.forms: dict[tuple[str, str], Entries] = {}
        """by category and name of the form: tokens, and which variant has them for which features"""
        self.own: dict[Variant, dict[str, Entries]] = {}
        """the same for a single variant, by name of the form"""
        self.with_token: dict[str, set[Variant]] = {}
        """variants that have a form with the token"""
        for name, table in concrete.tables.items():
            entries = self.tables.setdefault(name, {})
            for key, text in _without_irrelevant(table):
                _enter(entries, self.spelling.tokens(text), key)
        for category, group in abstract.lexicon.items():
            for lexeme in group:
                for variant in lexeme.variants[self.language]:
                    self._add(category, variant)
        self._plain = {variant for variant in self.own if self._is_plain(variant)}
        self.candidates = cache(self._candidates)
        """variants that a leaf of a rule may be, as far as its class is known without the rest of the meaning"""
        self.needed: dict[Pattern, frozenset[str]] = {}
        """tokens without which a pattern cannot be"""
        self.heads: dict[Rule, int | None] = {}
        """which part of a rule is found first, see `_head`"""
        for _, rule in itertools.chain(*abstract.rules.values()):
            self.heads[rule] = self._head(rule)
            for pattern in rule.patterns[self.language]:
                words = [each for each in pattern.elements if isinstance(each, Word) and each.text != SOFT_COMMA]
                self.needed[pattern] = frozenset(token for word in words for token in word.tokens)

    def _add(self, category: str, variant: Variant) -> None:
        own = self.own[variant] = {}
        read: dict[str, tuple[str, ...]] = {}  # most forms stand for many features: each is split once
        for name, forms in variant.forms.items():
            entries = self.forms.setdefault((category, name), {})
            for key, text in _without_irrelevant(forms):
                if text not in read:
                    read[text] = self.spelling.tokens(text)
                words = read[text]
                _enter(own.setdefault(name, {}), words, key)
                _enter(entries, words, (variant, key))
                for word in words:
                    self.with_token.setdefault(word, set()).add(variant)

    def _is_plain(self, variant: Variant) -> bool:
        """Whether a verb can be said in words that most verbs share: `is` for `be`, `hat` for `haben`."""
        said = [(key[0], text) for forms in variant.forms.values() for key, text in forms.items() if key]
        rare = {text for _, text in said if any(len(self.with_token[w]) <= COMMON for w in self.spelling.tokens(text))}
        return {group for group, _ in said} != {group for group, text in said if text in rare}

    def _head(self, rule: Rule) -> int | None:
        """The leaf that appears in several places of one pattern: it is tried first, as the sentence names it."""
        for pattern in rule.patterns[self.language]:
            used = [element.part for element in pattern.elements if isinstance(element, Form)]
            for index in used:
                spoken = (any(map(any, map(dict.values, v.forms.values()))) for v in self.candidates(rule, index))
                if used.count(index) > 1 and all(spoken):
                    return index
        return None

    def _candidates(self, rule: Rule, index: int) -> list[Variant]:
        slot = rule.slots[index]
        if slot.fixed is not None:
            lexemes = self.abstract.options(slot.category, slot.fixed).items
        else:
            start = slot.pieces[0] if isinstance(slot.pieces[0], str) else ""
            lexemes = [
                lexeme
                for lexeme in self.abstract.lexicon[slot.category]
                if not start or any(name.startswith(start) or "*" in name for name in lexeme.classes)
            ]
        return [variant for lexeme in lexemes for variant in lexeme.variants[self.language]]

    def present(self, tokens: frozenset[str]) -> set[Variant]:
        """Variants of which the tokens of a sentence give a sign."""
        found: set[Variant] = set()
        for token in tokens:
            variants = self.with_token.get(token, ())
            found.update(v for v in variants if len(variants) <= COMMON or v in self._plain)
        return found


def _enter(entries: Entries, words: tuple[str, ...], value: Any) -> None:
    entries.setdefault(words[0] if words else "", []).append((words, value))


def _without_irrelevant(forms: dict[tuple[str, ...], str]) -> list[tuple[Key, str]]:
    """Forms with their features, a feature that makes no difference to the form being None."""
    keys_of: dict[str, set[Key]] = {}
    for key, text in forms.items():
        keys_of.setdefault(text, set()).add(key)
    domains = [set(values) for values in zip(*forms)]
    result: list[tuple[Key, str]] = []
    for text, keys in keys_of.items():
        for position, domain in enumerate(domains):
            groups: dict[Key, set[Any]] = {}
            for key in keys:
                groups.setdefault((*key[:position], None, *key[position + 1 :]), set()).add(key[position])
            for general, values in groups.items():
                if values == domain:
                    keys -= {(*general[:position], value, *general[position + 1 :]) for value in values}
                    keys.add(general)
        result.extend((key, text) for key in sorted(keys, key=str))  # sets have no order; None cannot be compared
    return result
