"""Reads `rules.yaml` and the tables of each language; `docs/corpus.md` explains the notation."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Any

from mt.grammar.engine import Concrete
from mt.grammar.lexicon import LANGUAGES
from mt.grammar.structures import (
    Argument,
    Child,
    Element,
    Feature,
    Form,
    Guard,
    Lookup,
    Pattern,
    Reference,
    Rule,
    Slot,
    Tables,
    Word,
)

_MACRO = re.compile(r"\b[A-Z][A-Z0-9]+\b")


def read_tables(settings: dict[str, Any]) -> Tables:
    """The tables of a language with every row written out; the first row that fits counts."""
    features = {name: values.split() for name, values in settings["features"].items()}
    tables: Tables = {}
    for title, table in settings["tables"].items():
        arguments = table["arguments"].split()
        stems = table.get("stems", {})
        entries: dict[tuple[str, ...], str] = {}
        for line in table["rows"].strip().split("\n"):
            *cells, text = line.split(None, len(arguments))
            options = [features[name] if cell == "*" else cell.split("|") for name, cell in zip(arguments, cells)]
            for key in itertools.product(*options):
                word = "" if text == "-" else text.replace("~", stems.get(key[0], "~"))
                if "~" not in word:  # where there is no stem, there is no entry
                    entries.setdefault(key, word)
        tables[title] = entries
    return tables


@dataclass(frozen=True)
class _Scope:
    """What names in the notation of a rule refer to."""

    parts: list[str]
    arguments: list[str]
    """inherited features, `$name` in the notation"""
    concrete: Concrete | None
    """None on the side of meanings, which has no tables and no words"""

    def reference(self, text: str) -> Reference:
        """`$name`, `table[…]`, `part.feature`, or a text as it stands."""
        if text.startswith("$"):
            return Argument(self.arguments.index(text[1:]))
        if self.concrete and text.endswith("]"):
            table, _, inner = text[:-1].partition("[")
            if table not in self.concrete.tables:
                raise ValueError(f"grammar data: no {self.concrete.language} table {table!r} in {text!r}")
            return Lookup(table, self.references(inner))
        part, _, feature = text.partition(".")
        return Feature(self.parts.index(part), feature) if part in self.parts else text

    def references(self, text: str) -> list[Reference]:
        """References with commas between them."""
        pieces, depth = [""], 0
        for character in text:
            depth += (character == "[") - (character == "]")  # commas in brackets belong to what is inside
            if character == "," and not depth:
                pieces.append("")
            else:
                pieces[-1] += character
        return [self.reference(piece.strip()) for piece in pieces if piece.strip()]

    def features(self, entry: dict[str, str]) -> dict[str, Reference]:
        """References by name."""
        return {name: self.reference(text) for name, text in entry.items()}

    def slot(self, text: str) -> Slot:
        """`Category.class`, where `{…}` in the class stands for a feature of a part before or `{class}`."""
        category, _, klass = text.partition(".")
        pieces: list[Reference] = []
        for piece in re.findall(r"\{[^}]*\}|[^{}]+", klass):
            inherited = piece == "{class}"
            pieces.append(Argument(0) if inherited else self.reference(piece[1:-1]) if piece[0] == "{" else piece)
        return Slot(category, pieces, None if "{" in klass else klass)

    def pattern(self, text: str) -> Pattern:
        """`weight | guards | elements`."""
        weight, guards, elements = (cell.strip() for cell in text.split("|", 2))
        held = []
        for guard in guards.split():
            left, _, values = guard.partition("=")
            reference = self.reference(left.rstrip("!"))
            held.append(Guard([reference], frozenset(values.split("/")), not left.endswith("!")))
        return Pattern(float(weight), held, [self.element(element) for element in elements.split()])

    def element(self, text: str) -> Element:
        """`part.form[…]`, `part[…]`, `table[…]`; anything else is a word."""
        assert self.concrete, "meanings have no words"
        match = re.fullmatch(r"(\w+)(?:\.(\w+))?(\[.*\])?", text)
        if match:
            name, form, inner = match.groups()
            references = self.references((inner or "[]")[1:-1])
            if name in self.parts and form:
                return Form(self.parts.index(name), form, references)
            if name in self.parts and inner:
                return Child(self.parts.index(name), references)
            if name in self.concrete.tables and inner:
                return Lookup(name, references)
            if form or inner:
                raise ValueError(f"grammar data: {text!r} names neither a part nor a {self.concrete.language} table")
        return Word(text, self.concrete.spelling.tokens(text))


def read_rules(settings: dict[str, Any], concretes: dict[str, Concrete]) -> dict[str, list[tuple[float, Rule]]]:
    """All rules of `rules.yaml` by category, with their weights."""
    rules: dict[str, list[tuple[float, Rule]]] = {}
    for name, entry in settings["rules"].items():
        entry = {**settings["rules"].get(entry.get("like"), {}), **entry}
        rule = _rule(name, entry, settings["arguments"].get(next(iter(entry["of"])), {}), concretes)
        for category, weight in entry["of"].items():
            rules.setdefault(category, []).append((float(weight), rule))
    for name, frame in settings["frames"].items():
        for category in frame["in"].split():
            entry = _framed(settings["shapes"][category], frame, settings["defaults"])
            rule = _rule(f"{name}/{category}", entry, settings["arguments"][category], concretes)
            rules.setdefault(category, []).append((float(frame["weight"]), rule))
    return rules


def _framed(shape: dict[str, Any], frame: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The entry of a rule: a frame put into a shape of clause."""
    macros = {"HEAD": frame["head"], "PARTS": frame.get("parts", "")}
    macros |= {name: shape[name] for name in ("PERSON", "TIME")}
    macros |= {name: defaults[name] for name in ("SUBJECT", "SCOPE")}
    macros |= {name: text for name, text in frame.items() if name in macros}
    parts = shape["parts"]
    while _MACRO.search(parts):  # what a macro stands for may hold macros
        parts = _MACRO.sub(lambda match: macros[match.group()], parts)
    entry: dict[str, Any] = {"parts": parts.replace("@", shape["suffix"]), "classes": frame.get("classes", "*")}
    for language in LANGUAGES:
        own = {**defaults[language], **shape[language]["macros"], **frame.get(language, {})}
        entry[language] = [each for pattern in shape[language]["patterns"] for each in _expand(pattern, own)]
    return entry


