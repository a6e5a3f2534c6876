"""Inflection: every form of a word from its entry in the lexicon, for German, English and French.

Regular forms follow rules, irregular ones are written in the entry (`data/grammar/*.tsv`); the notation is
described in `docs/corpus.md`. A function returns the features of the word and its `Forms`.
"""

from __future__ import annotations

import re

from mt.grammar.structures import PERSONS, Forms

Modals = dict[str, list[str]]
"""the rows of verbs that go with an infinitive, by group (must, can, future, …)"""
_CASES = ("nom", "acc", "dat", "gen")
_UMLAUT = {"a": "ä", "o": "ö", "u": "ü", "A": "Ä", "O": "Ö", "U": "Ü"}


def _umlaut(word: str) -> str:
    """The last a, o, u or au of a word with umlaut: `Baum` -> `Bäum`."""
    last = r"[aA](?=u?[^aouAOU]*$)|[oOuU](?=[^aouAOU]*$)"
    return re.sub(last, lambda match: _UMLAUT[match[0]], word, count=1)


def german_noun(entry: str) -> tuple[dict[str, str], Forms]:
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
        ending = "ses" if word.endswith("nis") else "es" if long and not short else "s"  # des Ergebnisses
        forms["gen", "s"] = genitive or word + ending
    if plural:
        stem = _umlaut(word) if "¨" in plural else word
        many = stem + plural.lstrip("-¨") if plural.startswith("-") else plural
        forms |= {(case, "p"): many for case in _CASES}
        if not re.search(r"[nsa]$", many):  # den Hunden, but den Autos
            forms["dat", "p"] = many + "n"
    return {"gender": gender}, {"form": forms}


# By kind of declension: a row for each case, with the endings of masculine, feminine, neuter and plural.
_ENDINGS = {
    "weak": ("e e e en", "en e e en", "en en en en", "en en en en"),
    "mixed": ("er e es en", "en e es en", "en en en en", "en en en en"),
    "strong": ("er e es e", "en e es e", "em er em en", "en er en er"),
}


def german_adjective(entry: str) -> tuple[dict[str, str], Forms]:
    """`klein`, `dunkel stem=dunkl`, `rosa invariable`."""
    word, *rest = entry.split()
    stem = next((mark[5:] for mark in rest if mark.startswith("stem=")), word).removesuffix("e")  # müde, müder
    attributive = {}
    for kind, rows in _ENDINGS.items():
        for case, row in zip(_CASES, rows):
            *singular, plural = row.split()
            for gender, ending in zip("mfn", singular):
                attributive[kind, case, gender, "s"] = stem + ending
                attributive[kind, case, gender, "p"] = stem + plural
    return {}, {"attr": attributive, "pred": {(): word}}


_SEIN = ("bin", "bist", "ist", "sind", "seid", "sind")
_HABEN = ("habe", "hast", "hat", "haben", "habt", "haben")
_SECOND_PLURAL_LINK = r"([dt]|(?:[^lrhmnaeiouäöü]|ch)[mn])$"  # wartet, öffnet


def _german_present(infinitive: str, third: str) -> tuple[str, ...]:
    stem = re.sub(r"e?n$", "", infinitive)
    if infinitive == "sein":
        return _SEIN
    if infinitive in ("wissen", "mögen"):
        return third, third + ("t" if third == "weiß" else "st"), third, infinitive, stem + "t", infinitive
    regular = stem + ("e" if re.search(_SECOND_PLURAL_LINK, stem) else "") + "t"
    second = third + "st" if third != regular and stem.endswith("t") else third[:-1] + "st"
    if re.search(r"[sßzx]st$", second):  # du liest
        second = second[:-2] + "t"
    first = stem + "e" if not infinitive.endswith("eln") else stem[:-2] + "le"  # ich sammle
    return first, second, third, infinitive, regular, infinitive


def _german_imperative(infinitive: str, third: str) -> str:
    """The familiar singular: `lies`, `fahr`, `arbeite`."""
    stem = re.sub(r"e?n$", "", infinitive)
    if infinitive.endswith("eln"):
        return stem[:-2] + "le"
    vowel = re.findall(r"[aeiouäöü]+", stem)[-1]
    if vowel == "e" and re.findall(r"[aeiouäöü]+", third)[-1] in ("i", "ie"):
        return third if stem.endswith("t") else third[:-1]  # tritt, but lies
    return stem + ("e" if re.search(_SECOND_PLURAL_LINK + "|[^e]ig$|[^aeiou]er$", stem) else "")


