"""Inflection of German: every form of a word from its entry in the lexicon (`docs/corpus.md` has the notation).

Regular forms follow rules, irregular ones are written in the entry.
"""

from __future__ import annotations

import re

from mt.grammar.structures import PERSONS, Forms

_CASES = ("nom", "acc", "dat", "gen")
_UMLAUT = {"a": "ä", "o": "ö", "u": "ü", "A": "Ä", "O": "Ö", "U": "Ü"}


def _umlaut(word: str) -> str:
    """The last a, o, u or au of a word with umlaut: `Baum` -> `Bäum`."""
    for index in range(len(word) - 1, -1, -1):
        if word[index] in _UMLAUT:
            if index and word[index - 1 : index + 1].lower() == "au":
                index -= 1
            return word[:index] + _UMLAUT[word[index]] + word[index + 1 :]
    return word


def noun(entry: str) -> tuple[dict[str, str], Forms]:
    """`Hund m -e`, `Haus n -¨er`, `Junge m -n weak`, `Museum n Museen`, `Milch f` (no plural)."""
    word, gender, *rest = entry.split()
    weak = "weak" in rest
    genitive = next((mark[4:] for mark in rest if mark.startswith("gen=")), None)
    plural = next((mark for mark in rest if mark != "weak" and not mark.startswith("gen=")), None)
    forms = {(case, "s"): word for case in _CASES}
    if weak and plural:  # der Junge, den Jungen
        forms |= {(case, "s"): word + plural.lstrip("-") for case in _CASES[1:]}
    elif gender in ("m", "n"):
        long = re.search(r"(s|ß|x|z|sch|tz)$", word) or len(re.findall(r"[aeiouyäöü]+", word.lower())) == 1
        short = plural == "-s" or re.search(r"[aeouäöüé]$", word)  # des Parks, des Sees
        forms["gen", "s"] = genitive or word + ("es" if long and not short else "s")
        if re.search(r"nis$", word):
            forms["gen", "s"] = word + "ses"
    if plural:
        stem = _umlaut(word) if "¨" in plural else word
        many = stem + plural.lstrip("-¨") if plural.startswith("-") else plural
        forms |= {(case, "p"): many for case in _CASES}
        if not re.search(r"[nsa]$", many):
            forms["dat", "p"] = many + "n"
    return {"gender": gender}, {"form": forms}


# By kind of declension: a row for each case, with the endings of masculine, feminine, neuter and plural.
_ENDINGS = {
    "weak": ("e e e en", "en e e en", "en en en en", "en en en en"),
    "mixed": ("er e es en", "en e es en", "en en en en", "en en en en"),
    "strong": ("er e es e", "en e es e", "em er em en", "en er en er"),
}


def adjective(entry: str) -> tuple[dict[str, str], Forms]:
    """`klein`, `dunkel stem=dunkl`, `rosa invariable`."""
    word, *rest = entry.split()
    stem = next((mark[5:] for mark in rest if mark.startswith("stem=")), word).removesuffix("e")
    attributive = {}
    for kind, rows in _ENDINGS.items():
        for case, row in zip(_CASES, rows):
            *singular, plural = row.split()
            for gender, ending in zip("mfn", singular):
                attributive[kind, case, gender, "s"] = stem + ending
                attributive[kind, case, gender, "p"] = stem + plural
    return {}, {"attr": attributive, "pred": {(): word}}


_MODALS = {
    "must": ("muss", "musst", "muss", "müssen", "müsst", "müssen"),
    "can": ("kann", "kannst", "kann", "können", "könnt", "können"),
    "want": ("will", "willst", "will", "wollen", "wollt", "wollen"),
    "wish": ("möchte", "möchtest", "möchte", "möchten", "möchtet", "möchten"),
    "should": ("sollte", "solltest", "sollte", "sollten", "solltet", "sollten"),
    "fut": ("werde", "wirst", "wird", "werden", "werdet", "werden"),
}
_SEIN = ("bin", "bist", "ist", "sind", "seid", "sind")
_HABEN = ("habe", "hast", "hat", "haben", "habt", "haben")
_SECOND_PLURAL_LINK = r"([dt]|(?:[^lrhmnaeiouäöü]|ch)[mn])$"  # wartet, öffnet


