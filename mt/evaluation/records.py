"""Translation records of any system: read, checked line by line, and made fit for evaluation."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from msgspec import Meta, Struct

from mt.errors import UserError
from mt.files.json_file import parse_json
from mt.files.lines import read_lines
from mt.metrics.bins import Probability

Record = dict[str, Any]

_LARGEST = 1e300  # sums stay finite
_Number: TypeAlias = Annotated[float, Meta(ge=-_LARGEST, le=_LARGEST)]
_LogProb: TypeAlias = Annotated[float, Meta(ge=-_LARGEST, le=1e-4)]  # rounding may lift a certain token above 0
_WANTED = 'a record is one JSON object on one line, such as {"translation": "..."}'

# What an evaluation adds: an earlier one's are dropped. The second line was written by earlier versions only.
_MEASURED = ["correct", "chrf", "bleu", "ter", "teacher_forced", "recalibrated_teacher_forced"]
_MEASURED += ["correct_words", "correct_in_order", "raw_confidence", "source_length", "judged", "labels"]


class _Alternative(Struct):
    token: str
    log_prob: _LogProb


class _Output(Struct, kw_only=True):
    """What is checked of an output, whatever else it holds. None is as good as not there."""

    translation: str | None = None
    score: _Number | None = None
    confidence: Probability | None = None
    tokens: list[str] | None = None
    log_probs: list[_LogProb] | None = None
    token_confidence: list[Probability] | None = None
    alternatives: list[list[_Alternative | tuple[str, _LogProb]]] | None = None  # earlier versions wrote pairs

    def __post_init__(self) -> None:
        tokens = len(self.tokens or [])
        for name in ("log_probs", "token_confidence", "alternatives", "correct"):
            entries = getattr(self, name, None)
            if entries is not None and len(entries) != tokens:
                raise ValueError(f"{name} has {len(entries)} entries for {tokens} tokens; one each")


class _Given(_Output, kw_only=True):
    """What a system says of a line."""

    translation: str
    line: int | None = None
    source: str | None = None
    reference_tokens: list[str] | None = None
    nbest: list[_Output] | None = None


class _Sums(Struct):  # see mt.metrics.bins.sentence_sums
    tokens: Annotated[int, Meta(ge=1)]
    nll: _Number
    gaps: Annotated[list[_Number], Meta(min_length=15, max_length=15)]


class _JudgedError(Struct):
    start: int
    end: int
    severity: str = ""


class _Judged(Struct):
    score: _Number
    errors: list[_JudgedError]


class _Measured(_Given, kw_only=True):
    """What an evaluation says of a line."""

    line: int
    reference: str | None = None
    references: list[str] | None = None
    correct: list[bool | None] | None = None
    judged: dict[str, _Judged] | None = None
    chrf: _Number | None = None
    bleu: _Number | None = None
    ter: _Number | None = None
    teacher_forced: _Sums | None = None
    recalibrated_teacher_forced: _Sums | None = None


def read_records(path: Path) -> list[Record]:
    """Reads a file of translation records, one JSON object a line: `line`, from 0, and `confidence` are filled in.

    A record needs `translation`. With `tokens` it may bring `log_probs` (natural logarithms) and `token_confidence`,
    both as long as `tokens`; without the latter it is `exp(log_probs)`. `source`, `confidence`, `score`,
    `reference_tokens` (the first reference in the system's own tokens) and `alternatives` (for each token a list of
    {"token", "log_prob"}) may be there. Raises UserError as mt.files.lines.read_lines, where there is no line, or for
    one that is not a record; names the line and the field.
    """
    records = []
    for record in _checked_lines(path, _Given, _WANTED):
        kept = {name: value for name, value in record.items() if name not in _MEASURED}
        kept["translation"] = " ".join(record["translation"].split("\n"))  # hypotheses.txt: a line each
        if "log_probs" in kept and "token_confidence" not in kept:
            kept["token_confidence"] = [math.exp(min(0.0, value)) for value in kept["log_probs"]]
        if kept.get("token_confidence") and "confidence" not in kept:
            kept["confidence"] = sum(kept["token_confidence"]) / len(kept["token_confidence"])
        records.append(kept)
    return records


def read_measured_records(path: Path, remedy: str) -> list[Record]:
    """The `records.jsonl` of an evaluation, as it is. Raises UserError as `read_records`; `remedy`: what it advises."""
    return _checked_lines(path, _Measured, remedy)


def well_formed(text: str) -> str:
    """Lone surrogates, which JSON can spell but UTF-8 cannot, become U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _checked_lines(path: Path, kind: type[_Given], remedy: str) -> list[Record]:
    records: list[Record] = []
    for number, line in enumerate(read_lines([path])):
        place = f"{path}, line {number + 1}"
        if "\\ud" in line.lower():  # no other reader of JSON takes a lone surrogate
            with suppress(ValueError, RecursionError):  # told below
                line = well_formed(json.dumps(json.loads(line), ensure_ascii=False))
        parse_json(line, kind, place, remedy)
        record = {name: value for name, value in parse_json(line, Record, place, remedy).items() if value is not None}
        if record.setdefault("line", number) != number:
            raise UserError(f"{place}: line is {record['line']}, expected {number}; records stand in order, from 0")
        for others in record.get("alternatives", ()):
            others[:] = [each if isinstance(each, dict) else dict(zip(("token", "log_prob"), each)) for each in others]
        records.append(record)
    if not records:
        raise UserError(f"{path}: is empty; it must hold one JSON object a line")
    return records
