"""Meanings and their wordings: the engine that reads `data/grammar` and turns one into the other.

A *meaning* is a tree of rules whose leaves are lexemes; nothing in it belongs to a language. Each
language words a meaning by choosing a variant of every lexeme (synonyms) and a pattern of every rule
(word order), both with a stated probability. `docs/corpus.md` explains the files.
"""

from __future__ import annotations

import itertools
import random
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Union

from mt.grammar.spelling import Spelling

Forms = dict[str, dict[Any, str]]  # form -> features (a tuple of strings) -> word or words


@dataclass(eq=False)
class Variant:
    """One wording of a lexeme in one language: its features and inflected forms."""

    lexeme: Lexeme
    probability: float
    attributes: dict[str, str]
    forms: Forms


@dataclass(eq=False)
class Lexeme:
    """A leaf of meaning: its classes with weights, features that steer the choice of other parts, wordings."""

    name: str
    category: str
    classes: dict[str, float]
    meta: dict[str, str]
    variants: dict[str, list[Variant]] = field(default_factory=dict)


# A reference is evaluated on (arguments, parts): ("const", text), ("arg", index), ("part", index, attribute)
# or ("table", name, references).
Reference = tuple[Any, ...]
# An element of a pattern: ("word", text), ("table", name, references), ("form", part, form, references) or
# ("child", part, references).
Element = tuple[Any, ...]


@dataclass(eq=False)
class Pattern:
    """One order of words of a rule; it may be used where its guards hold."""

    weight: float
    guards: list[tuple[Reference, frozenset[str], bool]]
    elements: list[Element]


@dataclass(eq=False)
class Rule:
    """A node of meaning: which parts it has (name, category, pieces of its class: text or reference)."""

    name: str
    classes: frozenset[str] | None
    parts: list[tuple[str, str, tuple[Any, ...]]]
    meta: dict[str, Reference]
    attributes: dict[str, dict[str, Reference]] = field(default_factory=dict)
    patterns: dict[str, list[Pattern]] = field(default_factory=dict)


@dataclass(eq=False)
class Meaning:
    """A rule with its parts: a sub-meaning or a lexeme each."""

    rule: Rule
    parts: list[Union[Meaning, Lexeme]]
    meta: dict[str, str]


class Node:
    """A meaning with the variants of one language chosen."""

    __slots__ = ("rule", "parts", "attributes")

    def __init__(self, rule: Rule, parts: list[Any], attributes: dict[str, str]) -> None:
        self.rule, self.parts, self.attributes = rule, parts, attributes


Worded = Union[Node, Variant]
Tables = dict[str, dict[tuple[Any, ...], str]]


def evaluate(reference: Reference, arguments: Sequence[str | None], parts: Sequence[Any], tables: Tables) -> str | None:
    """Value of a reference; None where a part or an argument is not known yet (only while parsing)."""
    kind = reference[0]
    if kind == "part":
        part = parts[reference[1]]
        return None if part is None else part.attributes[reference[2]]
    if kind == "const":
        return str(reference[1])
    if kind == "arg":
        return arguments[reference[1]]
    values = tuple([evaluate(inner, arguments, parts, tables) for inner in reference[2]])
    return None if None in values else tables[reference[1]][values]


