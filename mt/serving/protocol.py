"""LibreTranslate's protocol: what a request asks for, and its answer, with confidence beside it.

https://docs.libretranslate.com/guides/api_usage; what is ours besides stands in docs/serving.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from mt.errors import visible

Record = dict[str, Any]

MOST_LINES = 1000
"""of all texts of a request"""
_BREAK = re.compile(r"(\r*\n)")  # as files are read


class Refused(Exception):
    """A request that is not served: the status of the answer, one line that says why, and headers."""

    def __init__(self, status: int, why: str, **headers: str) -> None:
        super().__init__(why)
        self.status, self.why, self.headers = status, why, headers


class Terms(NamedTuple):
    """What a server offers."""

    source: str
    """language, as the model's config calls it"""
    target: str
    most_characters: int
    """of all texts of a request"""
    most_alternatives: int
    flagged: Callable[[Record], bool] | None
    """whether a record is flagged; None: nothing is"""


class Wanted(NamedTuple):
    """A request to translate."""

    texts: list[str]
    lines: list[str]
    """of all texts"""
    listed: bool
    """whether texts came as a list, and go as one"""
    detect: bool
    """whether the source language was left open"""
    alternatives: int
    tokens: bool


def read_request(body: bytes, content_type: str, terms: Terms) -> Wanted:
    """The request of a body in JSON or of a form. Raises Refused."""
    fields = _fields(body, content_type.partition(";")[0].strip().lower())
    given = fields.get("q")
    texts: list[Any] = given if isinstance(given, list) else [given]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise Refused(400, "q must be the text to translate, or a list of texts")
    for name, codes in (("source", [terms.source, "auto"]), ("target", [terms.target])):
        if (code := fields.get(name)) not in codes:
            told = "missing" if code is None else _shown(code)
            raise Refused(400, f"{name} is {told}; this server translates from {terms.source} to {terms.target}")
    if (kind := fields.get("format", "text")) != "text":
        raise Refused(400, f"format is {_shown(kind)}; only text is translated here, without markup")
    if not (alternatives := str(fields.get("alternatives", 0))).isdecimal() or len(alternatives) > 9:
        raise Refused(400, f"alternatives is {_shown(alternatives)}; it must be a whole number: 0, 1, 2 ...")
    lines = [line for text in texts for line in _BREAK.split(text)[::2]]
    for what, count, most in (
        ("characters", sum(map(len, texts)), terms.most_characters),
        ("lines", len(lines), MOST_LINES),
    ):
        if count > most:
            raise Refused(413, f"{count} {what} are too many for one request; send at most {most}")
    tokens = str(fields.get("tokens")).lower() in ("true", "1")
    wanted = min(int(alternatives), terms.most_alternatives)
    return Wanted(texts, lines, isinstance(given, list), fields["source"] == "auto", wanted, tokens)


def _shown(value: object) -> str:
    return visible(str(value)[:40])


def _fields(body: bytes, content_type: str) -> Record:
    try:
        text = body.decode("utf-8")
        if content_type == "application/json":
            fields = json.loads(text)
        elif content_type == "application/x-www-form-urlencoded":
            parsed = parse_qs(text, keep_blank_values=True, errors="strict")
            fields = {name: values if len(values) > 1 else values[0] for name, values in parsed.items()}
        else:
            raise Refused(415, "the body must be of type application/json or application/x-www-form-urlencoded")
    except (ValueError, RecursionError):
        raise Refused(400, f"the body is not what its type, {content_type}, says") from None
    if not isinstance(fields, dict):
        raise Refused(400, 'the body must be an object: {"q": "...", "source": "...", "target": "..."}')
    return fields


def answer(wanted: Wanted, records: list[Record], terms: Terms) -> Record:
    """What the client is told; `records`: of its lines, in order."""
    left = iter(records)
    texts = [_text(text, left, wanted, terms) for text in wanted.texts]
    return {name: [text[name] for text in texts] for name in texts[0]} if wanted.listed else texts[0]


def _text(text: str, records: Iterator[Record], wanted: Wanted, terms: Terms) -> Record:
    """The translation of a text; its figures are those of the line that is worst."""
    breaks = [*_BREAK.split(text)[1::2], ""]
    lines = [*islice(records, len(breaks))]
    found = [[each["translation"] for each in line.get("nbest", [line])] for line in lines]
    whole = [
        "".join(each[rank if rank < len(each) else 0] + end for each, end in zip(found, breaks))
        for rank in range(max(map(len, found)))
    ]
    told: Record = {"translatedText": whole[0]}
    if wanted.alternatives:
        told["alternatives"] = whole[1:]
    if wanted.detect:
        told["detectedLanguage"] = {"language": terms.source, "confidence": 0}
    told |= {name: min(line[name] for line in lines) for name in ("confidence", "quality") if name in lines[0]}
    if terms.flagged:
        told["flagged"] = any(map(terms.flagged, lines))
    if wanted.tokens:
        flags = [{"flagged": terms.flagged(line)} if terms.flagged else {} for line in lines]
        told["lines"] = [
            {
                "source": line["source"],
                **_output(line),
                **flag,
                "alternatives": [*map(_output, line.get("nbest", [])[1:])],
            }
            for line, flag in zip(lines, flags)
        ]
    return told


def _output(output: Record) -> Record:
    names = ("translation", "confidence", "quality", "quality_low", "quality_high")
    columns = {"token": "tokens", "confidence": "token_confidence", "log_prob": "log_probs"}
    tokens = [dict(zip(columns, each)) for each in zip(*(output[name] for name in columns.values()))]
    return {**{name: output[name] for name in names if name in output}, "tokens": tokens}
