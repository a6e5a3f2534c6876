"""Translation records of any system: read, checked line by line, and made fit for evaluation."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
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

    A record needs `translation`. With `tokens` it may bring `log_probs` (natural logarithms) and
    `token_confidence`, both as long as `tokens`; without the latter it is `exp(log_probs)`. `source`,
    `confidence`, `score`, `reference_tokens` (the first reference in the system's own tokens) and `alternatives` (for
    each token a list of [token, natural logarithm]) may be there.

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
    for problem in _problems(record):
        raise UserError(f"{place}: {problem}")
    kept = {name: value for name, value in record.items() if value is not None and name not in _MEASURED}
    kept["line"] = number
    kept["translation"] = " ".join(record["translation"].split("\n"))
    if "log_probs" in kept and "token_confidence" not in kept:
        kept["token_confidence"] = [math.exp(min(0.0, value)) for value in kept["log_probs"]]
    if kept.get("token_confidence") and "confidence" not in kept:
        kept["confidence"] = sum(kept["token_confidence"]) / len(kept["token_confidence"])
    return kept


def _problems(record: Record) -> Iterator[str]:
    """What is wrong with a record, field by field."""
    tokens: Any = record.get("tokens")
    for name in ("translation", "source"):
        if not isinstance(record.get(name), str) and (name == "translation" or record.get(name) is not None):
            yield f"{name} {f'is {record[name]!r}' if name in record else 'is missing'}; it must be a text"
    for name in ("tokens", "reference_tokens"):
        if record.get(name) is not None and not _is_list(record[name], lambda each: isinstance(each, str)):
            yield f"{name} must be a list of texts"
    for name, low, high, limits in (
        ("log_probs", -math.inf, _LARGEST_LOG_PROB, "at most 0"),
        ("token_confidence", 0.0, 1.0, "from 0 to 1"),
    ):
        values = record.get(name)
        if values is None:
            continue
        if not isinstance(values, list):
            yield f"{name} must be a list of numbers"
        if tokens is None:
            yield f"{name} without tokens; give the tokens it belongs to"
        if len(values) != len(tokens):
            yield f"{name} has {len(values)} entries for {len(tokens)} tokens; one each"
        yield from (
            f"{name} holds {value!r}; it must hold numbers {limits}"
            for value in values
            if not _is_number(value, low, high)
        )
    alternatives = record.get("alternatives")
    if alternatives is not None:
        if not isinstance(alternatives, list) or len(alternatives) != len(tokens or []):
            yield f"alternatives must be a list, one entry for each of the {len(tokens or [])} tokens"
        for value in alternatives:
            if not _is_list(value, _is_alternative):
                yield f"alternatives holds {value!r}; it must hold lists of [token, log-probability]"
    outputs = record.get("nbest") or []
    if not isinstance(outputs, list):
        yield f"nbest is {outputs!r}; it must be a list"
    for output in outputs:
        log_probs = output.get("log_probs") or [] if isinstance(output, dict) else []
        if not _is_list(log_probs, lambda each: _is_number(each, -_LARGEST, _LARGEST_LOG_PROB)):
            yield f"nbest holds log_probs {log_probs!r}; they must be numbers at most 0"
    for name, low, high, limits in (("score", -_LARGEST, _LARGEST, ""), ("confidence", 0.0, 1.0, " from 0 to 1")):
        if record.get(name) is not None and not _is_number(record[name], low, high):
            yield f"{name} is {record[name]!r}; it must be a number{limits}"


def _is_list(value: object, is_entry: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(is_entry(each) for each in value)


def _is_alternative(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and _is_number(value[1], -math.inf, _LARGEST_LOG_PROB)
    )


def _is_number(value: object, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
