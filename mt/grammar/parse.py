"""The way back: every meaning that a sentence can have, with its weight.

The parser only proposes: it matches patterns against tokens from left to right, a feature that is not yet
known being left open. What it proposes is worded again and compared with the sentence, and its weight is
computed forwards, so that a proposal can be superfluous but never wrong.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from mt.grammar.engine import Abstract, Concrete, Element, Lexeme, Meaning, Node, Pattern, Reference, Rule, Variant
from mt.grammar.spelling import SOFT_COMMA

_COMMON = 20  # a word of more lexemes than this (an auxiliary) does not tell which verb a sentence has
_MARKS = frozenset(",.?!")
Key = tuple[Any, ...]  # features of a form; None: whatever it be
Entries = dict[str, list[tuple[tuple[str, ...], Any]]]  # by first token ("" for none): tokens, what they stand for


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
        result.extend((key, text) for key in sorted(keys, key=str))
    return result


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
            arguments = (*self.arguments[: reference[1]], value, *self.arguments[reference[1] + 1 :])
            return State(self.parts, arguments, self.demands)
        part = self.parts[reference[1]]
        if part is not None:
            return self if part.attributes[reference[2]] == value else None
        known = self.demands.get(reference[1:])
        if known is not None:
            return self if known == value else None
        return State(self.parts, self.arguments, {**self.demands, reference[1:]: value})

    def fill(self, index: int, part: Any) -> State | None:
        """The state in which a part is known; None where it breaks a demand."""
        known = self.parts[index]
        if known is not None:
            return self if known is part else None
        for (wanted, name), value in self.demands.items():
            if wanted == index and part.attributes[name] != value:
                return None
        return State((*self.parts[:index], part, *self.parts[index + 1 :]), self.arguments, self.demands)


class Parser:
    """Parses sentences of one language."""

    def __init__(self, abstract: Abstract, concrete: Concrete) -> None:
        self.abstract, self.concrete = abstract, concrete
        self.language = concrete.language
        tokens = concrete.spelling.tokens
        self._tables: dict[str, Entries] = {}
        for name, table in concrete.tables.items():
            entries = self._tables.setdefault(name, {})
            for key, text in _without_irrelevant(table):
                words = tokens(text)
                entries.setdefault(words[0] if words else "", []).append((words, key))
        self._forms: dict[tuple[str, str], Entries] = {}
        self._own: dict[Variant, dict[str, Entries]] = {}
        self.with_token: dict[str, set[Variant]] = {}
        for category, group in abstract.lexicon.items():
            for lexeme in group:
                for variant in lexeme.variants[self.language]:
                    self._index(category, variant)
        self.plain = {variant for variant in self._own if self._is_plain(variant)}
        self._candidates: dict[tuple[int, int], list[Variant]] = {}
        self._needed: dict[int, frozenset[str]] = {}  # by pattern: words without which it cannot be
        for _, rule in itertools.chain(*abstract.rules.values()):
            for pattern in rule.patterns[self.language]:
                fixed = [e[2] for e in pattern.elements if e[0] == "word" and e[1] != SOFT_COMMA]
                self._needed[id(pattern)] = frozenset(itertools.chain(*fixed))
        self._heads = {id(rule): self._head(rule) for group in abstract.rules.values() for _, rule in group}

    def _index(self, category: str, variant: Variant) -> None:
        own: dict[str, Entries] = {}
        self._own[variant] = own
        read: dict[str, tuple[str, ...]] = {}
        for name, forms in variant.forms.items():
            entries = self._forms.setdefault((category, name), {})
            for key, text in _without_irrelevant(forms):
                if text not in read:
                    read[text] = self.concrete.spelling.tokens(text)
                words = read[text]
                own.setdefault(name, {}).setdefault(words[0] if words else "", []).append((words, key))
                entries.setdefault(words[0] if words else "", []).append((words, (variant, key)))
                for word in words:
                    self.with_token.setdefault(word, set()).add(variant)

    def _is_plain(self, variant: Variant) -> bool:
        """Whether a verb can be said in words that most verbs share: `is` for `be`, `hat` for `haben`."""
        telling: dict[str, bool] = {}
        for forms in variant.forms.values():
            for key, text in forms.items():
                if key:
                    rare = any(len(self.with_token[word]) <= _COMMON for word in self.concrete.spelling.tokens(text))
                    telling[key[0]] = telling.get(key[0], False) or rare
        return not all(telling.values())

    def _head(self, rule: Rule) -> int | None:
        """The leaf that appears in several places of one pattern: it is tried first, as the sentence names it."""
        for pattern in rule.patterns[self.language]:
            used = [element[1] for element in pattern.elements if element[0] == "form"]
            for index in used:
                spoken = (any(map(any, map(dict.values, v.forms.values()))) for v in self.candidates(rule, index))
                if used.count(index) > 1 and all(spoken):
                    return int(index)
        return None

    def candidates(self, rule: Rule, index: int) -> list[Variant]:
        """Variants that a leaf of a rule may be, as far as its class is known without the rest of the meaning."""
        key = (id(rule), index)
        if key not in self._candidates:
            _, category, pieces = rule.parts[index]
            if len(pieces) == 1 and isinstance(pieces[0], str):
                lexemes = self.abstract.options(category, pieces[0])[0]
            else:
                lexemes = [
                    lexeme
                    for lexeme in self.abstract.lexicon[category]
                    if any(str(pieces[0]) == name[: len(pieces[0])] or "*" in name for name in lexeme.classes)
                    or not isinstance(pieces[0], str)
                ]
            self._candidates[key] = [variant for lexeme in lexemes for variant in lexeme.variants[self.language]]
        return self._candidates[key]

    def meanings(self, sentence: str) -> list[tuple[Meaning, float]]:
        """Every meaning with its weight: chance of the meaning times chance that it is said so."""
        weights: dict[Any, tuple[Meaning, float]] = {}
        seen = set()
        for tokens in self.concrete.spelling.read(sentence):
            chart = Chart(self, tokens)
            for end, node, _ in chart.parse("Sentence", "", (), 0):
                key = _derivation(node)
                if end != len(tokens) or key in seen:
                    continue
                seen.add(key)
                weight = self.abstract.probability(node.meaning, "Sentence", "")
                text, chance = self._worded(node, ())
                if weight and self.concrete.spelling.write(text) == sentence:
                    plain = _structure(node.meaning)
                    weights[plain] = (node.meaning, weights.get(plain, (None, 0.0))[1] + weight * chance)
        return list(weights.values())

    def _worded(self, tree: Tree, arguments: tuple[Any, ...]) -> tuple[str, float]:
        """Words of a parsed tree and the chance of its variants and patterns."""
        chance = dict(self.concrete.usable(tree, arguments)).get(tree.pattern, 0.0)
        if not chance:
            return "", 0.0
        words = []
        for element in tree.rule.patterns[self.language][tree.pattern].elements:
            if element[0] == "word":
                text = element[1]
            elif element[0] == "child":
                inner = self.concrete.arguments(element[2], arguments, tree.parts)
                text, part_chance = self._worded(tree.parts[element[1]], inner)
                chance *= part_chance
            else:
                text = self.concrete.text(element, arguments, tree.parts)
            if text:
                words.append(text)
        for part in tree.parts:
            if isinstance(part, Variant):
                chance *= part.probability
        return " ".join(words), chance


class Tree(Node):
    """A constituent found: a worded node, its pattern and its meaning."""

    __slots__ = ("pattern", "meaning")

    def __init__(
        self, rule: Rule, parts: list[Any], attributes: dict[str, str], pattern: int, meaning: Meaning
    ) -> None:
        super().__init__(rule, parts, attributes)
        self.pattern, self.meaning = pattern, meaning


def _derivation(worded: Tree | Variant) -> Any:
    """What tells one derivation from another: rules, patterns and variants."""
    if isinstance(worded, Variant):
        return id(worded)
    return (worded.rule.name, worded.pattern, *map(_derivation, worded.parts))


def _structure(meaning: Meaning | Lexeme) -> Any:
    """What tells one meaning from another: rules and lexemes."""
    if isinstance(meaning, Lexeme):
        return id(meaning)
    return (meaning.rule.name, *map(_structure, meaning.parts))


Found = tuple[int, Tree, tuple[Any, ...]]  # end, constituent, arguments it was given or showed


class Chart:
    """One token string while it is parsed; remembers the constituents found."""

    def __init__(self, parser: Parser, tokens: tuple[str, ...]) -> None:
        self.parser, self.tokens = parser, tokens
        self.memory: dict[Any, list[Found]] = {}
        self.chances: dict[tuple[int, str, str], float] = {}
        self.heads: dict[int, list[Variant]] = {}
        self.words = frozenset(tokens)
        self.present: set[Variant] = set()
        for token in self.words:
            variants = parser.with_token.get(token, ())
            self.present.update(v for v in variants if len(variants) <= _COMMON or v in parser.plain)

    def parse(self, category: str, klass: str | None, arguments: tuple[Any, ...], start: int) -> list[Found]:
        """Constituents from `start`: end, tree and arguments (those given as None filled in where known).

        `klass` is the class of the constituent, None where it depends on parts still unknown.
        """
        key = (category, klass, arguments, start)
        if key not in self.memory:
            self.memory[key] = []  # stops left recursion, which the grammar does not have
            found: list[Found] = []
            for _, rule in self.parser.abstract.rules[category]:
                for index, pattern in enumerate(rule.patterns[self.parser.language]):
                    if not self.parser._needed[id(pattern)] <= self.words:
                        continue
                    for state in self._starts(rule, category, arguments):
                        if self._refuted(pattern, state):
                            continue
                        for end, final in self._match(rule, pattern.elements, 0, start, state):
                            found.extend(self._finish(rule, klass, index, end, final))
            self.memory[key] = found
        return self.memory[key]

    def _starts(self, rule: Rule, category: str, arguments: tuple[Any, ...]) -> Iterator[State]:
        empty = State((None,) * len(rule.parts), arguments, {})
        head = self.parser._heads[id(rule)]
        if head is None:
            yield empty
            return
        if id(rule) not in self.heads:
            self.heads[id(rule)] = [v for v in self.parser.candidates(rule, head) if v in self.present]
        for variant in self.heads[id(rule)]:
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
            return state.arguments[reference[1]]
        if kind == "part":
            part = state.parts[reference[1]]
            return state.demands.get(reference[1:]) if part is None else part.attributes[reference[2]]
        values = tuple(self._value(inner, state) for inner in reference[2])
        return None if None in values else self.parser.concrete.tables[reference[1]].get(values)

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

    def _bind_all(self, references: list[Reference], values: Key, state: State) -> State | None:
        for reference, value in zip(references, values):
            if value is None:
                continue
            if reference[0] == "table":  # cannot be solved for its parts, only compared once they are known
                if self._value(reference, state) not in (None, value):
                    return None
                continue
            bound = state.bind(reference, value)
            if bound is None:
                return None
            state = bound
        return state

    def _form(self, rule: Rule, element: Element, start: int, state: State) -> Iterator[tuple[int, State]]:
        index, name, references = element[1:]
        variant = state.parts[index]
        if variant is not None:
            for end, key in self._look_up(self.parser._own[variant][name], start):
                bound = self._bind_all(references, key, state)
                if bound:
                    yield end, bound
            return
        for end, (variant, key) in self._look_up(self.parser._forms[rule.parts[index][1], name], start):
            filled = state.fill(index, variant)
            bound = filled and self._bind_all(references, key, filled)
            if bound:
                yield end, bound

    def _child(self, rule: Rule, element: Element, start: int, state: State) -> Iterator[tuple[int, State]]:
        index, references = element[1:]
        arguments = tuple(self._value(reference, state) for reference in references)
        _, category, pieces = rule.parts[index]
        klass = pieces[0] if len(pieces) == 1 and isinstance(pieces[0], str) else None
        for end, node, known in self.parse(category, klass, arguments, start):
            filled = state.fill(index, node)
            if filled is None:
                continue
            current = self._bind_all(references, known, filled)
            if current:
                yield end, current

    def _finish(self, rule: Rule, klass: str | None, pattern: int, end: int, state: State) -> Iterator[Found]:
        """The trees of a full match: leaves that no word showed are taken in every possible way."""
        candidates: list[list[Any]] = []
        for index, part in enumerate(state.parts):
            if part is None:
                demands = [(name, value) for (wanted, name), value in state.demands.items() if wanted == index]
                found = self.parser.candidates(rule, index)
                candidates.append([v for v in found if all(v.attributes[name] == value for name, value in demands)])
            else:
                candidates.append([part])
        for parts in itertools.product(*candidates):
            meanings: list[Any] = [part.lexeme if isinstance(part, Variant) else part.meaning for part in parts]
            filled = State(parts, state.arguments, {})
            if self._refuted(rule.patterns[self.parser.language][pattern], filled):
                continue
            if all(self._possible(spec, klass, meanings, index) for index, spec in enumerate(rule.parts)):
                meaning = Meaning(rule, meanings, self.parser.abstract.meta(rule, meanings))
                attributes = self.parser.concrete.attributes(rule, list(parts))
                yield end, Tree(rule, list(parts), attributes, pattern, meaning), state.arguments

    def _possible(self, spec: tuple[Any, ...], klass: str | None, meanings: list[Any], index: int) -> bool:
        """Whether a part can be in its class, as far as the class is known."""
        _, category, pieces = spec
        if klass is None and any(not isinstance(piece, str) and piece[0] == "arg" for piece in pieces):
            return True
        part_class = self.parser.abstract.class_of(pieces, klass or "", meanings)
        part = meanings[index]
        key = (id(part), category, part_class)
        if key not in self.chances:
            self.chances[key] = self.parser.abstract.probability(part, category, part_class)
        return self.chances[key] > 0
