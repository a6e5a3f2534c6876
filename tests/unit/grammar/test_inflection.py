"""Inflection against tables written by hand, and draws against their probabilities."""

from __future__ import annotations

import pytest

from mt.grammar import inflection
from mt.grammar.engine import _drawn

# A row for each case; masculine, feminine, neuter, plural.
DECLENSION = {
    "weak": "kleine kleine kleine kleinen | kleinen kleine kleine kleinen |" + " kleinen kleinen kleinen kleinen |" * 2,
    "mixed": "kleiner kleine kleines kleinen | kleinen kleine kleines kleinen |"
    + " kleinen kleinen kleinen kleinen |" * 2,
    "strong": "kleiner kleine kleines kleine | kleinen kleine kleines kleine |"
    " kleinem kleiner kleinem kleinen | kleinen kleiner kleinen kleiner |",
}


@pytest.mark.parametrize("kind", DECLENSION)
def test_german_adjectives_are_declined(kind: str) -> None:
    forms = inflection.german_adjective("klein")[1]["attr"]
    for case, row in zip(("nom", "acc", "dat", "gen"), DECLENSION[kind].split("|")):
        for gender, word in zip("mfn", row.split()):
            assert forms[kind, case, gender, "s"] == word
            assert forms[kind, case, gender, "p"] == row.split()[3]


@pytest.mark.parametrize(
    ("entry", "singular", "plural"),
    [
        ("Hund m -e", "Hund Hund Hund Hundes", "Hunde Hunde Hunden Hunde"),
        ("Haus n -¨er", "Haus Haus Haus Hauses", "Häuser Häuser Häusern Häuser"),
        ("Park m -s", "Park Park Park Parks", "Parks Parks Parks Parks"),
        ("Junge m -n weak", "Junge Jungen Jungen Jungen", "Jungen Jungen Jungen Jungen"),
        ("Tante f -n", "Tante Tante Tante Tante", "Tanten Tanten Tanten Tanten"),
        ("Museum n Museen", "Museum Museum Museum Museums", "Museen Museen Museen Museen"),
    ],
)
def test_german_nouns_are_declined(entry: str, singular: str, plural: str) -> None:
    forms = inflection.german_noun(entry)[1]["form"]
    cases = ("nom", "acc", "dat", "gen")
    assert [forms[case, "s"] for case in cases] == singular.split()
    assert [forms[case, "p"] for case in cases] == plural.split()


@pytest.mark.parametrize(
    ("entry", "present", "preterite", "perfect", "imperative", "infinitive"),
    [
        ("kaufen", "kaufe kaufst kauft kaufen kauft kaufen", "kaufte kauftest", "habe gekauft", "kauf", "zu kaufen"),
        (
            "arbeiten",
            "arbeite arbeitest arbeitet arbeiten arbeitet arbeiten",
            "arbeitete arbeitetest",
            "habe gearbeitet",
            "arbeite",
            "zu arbeiten",
        ),
        (
            "lesen liest las gelesen",
            "lese liest liest lesen lest lesen",
            "las lasest",
            "habe gelesen",
            "lies",
            "zu lesen",
        ),
        (
            "an|rufen ruft rief gerufen",
            "rufe rufst ruft rufen ruft rufen",
            "rief riefst",
            "habe angerufen",
            "ruf",
            "anzurufen",
        ),
        (
            "gehen geht ging gegangen sein",
            "gehe gehst geht gehen geht gehen",
            "ging gingst",
            "bin gegangen",
            "geh",
            "zu gehen",
        ),
    ],
)
def test_german_verbs_are_conjugated(
    entry: str, present: str, preterite: str, perfect: str, imperative: str, infinitive: str
) -> None:
    forms = inflection.german_verb(entry, {})[1]
    assert [forms["fin"]["pres", person] for person in ("1s", "2s", "3s", "1p", "2p", "3p")] == present.split()
    assert [forms["fin"]["pret", person] for person in ("1s", "2s")] == preterite.split()
    assert f"{forms['fin']['perf', '1s']} {forms['end'][('perf',)]}" == perfect
    assert forms["last"]["perf", "1s"].split() == perfect.split()[::-1]
    assert (forms["imp"][("thou",)], forms["zu"][()]) == (imperative, infinitive)


def test_english_verbs_take_do_not_and_contract() -> None:
    forms = inflection.english_verb("carry")[1]
    said = {mode: (forms["aux"]["simple", "3s", mode], forms["main"]["simple", "3s", mode]) for mode in _MODES}
    assert said == {
        "pos": ("", "carries"),
        "ask": ("does", "carry"),
        "full": ("does not", "carry"),
        "short": ("doesn't", "carry"),
    }
    assert forms["main"]["past", "p", "pos"] == "carried" and forms["main"]["prog", "1s", "pos"] == "carrying"
    assert forms["aux"]["can", "p", "full"] == "cannot" and forms["aux"]["will", "p", "short"] == "won't"


_MODES = ("pos", "ask", "full", "short")


@pytest.mark.parametrize(
    ("entry", "present", "imperfect", "future", "participle"),
    [
        ("parler", "parle parles parle parlons parlez parlent", "parlais", "parlerai", "parlées"),
        ("manger", "mange manges mange mangeons mangez mangent", "mangeais", "mangerai", "mangées"),
        ("acheter", "achète achètes achète achetons achetez achètent", "achetais", "achèterai", "achetées"),
        ("finir", "finis finis finit finissons finissez finissent", "finissais", "finirai", "finies"),
        ("attendre", "attends attends attend attendons attendez attendent", "attendais", "attendrai", "attendues"),
    ],
)
def test_french_verbs_are_conjugated(entry: str, present: str, imperfect: str, future: str, participle: str) -> None:
    forms = inflection.french_verb(entry, {"avoir": "ai as a avons avez ont eu aur"}, {})[1]
    assert [forms["fin"]["pres", person] for person in ("1s", "2s", "3s", "1p", "2p", "3p")] == present.split()
    assert (forms["fin"]["imparf", "1s"], forms["fin"]["fut", "1s"]) == (imperfect, future)
    assert forms["end"]["pc", "ms", "fp"] == participle  # with avoir it agrees with the object before it


def test_draws_have_their_probabilities() -> None:
    choices = [("a", 0.2), ("b", 0.5), ("c", 0.3)]
    points = iter([(number + 0.5) / 10 for number in range(10)])
    assert "".join(_drawn(choices, lambda: next(points)) for _ in range(10)) == "aabbbbbccc"
    assert _drawn(choices[:1], lambda: next(points)) == "a"  # without a draw: there is none left
