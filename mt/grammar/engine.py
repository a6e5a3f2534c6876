"""Meanings and their wordings: draws meanings, and says them in a language at random or in every way.

A *meaning* is a tree of rules whose leaves are lexemes; nothing in it belongs to a language. Each
language words a meaning by choosing a variant of every lexeme (synonyms) and a pattern of every rule
(word order), both with a stated probability. `docs/corpus.md` explains the files.
"""

from __future__ import annotations

import fnmatch
import itertools
import math
import random
from bisect import bisect
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar

from mt.grammar.spelling import Spelling
from mt.grammar.structures import (
    Child,
    Feature,
    Form,
    Key,
    Lexeme,
    Lookup,
    Meaning,
    Node,
    Pattern,
    Rule,
    Slot,
    Tables,
    Variant,
    Word,
    evaluate,
    features_of,
    refuted,
)

T = TypeVar("T")
Worded = Node | Variant
Uniform = Callable[[], float]
"""draws from [0, 1)"""


class Options(NamedTuple):
    """What a category may become in a class."""

    items: list[Any]
    """rules and lexemes"""
    cumulative: list[float]
    """their weights, added up"""
    probabilities: dict[str, float]
    """by name"""


class Abstract:
    """The language-neutral side: draws meanings and knows their probability."""

    def __init__(self, rules: dict[str, list[tuple[float, Rule]]], lexicon: dict[str, list[Lexeme]]) -> None:
        self.rules, self.lexicon = rules, lexicon
        self.options = cache(self._options)
        """What a category may become in a class (`a+b`: either). ValueError where it is nothing."""

    def _options(self, category: str, klass: str) -> Options:
        names = klass.split("+")
        rules = self.rules.get(category, ())
        items: list[tuple[Any, float]] = [(rule, w) for w, rule in rules if self._applies(rule, klass, names)]
        for lexeme in self.lexicon.get(category, ()):
            weights = [weight for pattern, weight in lexeme.classes.items() if fnmatch.filter(names, pattern)]
            if weights:
                items.append((lexeme, max(weights)))
        if not items:
            raise ValueError(f"grammar data: nothing can be a {category} of class {klass!r}")
        cumulative = list(itertools.accumulate(weight for _, weight in items))
        probabilities = {item.name: weight / cumulative[-1] for item, weight in items}
        return Options([item for item, _ in items], cumulative, probabilities)

    def _applies(self, rule: Rule, klass: str, names: list[str]) -> bool:
        """Whether a rule is for this class and has words for it."""
        if not any(fnmatch.filter(names, pattern) for pattern in rule.classes):
            return False
        try:
            for slot in rule.slots:
                known = not any(isinstance(piece, Feature) for piece in slot.pieces)
                if known and slot.category in self.lexicon:
                    self.options(slot.category, self.class_of(slot, klass, ()))
        except ValueError:
            return False
        return True

    @staticmethod
    def class_of(slot: Slot, klass: str, parts: Sequence[Any]) -> str:
        """The class of a part, from the class of the rule and the parts before it."""
        return "".join(evaluate(slot.pieces, (klass,), parts, {})) if slot.fixed is None else slot.fixed

    def draw(self, category: str, klass: str, uniform: Uniform) -> Meaning | Lexeme:
        """A random meaning."""
        items, cumulative, _ = self.options(category, klass)
        item = items[bisect(cumulative, uniform() * cumulative[-1])] if len(items) > 1 else items[0]
        if type(item) is Lexeme:
            return item
        parts: list[Any] = []
        for slot in item.slots:
            part_class = slot.fixed or self.class_of(slot, klass, parts)
            parts.append(self.draw(slot.category, part_class, uniform))
        return self.meaning(item, parts)

    @staticmethod
    def meaning(rule: Rule, parts: list[Meaning | Lexeme]) -> Meaning:
        """The parts of a rule as one."""
        return Meaning(rule, parts, features_of(rule.features, parts, {}))

    def probability(self, meaning: Meaning | Lexeme, category: str, klass: str) -> float:
        """Chance that `draw(category, klass)` gives this meaning; 0 where it cannot."""
        name = meaning.name if isinstance(meaning, Lexeme) else meaning.rule.name
        try:
            result = self.options(category, klass).probabilities.get(name, 0.0)
        except ValueError:
            return 0.0
        if result and isinstance(meaning, Meaning):
            for slot, part in zip(meaning.rule.slots, meaning.parts):
                result *= self.probability(part, slot.category, self.class_of(slot, klass, meaning.parts))
        return result