def _rule(name: str, entry: dict[str, Any], arguments: dict[str, str], concretes: dict[str, Concrete]) -> Rule:
    specs = [spec.partition("=") for spec in entry.get("parts", "").split()]
    parts = [part for part, _, _ in specs]
    neutral = _Scope(parts, [], None)
    slots = [neutral.slot(slot) for _, _, slot in specs]
    rule = Rule(name, entry.get("classes", "*").split(), slots, neutral.features(entry.get("meta", {})))
    for language, concrete in concretes.items():
        own = entry[language] if isinstance(entry[language], dict) else {"patterns": entry[language]}
        scope = _Scope(parts, arguments.get(language, "").split(), concrete)
        rule.worded_features[language] = scope.features(own.get("attributes", {}))
        rule.patterns[language] = [scope.pattern(text) for text in own["patterns"]]
    return rule


def _expand(pattern: str, macros: dict[str, Any]) -> list[str]:
    """A pattern with its macros replaced; a macro with several weighted values makes several patterns."""
    match = _MACRO.search(pattern)
    if not match:
        return [pattern]
    value = macros[match.group()]
    patterns: list[str] = []
    for choice in value if isinstance(value, list) else [value]:
        weight, _, body = choice.partition(" : ") if isinstance(value, list) else ("1", "", choice)
        filled = pattern[: match.start()] + body + pattern[match.end() :]
        own, _, rest = filled.partition("|")
        patterns.extend(_expand(f"{float(own) * float(weight)} |{rest}", macros))
    return patterns