def _german_past(past: str, weak: bool) -> tuple[str, ...]:
    if weak or past.endswith("e"):
        return past, past + "st", past, past + "n", past + "t", past + "n"
    second = past + ("est" if re.search(r"[dtsßz]$", past) else "st")
    plural = past if past.endswith("ie") else past + "e"  # schrie, schrien
    return past, second, past, plural + "n", past + ("et" if re.search(r"[dt]$", past) else "t"), plural + "n"


def german_verb(entry: str, modals: Modals) -> tuple[dict[str, str], Forms]:
    """`kaufen`, `lesen liest las gelesen`, `an|rufen ruft rief gerufen`, `gehen geht ging gegangen sein`,
    `sich setzen`, `warten > auf acc`, `helfen hilft half geholfen > dat`."""
    entry, _, government = entry.partition(" > ")
    first, *rest = entry.removeprefix("sich ").split()
    parts = [word for word in rest if word != "sein"]  # of a strong verb: third person, preterite, participle
    prefix, _, infinitive = first.rpartition("|")
    stem = re.sub(r"e?n$", "", infinitive)
    link = "e" if re.search(_SECOND_PLURAL_LINK, stem) else ""
    bare = re.match(r"(be|ver|er|ent|zer|ge|über|wieder|unter)", infinitive) or infinitive.endswith("ieren")
    regular = stem + link + "t"
    third, past, participle = parts or (regular, regular + "e", ("" if bare else "ge") + regular)
    full, participle = prefix + infinitive, prefix + participle
    present, preterite = _german_present(infinitive, third), _german_past(past, not parts)
    auxiliary = _SEIN if "sein" in rest else _HABEN
    groups = [("pres", present, prefix), ("pret", preterite, prefix), ("perf", auxiliary, participle + " ")]
    groups += [(group, tuple(modal), full + " ") for group, modal in modals.items()]
    places = list(enumerate(PERSONS))
    finite = {(group, person): row[place] for place, person in places for group, row, _ in groups}
    last = {(group, person): end + row[place] for place, person in places for group, row, end in groups}
    ends = {(group,): end.rstrip() for group, _, end in groups}
    familiar = _german_imperative(infinitive, third)
    zu = f"{prefix}zu{infinitive}" if prefix else f"zu {infinitive}"
    orders = {("thou",): familiar, ("ye",): regular, ("formal",): infinitive + " Sie"}
    prep, _, case = government.rpartition(" ")
    attributes = {"case": case or "acc", "prep": prep or "o", "refl": "yes" if entry.startswith("sich ") else "no"}
    return attributes, {"fin": finite, "last": last, "end": ends, "zu": {(): zu}, "imp": orders, "prefix": {(): prefix}}


def english_noun(entry: str) -> tuple[dict[str, str], Forms]:
    """`dog`, `child children`; several words of one noun are joined by `_`."""
    words = entry.split()
    singular = words[0].replace("_", " ").rstrip("~")
    if len(words) > 1:
        plural = words[1].replace("_", " ")
    elif re.search(r"(s|x|z|ch|sh)$", singular):
        plural = singular + "es"
    else:
        plural = singular[:-1] + "ies" if re.search(r"[^aeiou]y$", singular) else singular + "s"
    owners = {("s",): singular + " 's", ("p",): plural + (" '" if plural.endswith("s") else " 's")}
    return {}, {"form": {("s",): singular, ("p",): plural}, "possessive": owners}


_SHORT_NEGATIONS = {"will": "won't", "can": "can't", "am": "am not", "must": "mustn't"}