class Concrete:
    """One language: words meanings, at random or all ways with their probabilities."""

    def __init__(self, language: str, tables: Tables, spelling: Spelling) -> None:
        self.language, self.tables, self.spelling = language, tables, spelling

    def node(self, rule: Rule, parts: list[Any]) -> Node:
        """The parts of a rule, worded, as one."""
        return Node(rule, parts, features_of(rule.worded_features[self.language], parts, self.tables))

    def choose(self, meaning: Meaning | Lexeme, uniform: Uniform) -> Worded:
        """Draw the variant of every lexeme."""
        if isinstance(meaning, Meaning):
            return self.node(meaning.rule, [self.choose(part, uniform) for part in meaning.parts])
        variants = meaning.variants[self.language]
        return variants[0] if len(variants) == 1 else _drawn(self.choices(meaning), uniform)

    def choices(self, meaning: Meaning | Lexeme) -> list[tuple[Worded, float]]:
        """Every choice of variants with its probability."""
        if isinstance(meaning, Lexeme):
            return [(variant, variant.probability) for variant in meaning.variants[self.language]]
        result: list[tuple[Worded, float]] = []
        for combination in itertools.product(*[self.choices(part) for part in meaning.parts]):
            parts, probabilities = map(list, zip(*combination)) if combination else ([], [])
            result.append((self.node(meaning.rule, parts), math.prod(probabilities)))
        return result

    def usable(self, node: Node, arguments: Key) -> list[tuple[Pattern, float]]:
        """The patterns whose guards hold, with their probabilities."""
        patterns = node.rule.patterns[self.language]
        if len(patterns) == 1 and not patterns[0].guards:
            return [(patterns[0], 1.0)]
        held = [pattern for pattern in patterns if not refuted(pattern, arguments, node.parts, self.tables)]
        if not held:
            raise ValueError(f"grammar data: no {self.language} pattern of {node.rule.name} for {list(arguments)}")
        total = sum(pattern.weight for pattern in held)
        return [(pattern, pattern.weight / total) for pattern in held]

    def say(self, node: Node, arguments: Key, uniform: Uniform, words: list[str]) -> None:
        """Append the words of a node, drawing among its patterns."""
        for element in _drawn(self.usable(node, arguments), uniform).elements:
            if isinstance(element, Child):
                inner = evaluate(element.references, arguments, node.parts, self.tables)
                self.say(node.parts[element.part], inner, uniform, words)
            elif text := self.text(element, arguments, node.parts):
                words.append(text)

    def text(self, element: Word | Lookup | Form, arguments: Key, parts: list[Any]) -> str:
        """The word or words of an element that is no constituent; empty where it is silent."""
        if isinstance(element, Word):
            return element.text
        forms = self.tables[element.table] if isinstance(element, Lookup) else parts[element.part].forms[element.name]
        return forms[evaluate(element.references, arguments, parts, self.tables)]

    def wordings(self, node: Node, arguments: Key) -> dict[str, float]:
        """Every way to say a node whose variants are chosen, words joined by spaces, with probabilities."""
        result: dict[str, float] = {}
        for pattern, chance in self.usable(node, arguments):
            partial = {"": chance}
            for element in pattern.elements:
                if not isinstance(element, Child):
                    if text := self.text(element, arguments, node.parts):
                        partial = {f"{left} {text}" if left else text: p for left, p in partial.items()}
                    continue
                inner = evaluate(element.references, arguments, node.parts, self.tables)
                following = self.wordings(node.parts[element.part], inner)
                joined: dict[str, float] = {}
                for (left, p), (right, q) in itertools.product(partial.items(), following.items()):
                    text = f"{left} {right}" if left and right else left or right
                    joined[text] = joined.get(text, 0.0) + p * q
                partial = joined
            for text, probability in partial.items():
                result[text] = result.get(text, 0.0) + probability
        return result

    def sentence(self, meaning: Meaning, generator: random.Random) -> str:
        """A random wording of a sentence, spelled."""
        words: list[str] = []
        self.say(self.choose(meaning, generator.random), (), generator.random, words)  # type: ignore[arg-type]
        return self.spelling.write(" ".join(words))

    def sentences(self, meaning: Meaning) -> dict[str, float]:
        """Every sentence of a meaning with its probability."""
        result: dict[str, float] = {}
        for node, chance in self.choices(meaning):
            for words, probability in self.wordings(node, ()).items():  # type: ignore[arg-type]
                text = self.spelling.write(words)
                result[text] = result.get(text, 0.0) + chance * probability
        return result


def _drawn(choices: list[tuple[T, float]], uniform: Uniform) -> T:
    """One of several things by their probabilities; nothing is drawn where there is no choice."""
    if len(choices) > 1:
        point = uniform()
        for choice, probability in choices:
            point -= probability
            if point < 0:
                return choice
    return choices[-1][0]  # also where rounding leaves a little of `point`
