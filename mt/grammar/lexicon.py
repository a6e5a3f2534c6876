"""Reads the grammar's data files: rules, tables of closed-class words, lexicon."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from mt.errors import UserError
from mt.grammar.engine import Abstract, Concrete, Element, Lexeme, Pattern, Reference, Rule, Tables, Variant
from mt.grammar.forms import inflections
from mt.grammar.spelling import Spelling

LANGUAGES = ("de", "en", "fr")
_MACRO = re.compile(r"\b[A-Z][A-Z0-9]+\b")
_PERSONS = frozenset(("person", "adult", "child", "job"))
_BOTH = frozenset(("animal",))


def data_directory() -> Path:
    """Where the shipped data lie: inside the installed package, else beside it in the repository."""
    installed = Path(str(resources.files("mt"))) / "data"
    directory = installed if installed.is_dir() else Path(__file__).resolve().parents[2] / "data"
    if not (directory / "grammar").is_dir():
        raise UserError(f"the grammar's data files are missing: {directory / 'grammar'}; reinstall the package")
    return directory


def _load_yaml(path: Path) -> Any:
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # base: every scalar a string, `no` and `3s` included
    return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)


def _rows(path: Path) -> Iterator[list[str]]:
    for line in path.read_text(encoding="utf-8").split("\n"):
        if line and not line.startswith("#"):
            yield [cell.strip() for cell in line.split(" | ")]


# ---------------------------------------------------------------- tables


def read_tables(settings: dict[str, Any]) -> Tables:
    """The tables of a language with every row written out; the first row that fits counts."""
    features = {name: values.split() for name, values in settings["features"].items()}
    tables: Tables = {}
    for name, table in settings["tables"].items():
        arguments = table["arguments"].split()
        stems = table.get("stems", {})
        entries: dict[tuple[str, ...], str] = {}
        for line in table["rows"].strip().split("\n"):
            *cells, text = line.split(None, len(arguments))
            options = [
                features[argument] if cell == "*" else cell.split("|") for argument, cell in zip(arguments, cells)
            ]
            for key in itertools.product(*options):
                word = "" if text == "-" else text.replace("~", stems.get(key[0], "~"))
                if "~" not in word:
                    entries.setdefault(key, word)
        tables[name] = entries
    return tables


# ---------------------------------------------------------------- lexicon


def _variants(text: str) -> list[tuple[str, float]]:
    """`Auto n -s *0.7 / Wagen m - *0.3` -> entries with probabilities that sum to one."""
    found = []
    for entry in re.split(r"(?:^| )/ ", text):
        body, _, weight = entry.partition("*")
        found.append((body.strip(), float(weight or 1)))
    total = sum(weight for _, weight in found)
    return [(body, weight / total) for body, weight in found]


def _atom(category: str, name: str, entry: dict[str, Any]) -> Lexeme:
    classes = {}
    for item in entry.get("classes", "*").split():
        pattern, _, weight = item.partition(":")
        classes[pattern] = float(weight or 1)
    meta = {key: value for key, value in entry.items() if key not in LANGUAGES and key != "classes"}
    lexeme = Lexeme(name, category, classes, meta)
    for language in LANGUAGES:
        choices = entry.get(language, {})
        lexeme.variants[language] = []
        for choice in choices if isinstance(choices, list) else [choices]:
            attributes = {key: value for key, value in choice.items() if key not in ("p", "form")}
            form = choice.get("form", "")
            forms: dict[Any, str] = (
                {(key,): text for key, text in form.items()} if isinstance(form, dict) else {(): form}
            )
            variant = Variant(lexeme, float(choice.get("p", 1)), {"": name, **attributes}, {"form": forms})
            lexeme.variants[language].append(variant)
    return lexeme


class LexiconReader:
    """Collects the lexemes of all files by category."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        irregular = {row[0]: row[1] for row in _rows(directory / "french_verbs.tsv")}
        self._inflect = inflections(irregular)
        self.lexicon: dict[str, list[Lexeme]] = {}

    def read(self) -> dict[str, list[Lexeme]]:
        """All lexemes by category."""
        for category, atoms in _load_yaml(self.directory / "atoms.yaml").items():
            self.lexicon[category] = [_atom(category, name, entry) for name, entry in atoms.items()]
        self._nouns()
        self._places()
        self._verbs()
        self._adjectives()
        self._adverbs()
        self._names()
        self._numbers()
        return self.lexicon

    def _add(
        self,
        name: str,
        category: str,
        kind: str,
        classes: dict[str, float],
        meta: dict[str, str],
        cells: list[str],
        extra: dict[str, str] | None = None,
    ) -> Lexeme:
        lexeme = Lexeme(name, category, classes, meta)
        for language, cell in zip(LANGUAGES, cells):
            lexeme.variants[language] = []
            for entry, probability in _variants(cell):
                attributes, forms = self._inflect[kind, language](entry)
                attributes = {"": name, **attributes, **(extra or {})}
                lexeme.variants[language].append(Variant(lexeme, probability, attributes, forms))
        self.lexicon.setdefault(category, []).append(lexeme)
        return lexeme

    def _nouns(self) -> None:
        halves: dict[str, int] = {}
        for name, classes, *cells in _rows(self.directory / "nouns.tsv"):
            kinds = classes.split()
            half = halves[kinds[0]] = 3 - halves.get(kinds[0], 2)  # pairs are made of the two halves of a kind
            meta = {"kind": kinds[0], "partner": f"{kinds[0]}/{3 - half}"}
            meta["owned"] = "unowned" if "unowned" in kinds else "owned"
            weights = dict.fromkeys([*kinds, f"{kinds[0]}/{half}"], 1.0)
            self._add(name, "Noun", "noun", weights, meta, cells, {"human": "yes" if kinds[0] == "person" else "no"})
        for name, classes, *cells in _rows(self.directory / "mass.tsv"):
            self._add(name, "Mass", "noun", dict.fromkeys(classes.split(), 1.0), {}, cells)

    def _places(self) -> None:
        for name, classes, *cells in _rows(self.directory / "places.tsv"):
            words, prepositions = zip(*(cell.split(" : ") for cell in cells))
            lexeme = self._add(
                name + ".place", "PlaceNoun", "noun", dict.fromkeys(classes.split(), 1.0), {}, list(words)
            )
            for language, text in zip(LANGUAGES, prepositions):
                keys = dict(zip(("in", "to", "tocase"), text.split()))
                for variant in lexeme.variants[language]:
                    variant.attributes.update(keys)
        for name, *cells in _rows(self.directory / "towns.tsv"):
            self.lexicon.setdefault("Town", []).append(_atom("Town", name, _plain(cells)))

    def _verbs(self) -> None:
        for name, frames, aspect, subject, obj, manner, place, *cells in _rows(self.directory / "verbs.tsv"):
            meta = {"aspect": aspect, "subject": subject, "object": obj, "manner": manner, "place": place}
            objects = set(obj.split("+"))
            things = objects - _PERSONS
            meta["pronoun"] = "person" if not things else "thing" if things == objects - _BOTH else "both"
            marks = frames.split()
            meta["scope"] = "fixed" if "positive" in marks else "free"  # fixed: not negated
            lexeme = self._add(name + ".verb", "Verb", "verb", {}, meta, cells)
            lexeme.classes.update(_verb_classes([mark for mark in marks if mark != "positive"], meta, lexeme))

    def _adjectives(self) -> None:
        for name, kinds, subject, grade, *cells in _rows(self.directory / "adjectives.tsv"):
            if kinds != "-":
                self._add(name, "Adjective", "adjective", dict.fromkeys(kinds.split(), 1.0), {}, cells)
            if subject != "-":
                classes = {"": 1.0} | {"-" + kind: 1.0 for kind in _kinds(subject)}
                self._add(name + ".pred", "Quality", "adjective", classes, {"subject": subject, "grade": grade}, cells)

    def _adverbs(self) -> None:
        for name, classes, *cells in _rows(self.directory / "adverbs.tsv"):
            category, *weights = classes.split()
            if category == "Time":
                category, weights = (
                    "Adverb",
                    [weight.replace(":", "-*:") if ":" in weight else weight + "-*" for weight in weights],
                )
            entry: dict[str, Any] = {"classes": " ".join(weights)}
            for language, cell in zip(LANGUAGES, cells):
                text, _, position = cell.partition(" : ")
                keys = {"front": "yes" if "front" in position else "no", "place": "mid" if "mid" in position else "end"}
                entry[language] = []
                for word, chance in _variants(text):
                    form: Any = "" if word == "-" else word
                    if category == "Manner" and language == "fr":  # bien dormir, but dormir profondément
                        form = {place: form if keys["place"] == place else "" for place in ("mid", "end")}
                    entry[language].append({"p": chance, "form": form, **keys})
            self.lexicon.setdefault(category, []).append(_atom(category, name, entry))

    def _names(self) -> None:
        for index, (name, sex) in enumerate(_rows(self.directory / "names.tsv")):
            half = 1 + index % 2
            german = {"form": {"nom": name, "acc": name, "dat": name, "gen": name + "s"}}
            entry = {"classes": f"any {half}", "partner": str(3 - half), "sex": sex, "de": german, "en": {"form": name}}
            entry["fr"] = {"form": name, "gender": sex}
            self.lexicon.setdefault("Name", []).append(_atom("Name", name, entry))

    def _numbers(self) -> None:
        """Days of a month and years, written in figures."""
        days = self.lexicon["DayNumber"] = []
        for day in range(1, 29):
            days.append(_atom("DayNumber", f"day{day}", _plain([f"{day}.", str(day), "1er" if day == 1 else str(day)])))
        years = range(1950, 2025)
        self.lexicon["Year"] = [_atom("Year", f"year{year}", _plain([str(year)] * 3)) for year in years]