def english_verb(entry: str) -> tuple[dict[str, str], Forms]:
    """`walk`, `go went gone`, `swim swam swum swimming`, `wait > for`; a particle follows `_`:
    `get_up got got getting`."""
    entry, _, prep = entry.partition(" > ")
    base, *rest = entry.split()
    base, *particle = base.split("_")
    third = base + ("es" if re.search(r"(s|x|z|ch|sh|o)$", base) else "s")
    regular, gerund = base + "ed", base + "ing"
    if re.search(r"[^aeiou]y$", base):
        third, regular = base[:-1] + "ies", base[:-1] + "ied"
    elif base.endswith("e"):
        regular = base + "d"
        gerund = base + "ing" if base.endswith("ee") else base[:-1] + "ing"  # seeing, but making
    if base.endswith("ie"):
        gerund = base[:-2] + "ying"  # lying
    third = {"have": "has", "be": "is"}.get(base, third)
    past = rest[0] if rest else regular
    participle = rest[1] if len(rest) > 1 else past
    gerund = rest[2] if len(rest) > 2 else gerund
    aux: dict[tuple[str, ...], str] = {}
    main: dict[tuple[str, ...], str] = {}
    be = {"1s": ("am", "was"), "2s": ("are", "were"), "3s": ("is", "was"), "p": ("are", "were")}
    for person in ("1s", "2s", "3s", "p"):
        singular = person == "3s"
        simple = third if singular else base
        rows = {
            "prog": (be[person][0], gerund),
            "past": ("did", base),
            "simple": ("does" if singular else "do", base),
            "perfect": ("has" if singular else "have", participle),
            "will": ("will", base),
            "going": (be[person][0], "going to " + base),
            "must": ("must", base),
            "can": ("can", base),
            "want": ("does" if singular else "do", "want to " + base),
            "wish": ("would", "like to " + base),
            "should": ("should", base),
        }
        if base == "be":
            rows["simple"], rows["past"] = (be[person][0], ""), (be[person][1], "")
        plain = {"simple": simple, "past": past, "want": ("wants" if singular else "want") + " to " + base}
        for group, (auxiliary, end) in rows.items():
            drop = (group in plain and base != "be") or group == "want"  # she walks, not she does walk
            short = _SHORT_NEGATIONS.get(auxiliary, auxiliary + "n't")
            full = "cannot" if group == "can" else f"{auxiliary} not"
            modes = {"pos": "" if drop else auxiliary, "ask": auxiliary, "full": full, "short": short}
            aux |= {(group, person, mode): word for mode, word in modes.items()}
            main |= {(group, person, mode): plain[group] if drop and mode == "pos" else end for mode in modes}
    return {"prep": prep or "o"}, {"aux": aux, "main": main, "inf": {(): base}, "particle": {(): " ".join(particle)}}


def english_adjective(entry: str) -> tuple[dict[str, str], Forms]:
    """`old`, `well-known`; several words are joined by `_`."""
    return {}, {"form": {(): entry.replace("_", " ")}}


def french_noun(entry: str) -> tuple[dict[str, str], Forms]:
    """`chien m`, `œil m yeux`, `pomme_de_terre f pommes_de_terre`."""
    words = entry.split()
    singular, gender = words[0].replace("_", " "), words[1]
    plural = words[2].replace("_", " ") if len(words) > 2 else _french_plural(singular)
    return {"gender": gender}, {"form": {("s",): singular, ("p",): plural}}


def _french_plural(word: str) -> str:
    if re.search(r"[sxz]$", word):  # le nez, les nez
        return word
    if word.endswith("al"):
        return word[:-2] + "aux"
    return word + ("x" if re.search(r"(eau|eu)$", word) else "s")


_FEMININE = {"eux": "euse", "er": "ère", "f": "ve", "el": "elle", "en": "enne", "e": "e", "": "e"}  # by its ending


def french_adjective(entry: str) -> tuple[dict[str, str], Forms]:
    """`petit pre`, `long post longue`, `nouveau pre nouvelle`; the feminine is written where it is irregular."""
    words = entry.split()
    masculine, place = words[0].replace("_", " "), words[1] if len(words) > 1 else "post"
    regular = next(masculine.removesuffix(end) + new for end, new in _FEMININE.items() if masculine.endswith(end))
    feminine = words[2] if len(words) > 2 else regular
    plural = words[3] if len(words) > 3 else _french_plural(masculine)
    forms = {("m", "s"): masculine, ("m", "p"): plural, ("f", "s"): feminine, ("f", "p"): feminine + "s"}
    if place == "invariable":
        forms = dict.fromkeys(forms, masculine)
    predicative = {(gender + number,): form for (gender, number), form in forms.items()}
    return {"place": "pre" if place == "pre" else "post"}, {"attr": forms, "pred": predicative}


