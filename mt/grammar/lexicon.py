"""Reads the lexicon: the data files of words, and from each entry a lexeme with its wordings in every language."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from mt.errors import UserError
from mt.grammar import inflection
from mt.grammar.structures import Forms, Lexeme, Variant

LANGUAGES = ("de", "en", "fr")
_PERSONS = frozenset(("person", "adult", "child", "job"))
_BOTH = frozenset(("animal",))


def data_directory() -> Path:
    """Where the shipped data lie: inside the installed package, else beside it in the repository."""
    installed = Path(str(resources.files("mt"))) / "data"
    directory = installed if installed.is_dir() else Path(__file__).resolve().parents[2] / "data"
    if not (directory / "grammar").is_dir():
        raise UserError(f"the grammar's data files are missing: {directory / 'grammar'}; reinstall the package")
    return directory


def load_yaml(path: Path) -> Any:
    """A data file, in which every scalar is a string, `no` and `3s` included."""
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # the fast one, where PyYAML was built with it
    return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)


def _rows(path: Path) -> Iterator[list[str]]:
    for line in path.read_text(encoding="utf-8").split("\n"):
        if line and not line.startswith("#"):
            yield [cell.strip() for cell in line.split(" | ")]


def _variants(text: str) -> list[tuple[str, float]]:
    """`Auto n -s *0.7 / Wagen m - *0.3` -> entries with probabilities that sum to one."""
    entries = (entry.partition("*") for entry in re.split(r"(?:^| )/ ", text))
    found = [(body.strip(), float(weight or 1)) for body, _, weight in entries]
    total = sum(weight for _, weight in found)
    return [(body, weight / total) for body, weight in found]


def _atom(category: str, name: str, entry: dict[str, Any]) -> Lexeme:
    items = (item.partition(":") for item in entry.get("classes", "*").split())
    classes = {pattern: float(weight or 1) for pattern, _, weight in items}
    features = {key: value for key, value in entry.items() if key not in LANGUAGES and key != "classes"}
    lexeme = Lexeme(name, category, classes, features)
    for language in LANGUAGES:
        choices = entry.get(language, {})
        lexeme.variants[language] = []
        for choice in choices if isinstance(choices, list) else [choices]:
            own = {key: value for key, value in choice.items() if key not in ("p", "form")}
            form = choice.get("form", "")
            forms: Any = {(key,): text for key, text in form.items()} if isinstance(form, dict) else {(): form}
            variant = Variant(lexeme, float(choice.get("p", 1)), {"": name, **own}, {"form": forms})
            lexeme.variants[language].append(variant)
    return lexeme


class LexiconReader:
    """Collects the lexemes of all files by category."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        irregular = {row[0]: row[1] for row in _rows(directory / "french_verbs.tsv")}
        german, french = (load_yaml(directory / f"{language}.yaml")["modals"] for language in ("de", "fr"))
        self._inflections: dict[str, tuple[Callable[[str], tuple[dict[str, str], Forms]], ...]] = {
            "noun": (inflection.german_noun, inflection.english_noun, inflection.french_noun),
            "verb": (
                partial(inflection.german_verb, modals=german),
                inflection.english_verb,
                partial(inflection.french_verb, irregular=irregular, modals=french),
            ),
            "adjective": (inflection.german_adjective, inflection.english_adjective, inflection.french_adjective),
        }
        self.lexicon: dict[str, list[Lexeme]] = {}

    def read(self) -> dict[str, list[Lexeme]]:
        """All lexemes by category."""
        for category, atoms in load_yaml(self.directory / "atoms.yaml").items():
            self.lexicon[category] = [_atom(category, name, entry) for name, entry in atoms.items()]
        readers = self._nouns, self._places, self._verbs, self._adjectives, self._adverbs, self._names, self._numbers
        for collect in readers:
            collect()
        return self.lexicon

    def _add(
        self, name: str, category: str, kind: str, classes: Iterable[str], features: dict[str, str], cells: list[str]
    ) -> Lexeme:
        lexeme = Lexeme(name, category, dict.fromkeys(classes, 1.0), features)
        for language, inflect, cell in zip(LANGUAGES, self._inflections[kind], cells):
            inflected = ((inflect(entry), probability) for entry, probability in _variants(cell))
            lexeme.variants[language] = [Variant(lexeme, p, {"": name, **own}, forms) for (own, forms), p in inflected]
        self.lexicon.setdefault(category, []).append(lexeme)
        return lexeme

    def _nouns(self) -> None:
        halves: dict[str, int] = {}
        for name, classes, *cells in _rows(self.directory / "nouns.tsv"):
            kinds = classes.split()
            half = halves[kinds[0]] = 3 - halves.get(kinds[0], 2)  # pairs are made of the two halves of a kind
            features = {"kind": kinds[0], "partner": f"{kinds[0]}/{3 - half}"}
            features["owned"] = "unowned" if "unowned" in kinds else "owned"
            lexeme = self._add(name, "Noun", "noun", [*kinds, f"{kinds[0]}/{half}"], features, cells)
            for variant in itertools.chain(*lexeme.variants.values()):
                variant.features["human"] = "yes" if kinds[0] == "person" else "no"
        for name, classes, *cells in _rows(self.directory / "mass.tsv"):
            self._add(name, "Mass", "noun", classes.split(), {}, cells)

    def _places(self) -> None:
        for name, classes, *cells in _rows(self.directory / "places.tsv"):
            words, prepositions = zip(*(cell.split(" : ") for cell in cells))
            lexeme = self._add(name + ".place", "PlaceNoun", "noun", classes.split(), {}, list(words))
            for language, text in zip(LANGUAGES, prepositions):
                for variant in lexeme.variants[language]:
                    variant.features.update(zip(("in", "to", "tocase"), text.split()))
        for name, *cells in _rows(self.directory / "towns.tsv"):
            self.lexicon.setdefault("Town", []).append(_atom("Town", name, _plain(cells)))

    def _verbs(self) -> None:
        for name, frames, aspect, subject, obj, manner, place, *cells in _rows(self.directory / "verbs.tsv"):
            features = {"aspect": aspect, "subject": subject, "object": obj, "manner": manner, "place": place}
            objects = set(obj.split("+"))
            things = objects - _PERSONS
            features["pronoun"] = "person" if not things else "thing" if things == objects - _BOTH else "both"
            marks = frames.split()
            features["scope"] = "fixed" if "positive" in marks else "free"  # fixed: not negated
            lexeme = self._add(name + ".verb", "Verb", "verb", (), features, cells)
            lexeme.classes.update(_verb_classes([mark for mark in marks if mark != "positive"], features, lexeme))

    def _adjectives(self) -> None:
        for name, kinds, subject, grade, *cells in _rows(self.directory / "adjectives.tsv"):
            if kinds != "-":
                self._add(name, "Adjective", "adjective", kinds.split(), {}, cells)
            if subject != "-":
                classes = ["", *("-" + kind for kind in _kinds(subject))]
                self._add(name + ".pred", "Quality", "adjective", classes, {"subject": subject, "grade": grade}, cells)

    def _adverbs(self) -> None:
        for name, classes, *cells in _rows(self.directory / "adverbs.tsv"):
            category, *weights = classes.split()
            if category == "Time":
                category = "Adverb"
                weights = [weight.replace(":", "-*:") if ":" in weight else weight + "-*" for weight in weights]
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
        for day in range(1, 29):  # days that every month has
            days.append(_atom("DayNumber", f"day{day}", _plain([f"{day}.", str(day), "1er" if day == 1 else str(day)])))
        years = range(1950, 2025)
        self.lexicon["Year"] = [_atom("Year", f"year{year}", _plain([str(year)] * 3)) for year in years]


