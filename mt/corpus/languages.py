"""Which language a text is in, as far as common words and scripts tell: enough to notice that sides are exchanged.

No more than a hint: a language that `data/languages.tsv` lacks is not judged, nor is a text that holds few such words.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache

from mt.errors import UserError
from mt.grammar.lexicon import data_directory
from mt.progress import log_line

EVERY, SAMPLE = 10_000, 1000  # of so many pairs of a file, the first so many are looked at
_ENOUGH, _SHARE = 20, 0.1  # so many common words of a language, and such a share of all words, show that it is there
_OFTEN = 4.0  # so many times as often as another
tell = cache(log_line)  # what is read twice is told once
_ROLES = {
    **dict.fromkeys(("source", "src", "original", "input"), "source"),
    **dict.fromkeys(("target", "tgt", "trg", "translation", "output", "reference"), "target"),
    **dict.fromkeys(("text", "sentence", "sentences", "segment", "language", "lang"), ""),
}


@cache
def _marks() -> dict[str, frozenset[str]]:
    """By all codes and names of a language: its frequent words, or its scripts in capital letters."""
    lines = (data_directory() / "languages.tsv").read_text(encoding="utf-8").splitlines()
    return {
        names: frozenset(marks.split())
        for names, _, marks in (line.partition("\t") for line in lines if line[0] != "#")
    }


@cache
def _known(name: str) -> str:
    """All codes and names of a language given by one of them ("de-AT" too); "" where it is not known."""
    word = re.split(r"[\W_]", name.casefold())[0]
    return next((names for names in _marks() if word in names.split()), "")


def header(fields: Sequence[str], languages: Sequence[str]) -> list[int]:
    """The columns of source and target where the fields of a first line only name them; empty where they are text."""
    words = [re.findall(r"[^\W_]+", field.casefold()) for field in fields]
    roles = [{_ROLES.get(word, _known(word) or word) for word in each} - {""} for each in words]
    for wanted in ([_known(name) or name.casefold() for name in languages], ["source", "target"]):
        if all({role} in roles for role in wanted):
            return [roles.index({role}) for role in wanted]
    named = [len(each) == 1 and len(each[0]) > 3 and _known(each[0]) for each in words[:2]]  # codes may be words
    return [0, 1] if all(named) and len(set(named)) == 2 else []


def check_sides(place: str, start: int, pairs: Sequence[tuple[str, str]], languages: Sequence[str]) -> None:
    """Tells where a side of some pairs, which `start` others come before, reads like another language than its own.

    Raises UserError where source and target read like each other's language.
    """
    ours = [_known(name) for name in languages]
    if not pairs or ours[0] == ours[1]:
        return
    sides = [_counts(side) for side in zip(*pairs)]
    there, moved = [], []
    for own, other, here, opposite in zip(ours, reversed(ours), sides, reversed(sides)):
        if own:
            marks = _marks()[own] - _marks().get(other, frozenset())
            there.append(_rate(opposite, marks))
            moved.append(there[-1] / (_rate(here, marks) or 1e-9))
    if max(there) >= _SHARE and max(moved) >= _OFTEN and min(moved) >= _OFTEN / 2:
        where = f"{place}, from pair {start + 1}" if start else place
        raise UserError(
            f"{where}: source ({languages[0]}) and target ({languages[1]}) read like each other's language; exchange "
            "them (or their columns), or set data.cleaning.languages to false if they are right"
        )
    for name, counts, language, own in zip(("source", "target"), sides, languages, ours):
        rate, names = max((_rate(counts, marks), names) for names, marks in _marks().items())
        if own and rate >= max(_SHARE, _OFTEN * _rate(counts, _marks()[own])):
            tell(f"{place}: its {name} side reads like {language_name(names.split()[0])}, not like {language}")


def language_name(code: str) -> str:
    """The English name of a language given by its code; the code where it is not known."""
    return next((each.title() for each in _known(code).split() if len(each) > 3), code)


def _counts(lines: Sequence[str]) -> Counter[str]:
    """How often each word is there, and words in all (""); the same of letters by script, and in all ("LETTERS")."""
    text = " ".join(lines).casefold()
    counts = Counter(re.findall(r"\w+", text))
    counts[""] = counts.total()
    for character, count in Counter(filter(str.isalpha, text)).items():
        counts[unicodedata.name(character, "").partition(" ")[0]] += count
        counts["LETTERS"] += count
    return counts


def _rate(counts: Counter[str], marks: frozenset[str]) -> float:
    """The share of words that are these, or of letters in these scripts; 0 for a few."""
    found = sum(counts[mark] for mark in marks)
    return found / counts["LETTERS" if all(map(str.isupper, marks)) else ""] if found >= _ENOUGH else 0.0
