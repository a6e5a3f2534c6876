"""What the grammar is made of: lexemes, rules, patterns, meanings, and references from one part to another."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Key = tuple[Any, ...]
"""values of features, each a string; while parsing, None where a value is not known or makes no difference"""
Forms = dict[str, dict[Any, str]]
"""name of the form -> features (a tuple of strings) -> word or words"""
PERSONS = ("1s", "2s", "3s", "1p", "2p", "3p")
"""first person singular to third person plural, the order of all rows of verb forms"""
Tables = dict[str, dict[tuple[Any, ...], str]]
"""name of the table -> features -> word, words, or a feature"""


@dataclass(eq=False, slots=True)
class Variant:
    """One wording of a lexeme in one language: its features and inflected forms."""

    lexeme: Lexeme
    probability: float
    features: dict[str, str]
    forms: Forms


@dataclass(eq=False, slots=True)
class Lexeme:
    """A leaf of meaning: its classes with weights, features that steer the choice of other parts, wordings."""

    name: str
    category: str
    classes: dict[str, float]
    features: dict[str, str]
    variants: dict[str, list[Variant]] = field(default_factory=dict)


@dataclass(slots=True)
class Argument:
    """A reference to a feature that the constituent was given by the one above it."""

    index: int


@dataclass(slots=True)
class Feature:
    """A reference to a feature of a part."""

    part: int
    name: str


@dataclass(slots=True)
class Lookup:
    """A reference to the entry of a table; in a pattern, the words that stand there."""

    table: str
    references: list[Reference]


Reference = str | Argument | Feature | Lookup
"""a string stands for itself"""


@dataclass(slots=True)
class Word:
    """In a pattern: a word, and the tokens it is read as."""

    text: str
    tokens: tuple[str, ...]


@dataclass(slots=True)
class Form:
    """In a pattern: a form of a part that is a lexeme."""

    part: int
    name: str
    references: list[Reference]


@dataclass(slots=True)
class Child:
    """In a pattern: a part that is a constituent, with the arguments it is given."""

    part: int
    references: list[Reference]


Element = Word | Lookup | Form | Child


@dataclass(slots=True)
class Guard:
    """A condition: the value of `reference` (a list of one) is among `values`, or, if not `wanted`, is not."""

    reference: list[Reference]
    values: frozenset[str]
    wanted: bool


@dataclass(eq=False, slots=True)
class Pattern:
    """One order of words of a rule; it may be used where its guards hold."""

    weight: float
    guards: list[Guard]
    elements: list[Element]


class Slot(NamedTuple):
    """What a part of a rule may be: a category, and a class in it that may depend on the parts before."""

    category: str
    pieces: list[Reference]
    """joined they are the class; the only argument is the class of the rule"""
    fixed: str | None
    """the class, where it depends on nothing"""


@dataclass(eq=False, slots=True)
class Rule:
    """A node of meaning: a slot for each part, and how each language words it."""

    name: str
    classes: list[str]
    slots: list[Slot]
    features: dict[str, Reference]
    """of the meaning: they steer the choice of other parts"""
    worded_features: dict[str, dict[str, Reference]] = field(default_factory=dict)
    """by language: of the words, for agreement"""
    patterns: dict[str, list[Pattern]] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class Meaning:
    """A rule with its parts: a sub-meaning or a lexeme each."""

    rule: Rule
    parts: list[Meaning | Lexeme]
    features: dict[str, str]


@dataclass(eq=False, slots=True)
class Node(Meaning):
    """A meaning with the variants of one language chosen."""

    parts: list[Any]


def evaluate(
    references: Collection[Reference], arguments: Key, parts: Sequence[Any], tables: Mapping[str, Mapping[Key, Any]]
) -> Key:
    """The values of references: to `arguments`, given by the constituent above, to features of `parts`, of which only
    those referred to are looked at, and to the `tables` of the language.

    Every feature of the grammar goes through here: agreement, guards, classes of meaning. The parser calls it with
    parts and tables that answer None to what is not known yet.
    """
    if not references:
        return ()
    values: list[Any] = []
    for reference in references:
        if isinstance(reference, Feature):
            values.append(parts[reference.part].features[reference.name])
        elif isinstance(reference, str):
            values.append(reference)
        elif isinstance(reference, Argument):
            values.append(arguments[reference.index])
        else:
            values.append(tables[reference.table][evaluate(reference.references, arguments, parts, tables)])
    return tuple(values)


def features_of(references: dict[str, Reference], parts: Sequence[Any], tables: Tables) -> dict[str, Any]:
    """The features that a rule gives to what it builds of these parts."""
    return dict(zip(references, evaluate(references.values(), (), parts, tables))) if references else {}


def refuted(pattern: Pattern, arguments: Key, parts: Sequence[Any], tables: Mapping[str, Mapping[Key, Any]]) -> bool:
    """Whether a guard of a pattern is known to fail."""
    for guard in pattern.guards:  # one by one: a guard may only make sense where those before it hold
        value = evaluate(guard.reference, arguments, parts, tables)[0]
        if value is not None and (value in guard.values) is not guard.wanted:
            return True
    return False
