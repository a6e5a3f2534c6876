"""Translation records of any system: read, checked line by line, and made fit for evaluation."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mt.errors import UserError

Record = dict[str, Any]

MEASURED = ("correct", "correct_words", "correct_in_order", "raw_confidence", "source_length", "chrf", "bleu", "ter")
"""fields that an evaluation adds: an earlier one's are dropped"""
_LARGEST = 1e300


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
        UserError: no such file, no line, or a line that is not a record; names the line and the field.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; --records wants a file of translation records") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8; convert the file") from None
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise UserError(f"{path}: is empty; --records wants one JSON object a line")
    return [_checked(line, number, f"{path}, line {number + 1}") for number, line in enumerate(lines)]


def _checked(line: str, number: int, place: str) -> Record:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UserError(f"{place}: not JSON ({error}); a record is one JSON object on one line") from None
    if not isinstance(record, dict):
        raise UserError(f'{place}: not a JSON object; a record looks like {{"translation": "..."}}')
    if record.get("line", number) != number:
        raise UserError(f"{place}: line is {record['line']!r}, expected {number}; records stand in order, from 0")
    _check_text(record, "translation", place, required=True)
    _check_text(record, "source", place)
    _check_tokens(record, place)
    for name, low, high in (("log_probs", -math.inf, 1e-4), ("token_confidence", 0.0, 1.0)):
        _check_numbers(record, name, low, high, place)
    _check_alternatives(record, place)
    _check_nbest(record, place)
    if record.get("score") is not None and not _is_number(record["score"], -_LARGEST, _LARGEST):
        raise UserError(f"{place}: score is {record['score']!r}; it must be a number")
    kept = {name: value for name, value in record.items() if value is not None and name not in MEASURED}
    kept["line"] = number
    kept["translation"] = " ".join(record["translation"].split("\n"))
    if "log_probs" in kept and "token_confidence" not in kept:
        kept["token_confidence"] = [math.exp(min(0.0, value)) for value in kept["log_probs"]]
    if "confidence" in kept and not _is_number(kept["confidence"], 0.0, 1.0):
        raise UserError(f"{place}: confidence is {kept['confidence']!r}; it must be a number from 0 to 1")
    if kept.get("token_confidence") and "confidence" not in kept:
        kept["confidence"] = sum(kept["token_confidence"]) / len(kept["token_confidence"])
    return kept


def _check_text(record: Mapping[str, Any], name: str, place: str, required: bool = False) -> None:
    value = record.get(name)
    if value is None and not required:
        return
    if not isinstance(value, str):
        state = f"is {value!r}" if name in record else "is missing"
        raise UserError(f"{place}: {name} {state}; it must be a text")


def _check_tokens(record: Mapping[str, Any], place: str) -> None:
    for name in ("tokens", "reference_tokens"):
        value = record.get(name)
        if value is not None and not (isinstance(value, list) and all(isinstance(each, str) for each in value)):
            raise UserError(f"{place}: {name} must be a list of texts")


def _check_numbers(record: Mapping[str, Any], name: str, low: float, high: float, place: str) -> None:
    values = record.get(name)
    if values is None:
        return
    if not isinstance(values, list):
        raise UserError(f"{place}: {name} must be a list of numbers")
    if record.get("tokens") is None:
        raise UserError(f"{place}: {name} without tokens; give the tokens it belongs to")
    if len(values) != len(record["tokens"]):
        raise UserError(f"{place}: {name} has {len(values)} entries for {len(record['tokens'])} tokens; one each")
    for value in values:
        if not _is_number(value, low, high):
            limits = "at most 0" if low == -math.inf else f"from {low:g} to {high:g}"
            raise UserError(f"{place}: {name} holds {value!r}; it must hold numbers {limits}")


def _check_alternatives(record: Mapping[str, Any], place: str) -> None:
    values, tokens = record.get("alternatives"), record.get("tokens") or []
    if values is None:
        return
    if not isinstance(values, list) or len(values) != len(tokens):
        raise UserError(f"{place}: alternatives must be a list, one entry for each of the {len(tokens)} tokens")
    for value in values:
        good = isinstance(value, list) and all(
            isinstance(pair, list)
            and len(pair) == 2
            and isinstance(pair[0], str)
            and _is_number(pair[1], -math.inf, 1e-4)
            for pair in value
        )
        if not good:
            raise UserError(f"{place}: alternatives holds {value!r}; it must hold lists of [token, log-probability]")


def _check_nbest(record: Mapping[str, Any], place: str) -> None:
    outputs = record.get("nbest") or []
    if not isinstance(outputs, list):
        raise UserError(f"{place}: nbest is {outputs!r}; it must be a list")
    for output in outputs:
        log_probs = output.get("log_probs") or [] if isinstance(output, dict) else []
        if not isinstance(log_probs, list) or not all(_is_number(each, -_LARGEST, 1e-4) for each in log_probs):
            raise UserError(f"{place}: nbest holds log_probs {log_probs!r}; they must be numbers at most 0")


def _is_number(value: object, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