def _present(infinitive: str, third: str) -> tuple[str, ...]:
    stem = re.sub(r"e?n$", "", infinitive)
    if infinitive == "sein":
        return _SEIN
    if infinitive in ("wissen", "mögen"):
        return third, third + ("t" if third == "weiß" else "st"), third, infinitive, stem + "t", infinitive
    regular = stem + ("e" if re.search(_SECOND_PLURAL_LINK, stem) else "") + "t"
    second = third + "st" if third != regular and stem.endswith("t") else third[:-1] + "st"
    if re.search(r"[sßzx]st$", second):
        second = second[:-2] + "t"
    first = stem + "e" if not infinitive.endswith("eln") else stem[:-2] + "le"
    return first, second, third, infinitive, regular, infinitive


def _imperative(infinitive: str, third: str) -> str:
    """The familiar singular: `lies`, `fahr`, `arbeite`."""
    stem = re.sub(r"e?n$", "", infinitive)
    if infinitive.endswith("eln"):
        return stem[:-2] + "le"
    vowel = re.findall(r"[aeiouäöü]+", stem)[-1]
    if vowel == "e" and re.findall(r"[aeiouäöü]+", third)[-1] in ("i", "ie"):
        return third if stem.endswith("t") else third[:-1]
    return stem + ("e" if re.search(_SECOND_PLURAL_LINK + "|[^e]ig$|[^aeiou]er$", stem) else "")


def _past(past: str, weak: bool) -> tuple[str, ...]:
    if weak or past.endswith("e"):
        return past, past + "st", past, past + "n", past + "t", past + "n"
    second = past + ("est" if re.search(r"[dtsßz]$", past) else "st")
    plural = past if past.endswith("ie") else past + "e"
    return past, second, past, plural + "n", past + ("et" if re.search(r"[dt]$", past) else "t"), plural + "n"


def verb(entry: str) -> tuple[dict[str, str], Forms]:
    """`kaufen`, `lesen liest las gelesen`, `an|rufen ruft rief gerufen`, `gehen geht ging gegangen sein`,
    `sich setzen`, `warten > auf acc`, `helfen hilft half geholfen > dat`."""
    entry, _, government = entry.partition(" > ")
    reflexive = entry.startswith("sich ")
    words = entry.removeprefix("sich ").split()
    with_sein = words[-1] == "sein" and len(words) > 1
    words = words[:-1] if with_sein else words
    prefix, _, infinitive = words[0].rpartition("|")
    stem = re.sub(r"e?n$", "", infinitive)
    link = "e" if re.search(_SECOND_PLURAL_LINK, stem) else ""
    weak = len(words) == 1
    third = stem + link + "t" if weak else words[1]
    past = stem + link + "te" if weak else words[2]
    if weak:
        bare = re.match(r"(be|ver|er|ent|zer|ge|über|wieder|unter)", infinitive) or infinitive.endswith("ieren")
        participle = ("" if bare else "ge") + stem + link + "t"
    else:
        participle = words[3]
    full, participle = prefix + infinitive, prefix + participle
    present, preterite = _present(infinitive, third), _past(past, weak)
    auxiliary = _SEIN if with_sein or infinitive == "sein" else _HABEN
    groups = [("pres", present, prefix), ("pret", preterite, prefix), ("perf", auxiliary, participle + " ")]
    groups += [(group, modal, full + " ") for group, modal in _MODALS.items()]
    finite: dict[tuple[str, ...], str] = {}
    last: dict[tuple[str, ...], str] = {}
    for index, person in enumerate(PERSONS):
        for group, row, rest in groups:
            finite[group, person] = row[index]
            last[group, person] = rest + row[index]
    end = {(group,): rest.rstrip() for group, _, rest in groups}
    familiar = _imperative(infinitive, third)
    zu = f"{prefix}zu{infinitive}" if prefix else f"zu {infinitive}"
    orders = {("thou",): familiar, ("ye",): stem + link + "t", ("formal",): infinitive + " Sie"}
    prep, _, case = government.rpartition(" ")
    attributes = {"case": case or "acc", "prep": prep or "o", "refl": "yes" if reflexive else "no"}
    return attributes, {"fin": finite, "last": last, "end": end, "zu": {(): zu}, "imp": orders, "prefix": {(): prefix}}
