"""Which language a text is in, as far as common words and scripts tell: enough to notice that sides are exchanged.

No more than a hint: a language that `data/languages.tsv` lacks is not judged, nor is a text that holds few such words.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from mt.errors import UserError
from mt.grammar.lexicon import data_directory
from mt.progress import log_line

SAMPLE = 1000  # pairs of each file that are looked at
_ENOUGH, _SHARE = 20, 0.1  # so many common words of a language, and such a share of all words, show that it is there
_OFTEN = 4.0  # so many times as often as another
_ROLES = {
    **dict.fromkeys(("source", "src", "original", "input"), "source"),
    **dict.fromkeys(("target", "tgt", "trg", "translation", "output", "reference"), "target"),
    **dict.fromkeys(("text", "sentence", "sentences", "segment", "language", "lang"), ""),
}


class _Language(NamedTuple):
    names: list[str]  # codes, then names
    marks: frozenset[str]  # frequent words, or scripts in capital letters


@cache
def _languages() -> dict[str, _Language]:
    """By every code and name."""
    lines = (data_directory() / "languages.tsv").read_text(encoding="utf-8").splitlines()
    rows = (line.split("\t") for line in lines if not line.startswith("#"))
    known = [_Language(names.split(), frozenset(marks.split())) for names, marks in rows]
    return {name: each for each in known for name in each.names}


def _code(name: str) -> str:
    """The code of a language given by one of its codes ("deu", "de-AT") or names; "" where it is not known."""
    known = _languages().get(re.split(r"[\W_]", name.casefold())[0])
    return known.names[0] if known else ""


def header(fields: Sequence[str], languages: Sequence[str]) -> list[int]:
    """The columns of source and target where the fields of a first line only name them; empty where they are text."""
    words = [re.findall(r"[^\W_]+", field.casefold()) for field in fields]
    roles = [{_ROLES.get(word, _code(word) or word) for word in each} - {""} for each in words]
    for wanted in ([_code(name) or name.casefold() for name in languages], ["source", "target"]):
        if all({role} in roles for role in wanted):
            return [roles.index({role}) for role in wanted]
    named = [len(each) == 1 and len(each[0]) > 3 and _code(each[0]) for each in words[:2]]  # codes may be words
    return [0, 1] if all(named) and len(set(named)) == 2 else []


@cache  # what is read twice is told once
def tell(line: str) -> None:
    """One line on standard error."""
    log_line(line)


def check_sides(place: str, pairs: Sequence[tuple[str, str]], languages: Sequence[str]) -> None:
    """Tells where a side of some pairs reads like another language than its own.

    Raises UserError where source and target read like each other's language.
    """
    ours = [_code(name) for name in languages]
    if not pairs or ours[0] == ours[1]:
        return
    sides, known = [_counts(side) for side in zip(*pairs)], _languages()
    there, moved = [], []
    for code, here, other, its in zip(ours, sides, reversed(sides), reversed(ours)):
        if code:
            marks = known[code].marks - (known[its].marks if its else frozenset())
            there.append(_rate(other, marks))
            moved.append(there[-1] / (_rate(here, marks) or 1e-9))
    if max(there, default=0) >= _SHARE and max(moved) >= _OFTEN and min(moved) >= _OFTEN / 2:
        raise UserError(
            f"{place}: source ({languages[0]}) and target ({languages[1]}) read like each other's language; exchange "
            "them (or their columns), or set data.cleaning.languages to false if they are right"
        )
    for name, counts, language, code in zip(("source", "target"), sides, languages, ours):
        rate, names = max((_rate(counts, each.marks), each.names) for each in known.values())
        if code and rate >= max(_SHARE, _OFTEN * _rate(counts, known[code].marks)):
            found = next((each for each in names if len(each) > 3), names[0])
            tell(f"{place}: its {name} side reads like {found.title()}, not like {language}")


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
