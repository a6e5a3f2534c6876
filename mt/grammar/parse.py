"""The way back: every meaning that a sentence can have, with its weight.

The parser only proposes: it matches patterns against tokens from left to right, a feature that is not yet
known being left open. What it proposes is worded again and compared with the sentence, and its weight is
computed forwards, so that a proposal can be superfluous but never wrong.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from mt.grammar.engine import Abstract, Concrete
from mt.grammar.index import Entries, Index, Unknown
from mt.grammar.spelling import SOFT_COMMA
from mt.grammar.structures import (
    Argument,
    Child,
    Element,
    Feature,
    Form,
    Key,
    Lexeme,
    Lookup,
    Meaning,
    Node,
    Pattern,
    Reference,
    Rule,
    Slot,
    Variant,
    Word,
    evaluate,
    refuted,
)

_MARKS = frozenset(",.?!")


@dataclass(eq=False, slots=True)
class Tree(Node):
    """A constituent found: a worded node, its pattern, and its meaning."""

    pattern: Pattern
    meaning: Meaning


class Open(NamedTuple):
    """A part not yet found, with the features that the words so far demand of it."""

    features: Unknown

    def allows(self, part: Any) -> bool:
        """Whether a part has all that is demanded."""
        return all(part.features[name] == value for name, value in self.features.items())


_UNSEEN = Open(Unknown())


class State(NamedTuple):
    """A rule half matched: its parts, some of them open, and its arguments, None where not known."""

    parts: tuple[Any, ...]
    arguments: Key

    def bind(self, reference: Reference, value: str, tables: dict[str, Unknown]) -> State | None:
        """The state in which a reference has this value; None where it cannot have it."""
        known = evaluate([reference], self.arguments, self.parts, tables)[0]
        if known is not None:
            return self if known == value else None
        if isinstance(reference, Argument):
            return State(self.parts, _with(self.arguments, reference.index, value))
        if isinstance(reference, Feature):
            demanded = Open(Unknown({**self.parts[reference.part].features, reference.name: value}))
            return State(_with(self.parts, reference.part, demanded), self.arguments)
        return self  # a table cannot be solved for its parts, only compared once they are known

    def fill(self, index: int, part: Any) -> State | None:
        """The state in which a part is known; None where it breaks a demand."""
        known = self.parts[index]
        if type(known) is not Open:
            return self if known is part else None
        return State(_with(self.parts, index, part), self.arguments) if known.allows(part) else None


def _with(values: tuple[Any, ...], index: int, value: Any) -> tuple[Any, ...]:
    return (*values[:index], value, *values[index + 1 :])


class Parser:
    """Parses sentences of one language."""

    def __init__(self, abstract: Abstract, concrete: Concrete) -> None:
        self.abstract, self.concrete = abstract, concrete
        self.index = Index(abstract, concrete)

    def meanings(self, sentence: str) -> list[tuple[Meaning, float]]:
        """Every meaning with its weight: chance of the meaning times chance that it is said so."""
        weights: dict[Any, tuple[Meaning, float]] = {}
        seen = set()
        for text in dict.fromkeys((sentence, sentence[:1].lower() + sentence[1:])):
            tokens = self.concrete.spelling.tokens(text)
            chart = Chart(self.abstract, self.concrete, self.index, tokens)
            for end, tree, _ in chart.parse("Sentence", "", (), 0):
                key = _identity(tree)
                if end != len(tokens) or key in seen:  # both readings of the first word may give it
                    continue
                seen.add(key)
                weight = self.abstract.probability(tree.meaning, "Sentence", "")
                text, chance = self._worded(tree, ())
                if weight and self.concrete.spelling.write(text) == sentence:
                    plain = _identity(tree.meaning)
                    weights[plain] = (tree.meaning, weights.get(plain, (None, 0.0))[1] + weight * chance)
        return list(weights.values())

    def _worded(self, tree: Tree, arguments: Key) -> tuple[str, float]:
        """Words of a parsed tree and the chance of its variants and patterns."""
        chance = dict(self.concrete.usable(tree, arguments)).get(tree.pattern, 0.0)
        if not chance:
            return "", 0.0
        words = []
        for element in tree.pattern.elements:
            if isinstance(element, Child):
                inner = evaluate(element.references, arguments, tree.parts, self.concrete.tables)
                text, part_chance = self._worded(tree.parts[element.part], inner)
                chance *= part_chance
            else:
                text = self.concrete.text(element, arguments, tree.parts)
            if text:
                words.append(text)
        for part in tree.parts:
            if isinstance(part, Variant):
                chance *= part.probability
        return " ".join(words), chance


def _identity(whole: Tree | Variant | Meaning | Lexeme) -> Any:
    """What tells one derivation from another (rules, patterns, variants), or one meaning (rules, lexemes)."""
    if isinstance(whole, (Variant, Lexeme)):
        return whole
    return (whole.rule.name, getattr(whole, "pattern", None), *map(_identity, whole.parts))


class Found(NamedTuple):
    """A constituent, and what matching it showed."""

    end: int
    """the token after it"""
    tree: Tree
    arguments: Key
    """that it was given or showed"""


class Chart:
    """One token string while it is parsed; remembers the constituents found."""

    def __init__(self, abstract: Abstract, concrete: Concrete, index: Index, tokens: tuple[str, ...]) -> None:
        self.abstract, self.concrete, self.index, self.tokens = abstract, concrete, index, tokens
        self.memory: dict[Any, list[Found]] = {}
        self.probability = cache(abstract.probability)
        self.heads: dict[Rule, list[Variant]] = {}
        self.words = frozenset(tokens)
        self.present = index.present(self.words)

    def parse(self, category: str, klass: str | None, arguments: Key, start: int) -> list[Found]:
        """Constituents from `start`; arguments given as None are filled in where the words show them.

        `klass` is the class of the constituent, None where it depends on parts still unknown.
        """
        key = (category, klass, arguments, start)
        if key not in self.memory:
            self.memory[key] = []  # stops left recursion, which the grammar does not have
            found: list[Found] = []
            for _, rule in self.abstract.rules[category]:
                for pattern in rule.patterns[self.concrete.language]:
                    if not self.index.needed[pattern] <= self.words:
                        continue
                    for state in self._starts(rule, arguments):
                        if not refuted(pattern, state.arguments, state.parts, self.index.values):
                            for end, final in self._match(rule, pattern.elements, 0, start, state):
                                found.extend(self._finish(rule, klass, pattern, end, final))
            self.memory[key] = found
        return self.memory[key]

    def _starts(self, rule: Rule, arguments: Key) -> list[State]:
        unseen, head = (_UNSEEN,) * len(rule.slots), self.index.heads[rule]
        if head is None:
            return [State(unseen, arguments)]
        if rule not in self.heads:
            self.heads[rule] = [v for v in self.index.candidates(rule, head) if v in self.present]
        return [State(_with(unseen, head, variant), arguments) for variant in self.heads[rule]]

    def _match(
        self, rule: Rule, elements: list[Element], position: int, start: int, state: State
    ) -> Iterator[tuple[int, State]]:
        """Ways to match the elements from `position` on against the tokens from `start` on."""
        if position == len(elements):
            yield start, state
            return
        for end, following in self._one(rule, elements[position], start, state):
            yield from self._match(rule, elements, position + 1, end, following)

    def _one(self, rule: Rule, element: Element, start: int, state: State) -> Iterator[tuple[int, State]]:
        """Ways to match one element: the token after it, and what is known then."""
        tokens = self.tokens
        if not isinstance(element, Word):
            for end, filled, key in self._found(rule, element, start, state):
                bound = self._bind_all(element.references, key, filled)
                if bound:
                    yield end, bound
        elif element.text != SOFT_COMMA:
            if tokens[start : start + len(element.tokens)] == element.tokens:
                yield start + len(element.tokens), state
        elif start < len(tokens):
            if tokens[start] in _MARKS:  # not written before another mark
                yield start, state
            if tokens[start] == ",":  # this comma may be it, or the mark that silences it
                yield start + 1, state

    def _found(
        self, rule: Rule, element: Lookup | Form | Child, start: int, state: State
    ) -> Iterator[tuple[int, State, Key]]:
        """What an element may be: the token after it, the state with its part, the values of its references."""
        if isinstance(element, Lookup):
            for end, key in self._look_up(self.index.tables[element.table], start):
                yield end, state, key
            return
        slot, known = rule.slots[element.part], state.parts[element.part]
        if isinstance(element, Child):
            given = evaluate(element.references, state.arguments, state.parts, self.index.values)
            found: Iterable[tuple[int, Any, Key]] = self.parse(slot.category, slot.fixed, given, start)
        elif type(known) is Open:
            entries = self._look_up(self.index.forms[slot.category, element.name], start)
            found = ((end, variant, key) for end, (variant, key) in entries)
        else:
            found = ((end, known, key) for end, key in self._look_up(self.index.own[known][element.name], start))
        for end, part, key in found:
            filled = state.fill(element.part, part)
            if filled:
                yield end, filled, key

    def _look_up(self, entries: Entries, start: int) -> Iterator[tuple[int, Any]]:
        for _, value in entries.get("", ()):
            yield start, value
        if start < len(self.tokens):
            for words, value in entries.get(self.tokens[start], ()):
                if self.tokens[start : start + len(words)] == words:
                    yield start + len(words), value

    def _bind_all(self, references: list[Reference], values: Key, state: State | None) -> State | None:
        for reference, value in zip(references, values):
            if value is not None and state is not None:
                state = state.bind(reference, value, self.index.values)
        return state

    def _finish(self, rule: Rule, klass: str | None, pattern: Pattern, end: int, state: State) -> Iterator[Found]:
        """The trees of a full match: leaves that no word showed are taken in every possible way."""
        candidates = [
            [each for each in self.index.candidates(rule, index) if part.allows(each)] if type(part) is Open else [part]
            for index, part in enumerate(state.parts)
        ]
        for parts in itertools.product(*candidates):
            if refuted(pattern, state.arguments, parts, self.index.values):
                continue
            meanings: list[Any] = [part.lexeme if isinstance(part, Variant) else part.meaning for part in parts]
            if all(self._possible(slot, klass, meanings, index) for index, slot in enumerate(rule.slots)):
                node = self.concrete.node(rule, list(parts))
                meaning = self.abstract.meaning(rule, meanings)
                yield Found(end, Tree(rule, node.parts, node.features, pattern, meaning), state.arguments)

    def _possible(self, slot: Slot, klass: str | None, meanings: list[Any], index: int) -> bool:
        """Whether a part can be in its class, as far as the class is known."""
        if klass is None and any(isinstance(piece, Argument) for piece in slot.pieces):
            return True
        part_class = self.abstract.class_of(slot, klass or "", meanings)
        return self.probability(meanings[index], slot.category, part_class) > 0