def _plain(cells: list[str]) -> dict[str, Any]:
    return {language: {"form": cell} for language, cell in zip(LANGUAGES, cells)}


def _kinds(classes: str) -> set[str]:
    """Kinds of noun among classes; parts of a kind count as the whole."""
    return {"person" if name in _PERSONS else name for name in classes.split("+")}


def _verb_classes(marks: list[str], meta: dict[str, str], lexeme: Lexeme) -> dict[str, float]:
    """In which frames a verb is used, and there with which subjects (`trans-person`) or objects (`gap-text`)."""
    frames = [mark for mark in marks if "-" not in mark]
    prepositions = {v.attributes["prep"] for language in ("de", "fr") for v in lexeme.variants[language]}
    dative = any(variant.attributes["case"] == "dat" for variant in lexeme.variants["de"])
    indirect = dative or "à" in prepositions
    plain = {"trans", "feel"} & set(frames) and "pron-no" not in marks and "de" not in prepositions
    if plain and (not indirect or meta["pronoun"] == "person"):
        frames.append("pronominal")
    classes: dict[str, float] = {}
    for frame in frames:
        if frame == "gap":
            if indirect or prepositions != {"o"}:
                raise ValueError(f"grammar data: {lexeme.name} takes no plain object, so no gap")
            classes.update({f"gap-{name}": 1.0 for name in meta["object"].split("+")})
            continue
        classes[frame] = 1.0
        classes.update({f"{frame}-{kind}": 1.0 for kind in _kinds(meta["subject"])})
        if "order-no" not in marks and meta["aspect"] == "event" and "person" in _kinds(meta["subject"]):
            classes[f"{frame}-order"] = classes[f"{frame}-goal"] = 1.0
    return classes


