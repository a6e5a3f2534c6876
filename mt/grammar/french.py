"""Inflection of French: every form of a word from its entry in the lexicon (`docs/corpus.md` has the notation).

The principal parts of irregular verbs stand in `data/grammar/french_verbs.tsv`.
"""

from __future__ import annotations

import re

from mt.grammar.structures import PERSONS, Forms


def noun(entry: str) -> tuple[dict[str, str], Forms]:
    """`chien m`, `œil m yeux`, `pomme_de_terre f pommes_de_terre`."""
    words = entry.split()
    singular, gender = words[0].replace("_", " "), words[1]
    plural = words[2].replace("_", " ") if len(words) > 2 else _plural(singular)
    return {"gender": gender}, {"form": {("s",): singular, ("p",): plural}}


def _plural(word: str) -> str:
    if re.search(r"[sxz]$", word):
        return word
    if word.endswith("al"):
        return word[:-2] + "aux"
    return word + ("x" if re.search(r"(eau|eu)$", word) else "s")


def adjective(entry: str) -> tuple[dict[str, str], Forms]:
    """`petit pre`, `long post longue`, `nouveau pre nouvelle`; the feminine is written where it is irregular."""
    words = entry.split()
    masculine, place = words[0].replace("_", " "), words[1] if len(words) > 1 else "post"
    if len(words) > 2:
        feminine = words[2]
    elif masculine.endswith("e"):
        feminine = masculine
    elif masculine.endswith("eux"):
        feminine = masculine[:-1] + "se"
    elif masculine.endswith("er"):
        feminine = masculine[:-2] + "ère"
    elif masculine.endswith("f"):
        feminine = masculine[:-1] + "ve"
    elif re.search(r"(el|en)$", masculine):
        feminine = masculine + masculine[-1] + "e"
    else:
        feminine = masculine + "e"
    plural = words[3] if len(words) > 3 else _plural(masculine)
    forms = {("m", "s"): masculine, ("m", "p"): plural, ("f", "s"): feminine, ("f", "p"): feminine + "s"}
    if place == "invariable":
        forms = dict.fromkeys(forms, masculine)
    predicative = {(gender + number,): form for (gender, number), form in forms.items()}
    return {"place": "pre" if place == "pre" else "post"}, {"attr": forms, "pred": predicative}


_MODALS = {
    "fp": ("vais", "vas", "va", "allons", "allez", "vont"),
    "must": ("dois", "dois", "doit", "devons", "devez", "doivent"),
    "can": ("peux", "peux", "peut", "pouvons", "pouvez", "peuvent"),
    "want": ("veux", "veux", "veut", "voulons", "voulez", "veulent"),
    "wish": ("voudrais", "voudrais", "voudrait", "voudrions", "voudriez", "voudraient"),
    "should": ("devrais", "devrais", "devrait", "devrions", "devriez", "devraient"),
}
_AVOIR = ("ai", "as", "a", "avons", "avez", "ont")
_ETRE = ("suis", "es", "est", "sommes", "êtes", "sont")


def _parts(infinitive: str, irregular: dict[str, str]) -> tuple[tuple[str, ...], str, str]:
    """Present (six forms), participle, future stem."""
    if infinitive in irregular:
        *forms, participle, future = irregular[infinitive].split()
        return tuple(forms), participle, future
    stem = infinitive[:-2]
    if infinitive.endswith("er"):
        strong = stem
        if re.search(r"[ou]y$", stem) or stem.endswith("ay"):
            strong = stem[:-1] + "i"
        elif match := re.search(r"é([^aeiouyéèê]+)$", stem):
            strong = stem[: match.start()] + "è" + match.group(1)
        elif match := re.search(r"e([^aeiouy])$", stem):
            doubled = re.search(r"(appel|jet)$", stem)
            strong = stem + match.group(1) if doubled else stem[: match.start()] + "è" + match.group(1)
        first = stem + "e" if stem.endswith("g") else stem[:-1] + "ç" if stem.endswith("c") else stem
        present = (strong + "e", strong + "es", strong + "e", first + "ons", stem + "ez", strong + "ent")
        future = (stem if re.search(r"é[^aeiouyéèê]+$", stem) else strong) + "er"
        return present, stem + "é", future
    if infinitive.endswith("ir"):
        return (
            tuple(stem + ending for ending in ("is", "is", "it", "issons", "issez", "issent")),
            stem + "i",
            infinitive,
        )
    return (stem + "s", stem + "s", stem, stem + "ons", stem + "ez", stem + "ent"), stem + "u", infinitive[:-1]


def verb(entry: str, irregular: dict[str, str]) -> tuple[dict[str, str], Forms]:
    """`parler`, `aller être`, `se lever`, `avoir besoin > de`; principal parts of irregular verbs stand in
    `french_verbs.tsv`."""
    entry, _, prep = entry.partition(" > ")
    reflexive = bool(re.match(r"se |s'", entry))
    infinitive, *rest = re.sub(r"^(se |s')", "", entry).split()
    with_etre = reflexive or rest == ["être"]
    tail = "" if with_etre else "".join(" " + word for word in rest)
    present, participle, future = _parts(infinitive, irregular)
    auxiliary = _ETRE if with_etre else _AVOIR
    stem = "ét" if infinitive == "être" else present[3][:-3]
    hard = re.sub(r"ge$", "g", stem) if infinitive.endswith("ger") else re.sub(r"ç$", "c", stem)
    endings = ("ais", "ais", "ait", "ions", "iez", "aient")
    imperfect = [(hard if ending.startswith("i") else stem) + ending for ending in endings]
    futures = [future + ending for ending in ("ai", "as", "a", "ons", "ez", "ont")]
    rows = {"pres": present, "imparf": imperfect, "pc": auxiliary, "fut": futures, **_MODALS}
    finite = {(group, person): row[index] for index, person in enumerate(PERSONS) for group, row in rows.items()}
    agreement = {"ms": "", "fs": "e", "mp": "" if participle.endswith("s") else "s", "fp": "es"}
    base = participle.replace("û", "u") if infinitive == "devoir" else participle
    end: dict[tuple[str, ...], str] = {}
    for subject in agreement:
        for obj in agreement:
            end |= {(group, subject, obj): tail.strip() for group in ("pres", "imparf", "fut")}
            end |= {(group, subject, obj): infinitive + tail for group in _MODALS}
            agreeing = subject if with_etre else obj
            form = participle if agreeing == "ms" or infinitive == "être" else base + agreement[agreeing]
            end["pc", subject, obj] = form + tail
    loses_s = infinitive.endswith("er") or infinitive in ("ouvrir", "offrir")
    familiar = re.sub(r"(?<=[ea])s$", "", present[1]) if loses_s else present[1]
    orders = {("thou",): familiar + tail, ("ye",): present[4] + tail, ("formal",): present[4] + tail}
    attributes = {"prep": prep or "o", "refl": "yes" if reflexive else "no"}
    return attributes, {"fin": finite, "end": end, "imp": orders, "inf": {(): infinitive + tail}}