class Abstract:
    """The language-neutral side: draws meanings and knows their probability."""

    def __init__(self, rules: dict[str, list[tuple[float, Rule]]], lexicon: dict[str, list[Lexeme]]) -> None:
        self.rules, self.lexicon = rules, lexicon
        self._options: dict[tuple[str, str], tuple[list[Any], list[float], float, dict[Any, float]]] = {}

    def options(self, category: str, klass: str) -> tuple[list[Any], list[float], float, dict[Any, float]]:
        """What a category may become in a class (`a+b`: either): items, cumulative weights, total, probabilities."""
        key = (category, klass)
        if key not in self._options:
            names = klass.split("+")
            items: list[tuple[Any, float]] = []
            for weight, rule in self.rules.get(category, ()):
                if self._applies(rule, klass, names):
                    items.append((rule, weight))
            for lexeme in self.lexicon.get(category, ()):
                weights = [
                    weight
                    for pattern, weight in lexeme.classes.items()
                    if pattern in names or ("*" in pattern and any(fnmatchcase(name, pattern) for name in names))
                ]
                if weights:
                    items.append((lexeme, max(weights)))
            if not items:
                raise ValueError(f"grammar data: nothing can be a {category} of class {klass!r}")
            cumulative = list(itertools.accumulate(weight for _, weight in items))
            total = cumulative[-1]
            chances = {item.name: weight / total for item, weight in items}
            self._options[key] = ([item for item, _ in items], cumulative, total, chances)
        return self._options[key]

    def _applies(self, rule: Rule, klass: str, names: list[str]) -> bool:
        """Whether a rule is for this class and has words for it."""
        if rule.classes is not None and not any(fnmatchcase(name, each) for name in names for each in rule.classes):
            return False
        try:
            for _, category, pieces in rule.parts:
                known = all(type(piece) is str or piece[0] == "arg" for piece in pieces)
                if known and category in self.lexicon:
                    self.options(category, self.class_of(pieces, klass, ()))
        except ValueError:
            return False
        return True

    @staticmethod
    def class_of(pieces: tuple[Any, ...], klass: str, parts: Sequence[Any]) -> str:
        """The class of a part, from the class of the rule and the parts before it."""
        if len(pieces) == 1 and type(pieces[0]) is str:
            return pieces[0]
        text = ""
        for piece in pieces:
            if type(piece) is str:
                text += piece
            else:
                text += klass if piece[0] == "arg" else parts[piece[1]].meta[piece[2]]
        return text

    def draw(self, category: str, klass: str, uniform: Any) -> Meaning | Lexeme:
        """A random meaning; `uniform` draws from [0, 1)."""
        items, cumulative, total, _ = self._options.get((category, klass)) or self.options(category, klass)
        item = items[bisect(cumulative, uniform() * total)] if len(items) > 1 else items[0]
        if type(item) is Lexeme:
            return item
        parts: list[Any] = []
        for _, part_category, pieces in item.parts:
            parts.append(self.draw(part_category, self.class_of(pieces, klass, parts), uniform))
        return Meaning(item, parts, self.meta(item, parts))

    @staticmethod
    def meta(rule: Rule, parts: Sequence[Any]) -> dict[str, str]:
        """Features of a meaning that steer the choice of other parts."""
        return {name: ref[1] if ref[0] == "const" else parts[ref[1]].meta[ref[2]] for name, ref in rule.meta.items()}

    def probability(self, meaning: Meaning | Lexeme, category: str, klass: str) -> float:
        """Chance that `draw(category, klass)` gives this meaning; 0 where it cannot."""
        name = meaning.name if isinstance(meaning, Lexeme) else meaning.rule.name
        try:
            result = self.options(category, klass)[3].get(name, 0.0)
        except ValueError:
            return 0.0
        if result and isinstance(meaning, Meaning):
            for (_, part_category, pieces), part in zip(meaning.rule.parts, meaning.parts):
                result *= self.probability(part, part_category, self.class_of(pieces, klass, meaning.parts))
                if not result:
                    break
        return result