# ---------------------------------------------------------------- rules


def _split(text: str) -> list[str]:
    """Split at commas outside brackets."""
    pieces, depth = [""], 0
    for character in text:
        depth += (character == "[") - (character == "]")
        if character == "," and not depth:
            pieces.append("")
        else:
            pieces[-1] += character
    return [piece.strip() for piece in pieces if piece.strip()]


class RuleReader:
    """Turns `rules.yaml` into rules; patterns refer to parts by name, to inherited features by `$name`."""

    def __init__(self, settings: dict[str, Any], tables: dict[str, Tables], spellings: dict[str, Spelling]) -> None:
        self.settings, self.tables, self.spellings = settings, tables, spellings
        self.rules: dict[str, list[tuple[float, Rule]]] = {}

    def read(self) -> dict[str, list[tuple[float, Rule]]]:
        """All rules by category, with their weights."""
        for name, entry in self.settings["rules"].items():
            entry = {**self.settings["rules"].get(entry.get("like"), {}), **entry}
            category = next(iter(entry["of"]))
            rule = self._rule(name, entry, self.settings["arguments"].get(category, {}))
            for category, weight in entry["of"].items():
                self.rules.setdefault(category, []).append((float(weight), rule))
        for name, frame in self.settings["frames"].items():
            for category in frame["in"].split():
                entry = self._framed(self.settings["shapes"][category], frame)
                rule = self._rule(f"{name}/{category}", entry, self.settings["arguments"][category])
                self.rules.setdefault(category, []).append((float(frame["weight"]), rule))
        return self.rules

    def _framed(self, shape: dict[str, Any], frame: dict[str, Any]) -> dict[str, Any]:
        """The entry of a rule: a frame put into a shape of clause."""
        macros = {
            "HEAD": frame["head"],
            "PARTS": frame.get("parts", ""),
            "PERSON": shape["PERSON"],
            "TIME": shape["TIME"],
        }
        macros |= {name: self.settings["defaults"][name] for name in ("SUBJECT", "SCOPE")}
        macros |= {name: text for name, text in frame.items() if name in macros}
        parts = shape["parts"]
        while _MACRO.search(parts):
            parts = _MACRO.sub(lambda match: macros[match.group()], parts)
        entry: dict[str, Any] = {"parts": parts.replace("@", shape["suffix"])}
        if "classes" in frame:
            entry["classes"] = frame["classes"]
        for language in LANGUAGES:
            own = {**self.settings["defaults"][language], **shape[language]["macros"], **frame.get(language, {})}
            patterns: list[str] = []
            for pattern in shape[language]["patterns"]:
                patterns.extend(_expand(pattern, own))
            entry[language] = patterns
        return entry

    def _rule(self, name: str, entry: dict[str, Any], arguments: dict[str, str]) -> Rule:
        specs = [spec.partition("=") for spec in entry.get("parts", "").split()]
        names = [spec[0] for spec in specs]
        parts = []
        for part, _, target in specs:
            category, _, klass = target.partition(".")
            pieces = tuple(
                self._reference(piece[1:-1], names, [], "", klass=True) if piece.startswith("{") else piece
                for piece in re.findall(r"\{[^}]*\}|[^{}]+", klass)
            )
            parts.append((part, category, pieces or ("",)))
        classes = frozenset(entry["classes"].split()) if "classes" in entry else None
        meta = {key: self._reference(text, names, [], "") for key, text in entry.get("meta", {}).items()}
        rule = Rule(name, classes, parts, meta)
        for language in LANGUAGES:
            own = entry[language] if isinstance(entry[language], dict) else {"patterns": entry[language]}
            inherited = arguments.get(language, "").split()
            rule.attributes[language] = {
                key: self._reference(text, names, inherited, language)
                for key, text in own.get("attributes", {}).items()
            }
            rule.patterns[language] = [self._pattern(text, names, inherited, language) for text in own["patterns"]]
        return rule

    def _reference(
        self, text: str, names: list[str], arguments: list[str], language: str, klass: bool = False
    ) -> Reference:
        if klass and text == "class":
            return ("arg", 0)
        if text.startswith("$"):
            return ("arg", arguments.index(text[1:]))
        if text.endswith("]"):
            table, _, inner = text[:-1].partition("[")
            if table not in self.tables[language]:
                raise ValueError(f"grammar data: no {language} table {table!r} in {text!r}")
            return ("table", table, [self._reference(each, names, arguments, language) for each in _split(inner)])
        part, _, attribute = text.partition(".")
        if part in names:
            return ("part", names.index(part), attribute)
        return ("const", text)

    def _pattern(self, text: str, names: list[str], arguments: list[str], language: str) -> Pattern:
        weight, guards, elements = (cell.strip() for cell in text.split("|", 2))
        held = []
        for guard in guards.split():
            left, _, values = guard.partition("=")
            reference = self._reference(left.rstrip("!"), names, arguments, language)
            held.append((reference, frozenset(values.split("/")), not left.endswith("!")))
        built = [self._element(element, names, arguments, language) for element in elements.split()]
        return Pattern(float(weight), held, built)

    def _element(self, text: str, names: list[str], arguments: list[str], language: str) -> Element:
        match = re.fullmatch(r"(\w+)(?:\.(\w+))?(\[.*\])?", text)
        if match:
            name, form, inner = match.groups()
            references = [self._reference(each, names, arguments, language) for each in _split((inner or "[]")[1:-1])]
            if name in names and form:
                return ("form", names.index(name), form, references)
            if name in names and inner:
                return ("child", names.index(name), references)
            if name in self.tables[language] and inner:
                return ("table", name, references)
            if form or inner:
                raise ValueError(f"grammar data: {text!r} names neither a part nor a {language} table")
        return ("word", text, self.spellings[language].tokens(text))


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