def _plain(cells: list[str]) -> dict[str, Any]:
    return {language: {"form": cell} for language, cell in zip(LANGUAGES, cells)}


def _kinds(classes: str) -> set[str]:
    """Kinds of noun among classes; parts of a kind count as the whole."""
    return {"person" if name in _PERSONS else name for name in classes.split("+")}


def _verb_classes(marks: list[str], features: dict[str, str], lexeme: Lexeme) -> dict[str, float]:
    """In which frames a verb is used, and there with which subjects (`trans-person`) or objects (`gap-text`)."""
    frames = [mark for mark in marks if "-" not in mark]
    prepositions = {v.features["prep"] for language in ("de", "fr") for v in lexeme.variants[language]}
    dative = any(variant.features["case"] == "dat" for variant in lexeme.variants["de"])
    indirect = dative or "à" in prepositions
    plain = {"trans", "feel"} & set(frames) and "pron-no" not in marks and "de" not in prepositions
    if plain and (not indirect or features["pronoun"] == "person"):
        frames.append("pronominal")
    classes: dict[str, float] = {}
    for frame in frames:
        if frame == "gap":
            if indirect or prepositions != {"o"}:
                raise ValueError(f"grammar data: {lexeme.name} takes no plain object, so no gap")
            classes.update({f"gap-{name}": 1.0 for name in features["object"].split("+")})
            continue
        classes[frame] = 1.0
        classes.update({f"{frame}-{kind}": 1.0 for kind in _kinds(features["subject"])})
        if "order-no" not in marks and features["aspect"] == "event" and "person" in _kinds(features["subject"]):
            classes[f"{frame}-order"] = classes[f"{frame}-goal"] = 1.0
    return classes
