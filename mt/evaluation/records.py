"""Translation records of any system: read, checked line by line, and made fit for evaluation."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from mt.errors import UserError
from mt.files.lines import read_lines

Record = dict[str, Any]

# What an evaluation adds: an earlier one's are dropped. Some were written by earlier versions only.
_MEASURED = ("correct", "correct_words", "correct_in_order", "raw_confidence", "source_length", "chrf", "bleu", "ter")
_LARGEST = 1e300
_LARGEST_LOG_PROB = 1e-4  # rounding may lift a certain token above 0


def read_records(path: Path) -> list[Record]:
    """Reads a file of translation records, one JSON object a line.

    A record needs `translation`. With `tokens` it may bring `log_probs` (natural logarithms) and `token_confidence`,
    both as long as `tokens`; without the latter it is `exp(log_probs)`. `source`, `confidence`, `score`,
    `reference_tokens` (the first reference in the system's own tokens) and `alternatives` (for each token a list of
    [token, natural logarithm]) may be there.

    Returns:
        The records in the order of the file, with `line` counted from 0, and `confidence` filled in where the
        tokens allow it.

    Raises:
        UserError: as mt.files.lines.read_lines, no line, or a line that is not a record; names the line and the field.
    """
    lines = enumerate(read_lines([path]))
    records = [_checked(line, number, f"{path}, line {number + 1}") for number, line in lines]
    if not records:
        raise UserError(f"{path}: is empty; --records wants one JSON object a line")
    return records


def _checked(line: str, number: int, place: str) -> Record:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UserError(f"{place}: not JSON ({error}); a record is one JSON object on one line") from None
    if not isinstance(record, dict):
        raise UserError(f'{place}: not a JSON object; a record looks like {{"translation": "..."}}')
    if record.get("line", number) != number:
        raise UserError(f"{place}: line is {record['line']!r}, expected {number}; records stand in order, from 0")
    if "translation" not in record:
        raise UserError(f"{place}: translation is missing; it must be a text")
    given = {name: value for name, value in record.items() if value is not None or name == "translation"}
    for problem in _problems(given):
        raise UserError(f"{place}: {problem}")
    kept = {name: value for name, value in given.items() if name not in _MEASURED}
    kept |= {"line": number, "translation": " ".join(record["translation"].split("\n"))}  # hypotheses.txt: a line each
    if "log_probs" in kept and "token_confidence" not in kept:
        kept["token_confidence"] = [math.exp(min(0.0, value)) for value in kept["log_probs"]]
    if kept.get("token_confidence") and "confidence" not in kept:
        kept["confidence"] = sum(kept["token_confidence"]) / len(kept["token_confidence"])
    return kept


def _problems(given: Record) -> Iterator[str]:
    """What is wrong with the fields that a record has a value for; each check may rely on the ones before it."""
    for name, is_right, message in _FIELDS:
        if name in given and not is_right(given[name]):
            yield f"{name} {message.format(given[name])}"
    tokens = given.get("tokens", [])
    for name, is_entry, wanted in _FOR_EACH_TOKEN:
        if name not in given:
            continue
        values = given[name]
        if not isinstance(values, list):
            yield f"{name} must be a list of {wanted}"
        if values and "tokens" not in given:
            yield f"{name} without tokens; give the tokens it belongs to"
        if len(values) != len(tokens):
            yield f"{name} has {len(values)} entries for {len(tokens)} tokens; one each"
        yield from (f"{name} holds {value!r}; it must hold {wanted}" for value in values if not is_entry(value))
    for output in given.get("nbest") or []:
        log_probs = output.get("log_probs") or [] if isinstance(output, dict) else []
        if not _is_list(log_probs, lambda each: _is_number(each, high=_LARGEST_LOG_PROB)):
            yield f"nbest holds log_probs {log_probs!r}; they must be numbers at most 0"


def _is_list(value: object, is_entry: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(is_entry, value))


def _is_number(value: object, low: float = -_LARGEST, high: float = _LARGEST) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


_is_probability = partial(_is_number, low=0.0, high=1.0)
_is_log_prob = partial(_is_number, low=-math.inf, high=_LARGEST_LOG_PROB)


def _is_alternative(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and _is_log_prob(value[1])


_Checks = tuple[tuple[str, Callable[[Any], bool], str], ...]  # name of the field, what it must be, and in words
_FIELDS: _Checks = (
    ("translation", lambda value: isinstance(value, str), "is {!r}; it must be a text"),
    ("source", lambda value: isinstance(value, str), "is {!r}; it must be a text"),
    ("tokens", lambda value: _is_list(value, lambda each: isinstance(each, str)), "must be a list of texts"),
    ("reference_tokens", lambda value: _is_list(value, lambda each: isinstance(each, str)), "must be a list of texts"),
    ("nbest", lambda value: not value or isinstance(value, list), "is {!r}; it must be a list"),
    ("score", _is_number, "is {!r}; it must be a number"),
    ("confidence", _is_probability, "is {!r}; it must be a number from 0 to 1"),
)
_FOR_EACH_TOKEN: _Checks = (
    ("log_probs", _is_log_prob, "numbers at most 0"),
    ("token_confidence", _is_probability, "numbers from 0 to 1"),
    ("alternatives", lambda value: _is_list(value, _is_alternative), "lists of [token, log-probability]"),
)