class Concrete:
    """One language: words meanings, at random or all ways with their probabilities."""

    def __init__(self, language: str, tables: Tables, spelling: Spelling) -> None:
        self.language, self.tables, self.spelling = language, tables, spelling

    def attributes(self, rule: Rule, parts: list[Any]) -> dict[str, Any]:
        """The attributes that a rule gives to what it builds of these parts."""
        tables = self.tables
        return {
            name: parts[ref[1]].attributes[ref[2]] if ref[0] == "part" else evaluate(ref, (), parts, tables)
            for name, ref in rule.attributes[self.language].items()
        }

    def choose(self, meaning: Meaning | Lexeme, uniform: Any) -> Worded:
        """Draw the variant of every lexeme."""
        if type(meaning) is Lexeme:
            variants = meaning.variants[self.language]
            if len(variants) == 1:
                return variants[0]
            point = uniform()
            for variant in variants:
                point -= variant.probability
                if point < 0:
                    return variant
            return variants[-1]
        parts = [self.choose(part, uniform) for part in meaning.parts]  # type: ignore[union-attr]
        return Node(meaning.rule, parts, self.attributes(meaning.rule, parts))  # type: ignore[union-attr]

    def choices(self, meaning: Meaning | Lexeme) -> list[tuple[Worded, float]]:
        """Every choice of variants with its probability."""
        if isinstance(meaning, Lexeme):
            return [(variant, variant.probability) for variant in meaning.variants[self.language]]
        result: list[tuple[Worded, float]] = []
        for combination in itertools.product(*[self.choices(part) for part in meaning.parts]):
            parts = [part for part, _ in combination]
            chance = 1.0
            for _, probability in combination:
                chance *= probability
            result.append((Node(meaning.rule, parts, self.attributes(meaning.rule, parts)), chance))
        return result

    def usable(self, node: Node, arguments: Sequence[str | None]) -> list[tuple[int, float]]:
        """Indices of the patterns whose guards hold, with their probabilities."""
        patterns = node.rule.patterns[self.language]
        if len(patterns) == 1 and not patterns[0].guards:
            return [(0, 1.0)]
        held = []
        for index, pattern in enumerate(patterns):
            for reference, values, wanted in pattern.guards:
                if (evaluate(reference, arguments, node.parts, self.tables) in values) is not wanted:
                    break
            else:
                held.append((index, pattern.weight))
        total = sum(weight for _, weight in held)
        if not held:
            raise ValueError(f"grammar data: no {self.language} pattern of {node.rule.name} for {list(arguments)}")
        return [(index, weight / total) for index, weight in held]

    def arguments(self, references: list[Reference], arguments: Sequence[Any], parts: list[Any]) -> tuple[Any, ...]:
        """What references to arguments and parts stand for."""
        values = []
        for ref in references:
            kind = ref[0]
            if kind == "part":
                values.append(parts[ref[1]].attributes[ref[2]])
            elif kind == "const":
                values.append(ref[1])
            elif kind == "arg":
                values.append(arguments[ref[1]])
            else:
                values.append(evaluate(ref, arguments, parts, self.tables))
        return tuple(values)

    def say(self, node: Node, arguments: Sequence[Any], uniform: Any, words: list[str]) -> None:
        """Append the words of a node, drawing among its patterns."""
        usable = self.usable(node, arguments)
        index = usable[-1][0]
        if len(usable) > 1:
            point = uniform()
            for candidate, probability in usable:
                point -= probability
                if point < 0:
                    index = candidate
                    break
        parts = node.parts
        for element in node.rule.patterns[self.language][index].elements:
            kind = element[0]
            if kind == "word":
                words.append(element[1])
            elif kind == "child":
                self.say(parts[element[1]], self.arguments(element[2], arguments, parts), uniform, words)
            else:
                text = self.text(element, arguments, parts)
                if text:
                    words.append(text)

    def text(self, element: Element, arguments: Sequence[Any], parts: list[Any]) -> str:
        """The word or words of a table or of a form of a lexeme."""
        if element[0] == "table":
            return self.tables[element[1]][self.arguments(element[2], arguments, parts)]
        return str(parts[element[1]].forms[element[2]][self.arguments(element[3], arguments, parts)])

    def wordings(self, node: Node, arguments: Sequence[Any]) -> dict[str, float]:
        """Every way to say a node whose variants are chosen, words joined by spaces, with probabilities."""
        result: dict[str, float] = {}
        for index, chance in self.usable(node, arguments):
            partial = {"": chance}
            for element in node.rule.patterns[self.language][index].elements:
                if element[0] == "word":
                    following = {element[1]: 1.0}
                elif element[0] == "child":
                    inner = self.arguments(element[2], arguments, node.parts)
                    following = self.wordings(node.parts[element[1]], inner)
                else:
                    following = {self.text(element, arguments, node.parts): 1.0}
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
        node = self.choose(meaning, generator.random)
        words: list[str] = []
        self.say(node, (), generator.random, words)  # type: ignore[arg-type]
        return self.spelling.write(" ".join(words))

    def sentences(self, meaning: Meaning) -> dict[str, float]:
        """Every sentence of a meaning with its probability."""
        result: dict[str, float] = {}
        for node, chance in self.choices(meaning):
            for words, probability in self.wordings(node, ()).items():  # type: ignore[arg-type]
                text = self.spelling.write(words)
                result[text] = result.get(text, 0.0) + chance * probability
        return result
