"""Inflection of English: every form of a word from its entry in the lexicon (`docs/corpus.md` has the notation)."""

from __future__ import annotations

import re

from mt.grammar.structures import Forms


def noun(entry: str) -> tuple[dict[str, str], Forms]:
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


_SHORT = {"will": "won't", "can": "can't", "am": "am not", "must": "mustn't"}


def verb(entry: str) -> tuple[dict[str, str], Forms]:
    """`walk`, `go went gone`, `swim swam swum swimming`, `wait > for`; a particle follows `_`:
    `get_up got got getting`."""
    entry, _, prep = entry.partition(" > ")
    words = entry.split()
    particle = words[0].partition("_")[2].replace("_", " ")
    words = [word.partition("_")[0] for word in words]
    base = words[0]
    third = base + ("es" if re.search(r"(s|x|z|ch|sh|o)$", base) else "s")
    regular, gerund = base + "ed", base + "ing"
    if re.search(r"[^aeiou]y$", base):
        third, regular = base[:-1] + "ies", base[:-1] + "ied"
    elif base.endswith("e"):
        regular = base + "d"
        gerund = base + "ing" if base.endswith("ee") else base[:-1] + "ing"
    if base.endswith("ie"):
        gerund = base[:-2] + "ying"
    third = {"have": "has", "be": "is"}.get(base, third)
    past = words[1] if len(words) > 1 else regular
    participle = words[2] if len(words) > 2 else past
    gerund = words[3] if len(words) > 3 else gerund
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
        for group, (auxiliary, rest) in rows.items():
            drop = (group in plain and base != "be") or group == "want"
            short = _SHORT.get(auxiliary, auxiliary + "n't")
            full = "cannot" if group == "can" else f"{auxiliary} not"
            modes = {"pos": "" if drop else auxiliary, "ask": auxiliary, "full": full, "short": short}
            aux |= {(group, person, mode): word for mode, word in modes.items()}
            main |= {(group, person, mode): plain[group] if drop and mode == "pos" else rest for mode in modes}
    return {"prep": prep or "o"}, {"aux": aux, "main": main, "inf": {(): base}, "particle": {(): particle}}


def adjective(entry: str) -> tuple[dict[str, str], Forms]:
    """`old`, `well-known`; several words are joined by `_`."""
    return {}, {"form": {(): entry.replace("_", " ")}}
