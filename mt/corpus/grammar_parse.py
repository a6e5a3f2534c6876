"""The way back: every meaning that a sentence can have, with its weight.

The parser only proposes: it matches patterns against tokens from left to right, a feature that is not yet
known being left open. What it proposes is worded again and compared with the sentence, and its weight is
computed forwards, so that a proposal can be superfluous but never wrong.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from mt.corpus.grammar_engine import Abstract, Concrete, Element, Lexeme, Node, Pattern, Reference, Rule, Variant
from mt.corpus.grammar_spelling import SOFT_COMMA

_MARKS = frozenset(",.?!")
Entries = dict[str, list[tuple[tuple[str, ...], Any]]]  # by first token ("" for none): tokens, what they stand for


class State:
    """A rule half matched: the parts and arguments known so far, and the demands on parts not yet known."""

    __slots__ = ("parts", "arguments", "demands")

    def __init__(self, parts: tuple[Any, ...], arguments: tuple[Any, ...], demands: dict[tuple[int, str], str]) -> None:
        self.parts, self.arguments, self.demands = parts, arguments, demands

    def bind(self, reference: Reference, value: str) -> State | None:
        """The state in which the reference has this value; None where it cannot have it."""
        kind = reference[0]
        if kind == "const":
            return self if reference[1] == value else None
        if kind == "arg":
            known = self.arguments[reference[1]]
            if known is not None:
                return self if known == value else None
            arguments = self.arguments[: reference[1]] + (value,) + self.arguments[reference[1] + 1 :]
            return State(self.parts, arguments, self.demands)
        if kind == "part":
            part = self.parts[reference[1]]
            if part is not None:
                return self if part.attributes[reference[2]] == value else None
            known = self.demands.get(reference[1:])
            if known is not None:
                return self if known == value else None
            return State(self.parts, self.arguments, {**self.demands, reference[1:]: value})
        return self  # a table within a reference: left to the wording that follows

    def fill(self, index: int, part: Any) -> State | None:
        """The state in which a part is known; None where it breaks a demand."""
        known = self.parts[index]
        if known is not None:
            return self if known is part else None
        for (wanted, name), value in self.demands.items():
            if wanted == index and part.attributes[name] != value:
                return None
        return State(self.parts[:index] + (part,) + self.parts[index + 1 :], self.arguments, self.demands)


class Parser:
    """Parses sentences of one language."""

    def __init__(self, abstract: Abstract, concrete: Concrete) -> None:
        self.abstract, self.concrete = abstract, concrete
        self.language = concrete.language
        tokens = concrete.spelling.tokens
        self._tables: dict[str, Entries] = {}
        for name, table in concrete.tables.items():
            entries = self._tables.setdefault(name, {})
            for key, text in table.items():
                words = tokens(text)
                entries.setdefault(words[0] if words else "", []).append((words, key))
        self._forms: dict[tuple[str, str], Entries] = {}
        self._own: dict[Variant, dict[str, list[tuple[tuple[str, ...], Any]]]] = {}
        self._with_token: dict[str, set[Variant]] = {}
        for category, group in abstract.lexicon.items():
            for lexeme in group:
                for variant in lexeme.variants[self.language]:
                    self._index(category, variant)
        self._heads = {id(rule): self._head(rule) for group in abstract.rules.values() for _, rule in group}

    def _index(self, category: str, variant: Variant) -> None:
        own = self._own[variant] = {}
        read: dict[str, tuple[str, ...]] = {}
        for name, forms in variant.forms.items():
            entries = self._forms.setdefault((category, name), {})
            for key, text in forms.items():
                if text not in read:
                    read[text] = self.concrete.spelling.tokens(text)
                words = read[text]
                own.setdefault(name, []).append((words, key))
                entries.setdefault(words[0] if words else "", []).append((words, (variant, key)))
                for word in words:
                    self._with_token.setdefault(word, set()).add(variant)

    def _head(self, rule: Rule) -> int | None:
        """The leaf that appears in several places of one pattern: it is tried first, as the sentence names it."""
        for pattern in rule.patterns[self.language]:
            used = [element[1] for element in pattern.elements if element[0] == "form"]
            for index in used:
                if used.count(index) > 1:
                    return int(index)
        return None

    def candidates(self, rule: Rule, index: int) -> list[Lexeme]:
        """Lexemes that a leaf of a rule may be, as far as its class is known without the rest of the meaning."""
        _, category, pieces = rule.parts[index]
        if len(pieces) == 1 and isinstance(pieces[0], str):
            return [item for item in self.abstract.options(category, pieces[0])[0] if isinstance(item, Lexeme)]
        if len(pieces) == 2 and isinstance(pieces[0], str) and pieces[0]:
            return [x for x in self.abstract.lexicon[category] if any(k.startswith(pieces[0]) for k in x.classes)]
        return self.abstract.lexicon[category]

    def meanings(self, sentence: str) -> dict[Any, tuple[Any, float]]:
        """Meanings by key, each with its weight: chance of the meaning times chance that it is said so."""
        weights: dict[Any, tuple[Any, float]] = {}
        seen = set()
        for tokens in self.concrete.spelling.read(sentence):
            chart = Chart(self, tokens)
            for end, node, _ in chart.parse("Sentence", (), 0):
                key = _key(node, True)
                if end != len(tokens) or key in seen:
                    continue
                seen.add(key)
                meaning: Any = self.abstract.meaning_of(node, "")
                weight = self.abstract.probability(meaning, "Sentence", "")
                text, chance = self._worded(node, ())
                if weight and self.concrete.spelling.write(text) == sentence:
                    plain = _key(node, False)
                    weights[plain] = (meaning, weights.get(plain, (None, 0.0))[1] + weight * chance)
        return weights

    def _worded(self, worded: Any, arguments: tuple[Any, ...]) -> tuple[str, float]:
        """Words of a parsed tree and the chance of its variants and patterns."""
        usable = dict(self.concrete.usable(worded, arguments))
        if worded.pattern not in usable:
            return "", 0.0
        chance = usable[worded.pattern]
        words = []
        spoken = set()
        for element in worded.rule.patterns[self.language][worded.pattern].elements:
            if element[0] == "word":
                text = element[1]
            elif element[0] == "child":
                inner = self.concrete.arguments(element[2], arguments, worded.parts)
                text, part_chance = self._worded(worded.parts[element[1]], inner)
                chance *= part_chance
                spoken.add(element[1])
            else:
                text = self.concrete.text(element, arguments, worded.parts)
            if text:
                words.append(text)
        for part in worded.parts:
            if isinstance(part, Variant):
                chance *= part.probability
        return " ".join(words), chance


def _key(worded: Any, with_wording: bool) -> Any:
    """A tree as nested tuples; with or without the choices of the language."""
    if isinstance(worded, Variant):
        return id(worded) if with_wording else id(worded.lexeme)
    head = (worded.rule.name, worded.pattern) if with_wording else (worded.rule.name,)
    return head + tuple(_key(part, with_wording) for part in worded.parts)


class Chart:
    """One token string while it is parsed; remembers the constituents found."""

    def __init__(self, parser: Parser, tokens: tuple[str, ...]) -> None:
        self.parser, self.tokens = parser, tokens
        self.memory: dict[Any, list[tuple[int, Node, tuple[Any, ...]]]] = {}
        self.present: set[Variant] = set()
        for token in set(tokens):
            self.present |= parser._with_token.get(token, set())

    def parse(self, category: str, arguments: tuple[Any, ...], start: int) -> list[tuple[int, Node, tuple[Any, ...]]]:
        """Constituents from `start`: end, tree and arguments (those given as None filled in where known)."""
        key = (category, arguments, start)
        if key not in self.memory:
            self.memory[key] = []  # stops left recursion, which the grammar does not have
            found = []
            for _, rule in self.parser.abstract.rules[category]:
                for index, pattern in enumerate(rule.patterns[self.parser.language]):
                    for state in self._starts(rule, category, arguments):
                        if self._refuted(pattern, state):
                            continue
                        for end, final in self._match(rule, pattern.elements, 0, start, state):
                            found.extend(self._finish(rule, index, end, final))
            self.memory[key] = found
        return self.memory[key]

    def _starts(self, rule: Rule, category: str, arguments: tuple[Any, ...]) -> Iterator[State]:
        empty = State((None,) * len(rule.parts), arguments, {})
        head = self.parser._heads[id(rule)]
        if head is None:
            yield empty
            return
        for lexeme in self.parser.candidates(rule, head):
            for variant in lexeme.variants[self.parser.language]:
                if variant in self.present:
                    filled = empty.fill(head, variant)
                    if filled:
                        yield filled

    def _refuted(self, pattern: Pattern, state: State) -> bool:
        """Whether a guard is already known to fail."""
        for reference, values, wanted in pattern.guards:
            value = self._value(reference, state)
            if value is not None and (value in values) is not wanted:
                return True
        return False

    def _value(self, reference: Reference, state: State) -> str | None:
        kind = reference[0]
        if kind == "const":
            return str(reference[1])
        if kind == "arg":
            return state.arguments[reference[1]]  # type: ignore[no-any-return]
        if kind == "part":
            part = state.parts[reference[1]]
            return state.demands.get(reference[1:]) if part is None else part.attributes[reference[2]]
        values = tuple(self._value(inner, state) for inner in reference[2])
        return None if None in values else self.parser.concrete.tables[reference[1]].get(values)  # type: ignore[arg-type]

    def _match(
        self, rule: Rule, elements: list[Element], position: int, start: int, state: State
    ) -> Iterator[tuple[int, State]]:
        """Ways to match the elements from `position` on against the tokens from `start` on."""
        if position == len(elements):
            yield start, state
            return
        element = elements[position]
        for end, following in self._one(rule, element, start, state):
            yield from self._match(rule, elements, position + 1, end, following)

    def _one(self, rule: Rule, element: Element, start: int, state: State) -> Iterator[tuple[int, State]]:
        kind, tokens = element[0], self.tokens
        if kind == "word":
            if element[1] == SOFT_COMMA:
                if start < len(tokens) and tokens[start] in _MARKS:
                    yield start, state
                if start < len(tokens) and tokens[start] == ",":
                    yield start + 1, state
            elif tokens[start : start + len(element[2])] == element[2]:
                yield start + len(element[2]), state
        elif kind == "child":
            yield from self._child(rule, element, start, state)
        elif kind == "table":
            for end, key in self._look_up(self.parser._tables[element[1]], start):
                bound = self._bind_all(element[2], key, state)
                if bound:
                    yield end, bound
        else:
            yield from self._form(rule, element, start, state)

    def _look_up(self, entries: Entries, start: int) -> Iterator[tuple[int, Any]]:
        for _, value in entries.get("", ()):
            yield start, value
        if start < len(self.tokens):
            for words, value in entries.get(self.tokens[start], ()):
                if self.tokens[start : start + len(words)] == words:
                    yield start + len(words), value

    @staticmethod
    def _bind_all(references: list[Reference], values: tuple[str, ...], state: State) -> State | None:
        current: State | None = state
        for reference, value in zip(references, values):
            if current is not None:
                current = current.bind(reference, value)
        return current

    def _form(self, rule: Rule, element: Element, start: int, state: State) -> Iterator[tuple[int, State]]:
        index, name, references = element[1:]
        variant = state.parts[index]
        if variant is not None:
            for words, key in self.parser._own[variant].get(name, ()):
                if self.tokens[start : start + len(words)] == words:
                    bound = self._bind_all(references, key, state)
                    if bound:
                        yield start + len(words), bound
            return
        for end, (variant, key) in self._look_up(self.parser._forms[rule.parts[index][1], name], start):
            filled = state.fill(index, variant)
            bound = filled and self._bind_all(references, key, filled)
            if bound:
                yield end, bound

    def _child(self, rule: Rule, element: Element, start: int, state: State) -> Iterator[tuple[int, State]]:
        index, references = element[1:]
        arguments = tuple(self._value(reference, state) for reference in references)
        for end, node, known in self.parse(rule.parts[index][1], arguments, start):
            filled = state.fill(index, node)
            if filled is None:
                continue
            current: State | None = filled
            for reference, value in zip(references, known):
                if current is not None and value is not None:
                    current = current.bind(reference, value)
            if current:
                yield end, current

    def _finish(self, rule: Rule, pattern: int, end: int, state: State) -> Iterator[tuple[int, Node, tuple[Any, ...]]]:
        """The trees of a full match: leaves that no word showed are taken in every possible way."""
        concrete = self.parser.concrete
        candidates: list[list[Any]] = []
        for index, part in enumerate(state.parts):
            if part is not None:
                candidates.append([part])
                continue
            candidates.append(
                [
                    variant
                    for lexeme in self.parser.candidates(rule, index)
                    for variant in lexeme.variants[self.parser.language]
                    if all(variant.attributes[n] == v for (i, n), v in state.demands.items() if i == index)
                ]
            )
        for parts in itertools.product(*candidates):
            attributes = concrete.attributes(rule, list(parts))
            node = Node(rule, list(parts), attributes, pattern)
            filled = State(parts, state.arguments, {})
            if not self._refuted(rule.patterns[self.parser.language][pattern], filled):
                yield end, node, state.arguments