def read_grammar() -> tuple[Abstract, dict[str, Concrete]]:
    """The whole grammar: meanings, and the wording of every language."""
    directory = data_directory() / "grammar"
    settings = {language: _load_yaml(directory / f"{language}.yaml") for language in LANGUAGES}
    tables = {language: read_tables(settings[language]) for language in LANGUAGES}
    spellings = {language: Spelling(settings[language]["spelling"]) for language in LANGUAGES}
    lexicon = LexiconReader(directory).read()
    for language in LANGUAGES:
        tables[language]["prep"] = _prepositions(lexicon, language)
    rules = RuleReader(_load_yaml(directory / "rules.yaml"), tables, spellings).read()
    concretes = {language: Concrete(language, tables[language], spellings[language]) for language in LANGUAGES}
    return Abstract(rules, lexicon), concretes


def _prepositions(lexicon: dict[str, list[Lexeme]], language: str) -> dict[tuple[str, ...], str]:
    """The prepositions that entries name, as a table: `o` is none."""
    words = {"o", "à", "de"} if language == "fr" else {"o"}
    for lexeme in itertools.chain(lexicon["Verb"], lexicon["PlaceNoun"]):
        for variant in lexeme.variants[language]:
            words.update(variant.attributes[key] for key in ("prep", "in", "to") if key in variant.attributes)
    return {(word,): "" if word == "o" else word.replace("_", " ") for word in words}
