"""LibreTranslate's protocol: what a request asks for, and its answer, with confidence beside it.

https://docs.libretranslate.com/guides/api_usage; what is ours besides: docs/serving.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any
from urllib.parse import parse_qs

from mt.corpus.languages import language_name
from mt.errors import visible

Record = dict[str, Any]

_BREAK = re.compile(r"(\r*\n)")
_FIGURES = ("confidence", "quality", "quality_low", "quality_high")


class Refused(Exception):
    """A request that is not served: the status of the answer, one line that says why, and headers of the answer."""

    def __init__(self, status: int, why: str, **headers: str) -> None:
        super().__init__(why)
        self.status, self.why, self.headers = status, why, headers


@dataclass(frozen=True)
class Terms:
    """What a server offers."""

    source: str
    """language of the texts, as the model's config calls it"""
    target: str
    most_characters: int = 5000
    """of all texts of a request"""
    most_lines: int = 1000
    """of all texts of a request"""
    most_alternatives: int = 4
    flagged: Callable[[Record], bool] | None = None
    """whether a record is flagged; None: nothing is"""

    def languages(self) -> list[Record]:
        """What GET /languages tells."""
        pairs = ((self.source, [self.target]), (self.target, []))
        return [{"code": code, "name": language_name(code), "targets": targets} for code, targets in pairs]


@dataclass(frozen=True)
class Wanted:
    """A request to translate."""

    texts: list[str]
    listed: bool
    """whether texts came as a list, and go as one"""
    alternatives: int
    detect: bool
    """whether the source language was left open"""
    tokens: bool

    @property
    def lines(self) -> list[str]:
        """What there is to translate, line by line."""
        return [line for text in self.texts for line in _BREAK.split(text)[::2]]


def read_request(body: bytes, content_type: str, terms: Terms) -> Wanted:
    """The request of a body in JSON or of a form. Raises Refused."""
    fields = _fields(body, content_type.partition(";")[0].strip().lower())
    given = fields.get("q")
    texts = given if isinstance(given, list) else [given]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise Refused(400, "q must be the text to translate, or a list of texts")
    for name, own, others in (("source", terms.source, ("auto",)), ("target", terms.target, ())):
        code = fields.get(name)
        if not isinstance(code, str) or code.casefold() not in (own.casefold(), *others):
            told = "missing" if code is None else visible(str(code)[:40])
            raise Refused(400, f"{name} is {told}; this server translates from {terms.source} to {terms.target}")
    if (markup := fields.get("format", "text")) != "text":
        raise Refused(400, f"format is {visible(str(markup)[:40])}; only text is translated here, without markup")
    try:
        alternatives = int(str(fields.get("alternatives", 0)))
    except ValueError:
        alternatives = -1
    if alternatives < 0:
        raise Refused(400, "alternatives must be a whole number, how many further translations are wanted at most")
    tokens = str(fields.get("tokens", "")).casefold() in ("true", "1")
    alternatives = min(alternatives, terms.most_alternatives)
    wanted = Wanted(texts, isinstance(given, list), alternatives, fields["source"] == "auto", tokens)
    for what, count, most in (
        ("characters", sum(map(len, texts)), terms.most_characters),
        ("lines", len(wanted.lines), terms.most_lines),
    ):
        if count > most:
            raise Refused(413, f"{count} {what} are too many for one request; send at most {most}")
    return wanted


def _fields(body: bytes, content_type: str) -> Record:
    try:
        text = body.decode("utf-8")
        if content_type == "application/json":
            fields = json.loads(text)
        elif content_type == "application/x-www-form-urlencoded":
            parsed = parse_qs(text, keep_blank_values=True, errors="strict", max_num_fields=10_000)
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
    """The translation of a text, and of its figures those of the line that is worst."""
    breaks = [*_BREAK.split(text)[1::2], ""]
    lines = list(islice(records, len(breaks)))
    outputs = [[each["translation"] for each in line.get("nbest", (line,))] for line in lines]
    # A line with fewer translations than others stays as it is.
    whole = [
        "".join(each[min(rank, len(each)) % len(each)] + end for each, end in zip(outputs, breaks))
        for rank in range(max(map(len, outputs)))
    ]
    told: Record = {"translatedText": whole[0]}
    if wanted.alternatives:
        told["alternatives"] = whole[1 : wanted.alternatives + 1]
    if wanted.detect:
        told["detectedLanguage"] = {"language": terms.source, "confidence": 0}
    told |= {name: min(line[name] for line in lines) for name in ("confidence", "quality") if name in lines[0]}
    if terms.flagged is not None:
        told["flagged"] = any(map(terms.flagged, lines))
    if wanted.tokens:
        told["lines"] = [_line(line, terms) for line in lines]
    return told


def _line(record: Record, terms: Terms) -> Record:
    told = {"source": record["source"], **_output(record)}
    if terms.flagged is not None:
        told["flagged"] = terms.flagged(record)
    return {**told, "alternatives": [_output(each) for each in record.get("nbest", ())[1:]]}


def _output(output: Record) -> Record:
    figures = {name: output[name] for name in _FIGURES if name in output}
    names = ("token", "confidence", "log_prob")
    tokens = zip(output["tokens"], output["token_confidence"], output["log_probs"])
    return {"translation": output["translation"], **figures, "tokens": [dict(zip(names, each)) for each in tokens]}