def _french_parts(infinitive: str, irregular: dict[str, str]) -> tuple[tuple[str, ...], str, str]:
    """Present (six forms), participle, future stem."""
    if infinitive in irregular:
        *forms, participle, future = irregular[infinitive].split()
        return tuple(forms), participle, future
    stem = infinitive[:-2]
    if infinitive.endswith("er"):
        strong = stem
        if re.search(r"[ou]y$", stem) or stem.endswith("ay"):  # envoyer, envoie
            strong = stem[:-1] + "i"
        elif match := re.search(r"é([^aeiouyéèê]+)$", stem):
            strong = stem[: match.start()] + "è" + match.group(1)
        elif match := re.search(r"e([^aeiouy])$", stem):
            doubled = re.search(r"(appel|jet)$", stem)  # appelle, jette, but achète
            strong = stem + match.group(1) if doubled else stem[: match.start()] + "è" + match.group(1)
        first = stem + "e" if stem.endswith("g") else stem[:-1] + "ç" if stem.endswith("c") else stem
        present = (strong + "e", strong + "es", strong + "e", first + "ons", stem + "ez", strong + "ent")
        future = (stem if re.search(r"é[^aeiouyéèê]+$", stem) else strong) + "er"
        return present, stem + "é", future
    ir = infinitive.endswith("ir")
    endings = ("is", "is", "it", "issons", "issez", "issent") if ir else ("s", "s", "", "ons", "ez", "ent")
    return tuple(stem + ending for ending in endings), stem + ("i" if ir else "u"), infinitive.removesuffix("e")


def french_verb(entry: str, irregular: dict[str, str], modals: Modals) -> tuple[dict[str, str], Forms]:
    """`parler`, `aller être`, `se lever`, `avoir besoin > de`; principal parts of irregular verbs stand in
    `french_verbs.tsv`."""
    entry, _, prep = entry.partition(" > ")
    reflexive = bool(re.match(r"se |s'", entry))
    infinitive, *rest = re.sub(r"^(se |s')", "", entry).split()
    with_etre = reflexive or rest == ["être"]
    tail = "" if with_etre else "".join(" " + word for word in rest)
    present, participle, future = _french_parts(infinitive, irregular)
    auxiliary = irregular["être" if with_etre else "avoir"].split()
    stem = "ét" if infinitive == "être" else present[3][:-3]  # nous parl-ons, je parl-ais
    hard = re.sub(r"ge$", "g", stem) if infinitive.endswith("ger") else re.sub(r"ç$", "c", stem)  # mangions
    endings = ("ais", "ais", "ait", "ions", "iez", "aient")
    imperfect = [(hard if ending.startswith("i") else stem) + ending for ending in endings]
    futures = [future + ending for ending in ("ai", "as", "a", "ons", "ez", "ont")]
    rows = {"pres": present, "imparf": imperfect, "pc": auxiliary, "fut": futures, **modals}
    finite = {(group, person): row[index] for index, person in enumerate(PERSONS) for group, row in rows.items()}
    agreement = {"ms": "", "fs": "e", "mp": "" if participle.endswith("s") else "s", "fp": "es"}
    end: dict[tuple[str, ...], str] = {}
    for subject in agreement:
        for obj in agreement:
            end |= {(group, subject, obj): tail.strip() for group in ("pres", "imparf", "fut")}
            end |= {(group, subject, obj): infinitive + tail for group in modals}
            agreeing = subject if with_etre else obj
            form = participle if agreeing == "ms" or infinitive == "être" else participle + agreement[agreeing]
            end["pc", subject, obj] = form + tail
    loses_s = infinitive.endswith("er") or infinitive in ("ouvrir", "offrir")  # parle! but finis!
    familiar = re.sub(r"(?<=[ea])s$", "", present[1]) if loses_s else present[1]
    orders = {("thou",): familiar + tail, ("ye",): present[4] + tail, ("formal",): present[4] + tail}
    attributes = {"prep": prep or "o", "refl": "yes" if reflexive else "no"}
    return attributes, {"fin": finite, "end": end, "imp": orders, "inf": {(): infinitive + tail}}
