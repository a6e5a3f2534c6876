from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

import pytest

from mt.serving.protocol import Refused, Terms, Wanted, answer, read_request

TERMS = Terms("de", "en", most_characters=100, most_alternatives=4, flagged=None)
ASKED = {"q": "ein Hund", "source": "de", "target": "en"}


def as_json(**fields: Any) -> Wanted:
    return read_request(json.dumps({**ASKED, **fields}).encode(), "application/json; charset=utf-8", TERMS)


def record(line: str, *others: str, confidence: float = 0.9, **figures: float) -> dict[str, Any]:
    """A record of `Translator.translate`; `others`: what the n-best list holds besides."""

    def output(text: str) -> dict[str, Any]:
        tokens = {"tokens": [text, "</s>"], "token_confidence": [0.8, 1.0], "log_probs": [-0.1, 0.0]}
        return {"translation": text, "confidence": confidence, **tokens}

    first = {"source": line, **output(line.upper()), **figures}
    return {**first, "nbest": [output(line.upper()), *map(output, others)]} if others else first


def test_json_and_forms_say_the_same() -> None:
    wanted = as_json(q="a\nb", alternatives=2, tokens=True, source="auto", api_key="x")
    assert wanted == Wanted(["a\nb"], ["a", "b"], False, True, 2, True)
    form = urlencode({**ASKED, "q": "a\nb", "alternatives": "2", "tokens": "true", "source": "auto"}).encode()
    assert read_request(form, "application/x-www-form-urlencoded", TERMS) == wanted
    several = urlencode([*ASKED.items(), ("q", "b")]).encode()
    assert read_request(several, "application/x-www-form-urlencoded", TERMS).texts == ["ein Hund", "b"]
    assert as_json(q=["a", "b"]) == Wanted(["a", "b"], ["a", "b"], True, False, 0, False)
    assert as_json(alternatives=50).alternatives == 4  # a number that is preferred, says the protocol


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"q": None}, 400, "q must be the text"),
        ({"q": []}, 400, "q must be the text"),
        ({"q": ["a", 1]}, 400, "q must be the text"),
        ({"source": "fr"}, 400, "source is fr; this server translates from de to en"),
        ({"target": None}, 400, "target is missing"),
        ({"target": "auto"}, 400, "target is auto"),
        ({"target": {"code": "en"}}, 400, "target is {'code': 'en'}"),
        ({"target": "\ud800\x1b"}, 400, "target is \\ud800\\x1b"),
        ({"format": "html"}, 400, "format is html; only text"),
        ({"alternatives": -1}, 400, "alternatives is -1"),
        ({"alternatives": True}, 400, "alternatives is True"),
        ({"alternatives": "9" * 5000}, 400, "alternatives is 999"),
        ({"q": "x" * 101}, 413, "101 characters are too many for one request; send at most 100"),
        ({"q": ["x" * 60, "y" * 60]}, 413, "120 characters"),
        ({"q": [""] * 1001}, 413, "1001 lines are too many"),
    ],
)
def test_what_is_not_served_is_told_in_a_line(fields: dict[str, Any], status: int, words: str) -> None:
    with pytest.raises(Refused) as refused:
        as_json(**fields)
    assert refused.value.status == status and words in refused.value.why and "\n" not in refused.value.why


@pytest.mark.parametrize(
    ("body", "kind", "status", "words"),
    [
        (b'{"q": ', "application/json", 400, "not what its type, application/json, says"),
        (b"[" * 50_000, "application/json", 400, "not what its type"),
        (b"\xff\xfe", "application/json", 400, "not what its type"),
        (b"q=%ff", "application/x-www-form-urlencoded", 400, "not what its type"),
        (b"[1]", "application/json", 400, "must be an object"),
        (b"hello", "text/plain", 415, "application/json or"),
        (b"{}", "", 415, "application/json or"),
    ],
)
def test_a_body_that_is_none_is_refused(body: bytes, kind: str, status: int, words: str) -> None:
    with pytest.raises(Refused) as refused:
        read_request(body, kind, TERMS)
    assert refused.value.status == status and words in refused.value.why


def test_lines_are_joined_by_the_breaks_they_had() -> None:
    wanted = as_json(q="a\r\n\nb\n")
    assert wanted.lines == ["a", "", "b", ""]
    assert answer(wanted, [record(line) for line in wanted.lines], TERMS)["translatedText"] == "A\r\n\nB\n"


def test_alternatives_go_through_the_lines_together_and_a_line_without_keeps_its_best() -> None:
    wanted = as_json(q="a\nb", alternatives=2)
    records = [record("a", "a2"), record("b", "b2", "b3")]
    told = answer(wanted, records, TERMS)
    assert told == {"translatedText": "A\nB", "alternatives": ["a2\nb2", "A\nb3"], "confidence": 0.9}
    listed = answer(as_json(q=["a", "b"], alternatives=2, source="auto"), records, TERMS)
    assert listed["translatedText"] == ["A", "B"] and listed["alternatives"] == [["a2"], ["b2", "b3"]]
    assert listed["detectedLanguage"] == [{"language": "de", "confidence": 0}] * 2
    assert answer(as_json(q="a", alternatives=2), [record("a")], TERMS)["alternatives"] == []


def test_figures_of_a_text_are_those_of_its_worst_line() -> None:
    terms = TERMS._replace(flagged=lambda record: record["quality"] < 30)
    records = [
        record("a", confidence=0.9, quality=20.0, quality_low=10.0, quality_high=40.0),
        record("b", "c", confidence=0.5, quality=50.0, quality_low=45.0, quality_high=55.0),
    ]
    told = answer(as_json(q="a\nb"), records, terms)
    assert (told["confidence"], told["quality"], told["flagged"]) == (0.5, 20.0, True)
    assert answer(as_json(q=["a", "b"]), records, terms)["flagged"] == [True, False]
    assert "flagged" not in answer(as_json(q="a\nb"), records, TERMS)
    first, second = answer(as_json(q="a\nb", tokens=True), records, terms)["lines"]
    tokens = [
        {"token": "A", "confidence": 0.8, "log_prob": -0.1},
        {"token": "</s>", "confidence": 1.0, "log_prob": 0.0},
    ]
    figures = {"confidence": 0.9, "quality": 20.0, "quality_low": 10.0, "quality_high": 40.0, "flagged": True}
    assert first == {"source": "a", "translation": "A", **figures, "tokens": tokens, "alternatives": []}
    assert [each["translation"] for each in second["alternatives"]] == ["c"] and not second["flagged"]
