"""The translations of a page, as data for its script: short names, because there are thousands."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain, count, groupby
from operator import itemgetter
from typing import Any

import numpy as np

from mt.metrics.labels import END, SPACE
from mt.metrics.quality import Record, references_of

_UNITS = 10_000  # probabilities are whole numbers of ten-thousandths


def translations_data(
    names: Sequence[str], systems: Sequence[Sequence[Record]], room: int, by: str, threshold: float | None
) -> dict[str, Any]:
    """What the script of a page gets: translations of the same sources by each system. What does not fit in `room`, the
    bytes that its text may take, stays out: first the alternatives of the tokens, then the most confident translations,
    or, of several systems, those whose chrF differs least.

    Returns `systems`: names; `by`, `threshold`: confidence or quality below which a line is flagged at first, None: not
    known; `total`: number of translations; `vocabulary`: texts of tokens; `rows`, each with `n` line from 1, `s`
    source, `r` references and `o`, one output a system: `c` confidence, `q`, `b` sentence chrF and BLEU, `e` expected
    chrF, each or null, `i` the interval of the latter, `f` 1 where the record is flagged, `j` for each other judge its
    name, its score and, where it found errors, the parts of the translation with their severities, and either `t`
    tokens as indices into the vocabulary, `p` their confidences, `u` the model's own probabilities where they differ,
    `w` a digit each ("1" right, "0" wrong, "?" not known) and `l` 1 where people said so, `a` for each a flat list of
    alternatives (index, probability, index ...), or, where the tokens do not spell it, `h` the translation.
    """
    for with_alternatives in (True, False):
        vocabulary: dict[str, int] = defaultdict(count().__next__)
        rows = []
        for records in zip(*systems):
            line = {"n": records[0]["line"] + 1, "s": records[0].get("source") or "", "r": references_of(records[0])}
            rows.append(line | {"o": [_output(record, vocabulary, with_alternatives) for record in records]})
        words = list(vocabulary)
        sizes = [len(script_json(row).encode("utf-8", "replace")) + 1 for row in rows]
        free = room - len(script_json(words).encode("utf-8", "replace"))
        if sum(sizes) <= free:
            break
    kept = _most_telling(rows, sizes, free)
    known = {"systems": list(names), "by": by, "threshold": threshold, "total": len(rows)}
    return known | {"vocabulary": words, "rows": kept}


def script_json(value: Any) -> str:
    """JSON that is safe inside a script element: text cannot end the element nor the line."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def spelled(tokens: Sequence[str]) -> str:
    """The text that tokens spell, as the script spells it: U+2581 stands for a space, or each is a word."""
    inner = [token for token in tokens if token != END]
    if any(SPACE in token for token in inner):
        return "".join(inner).replace(SPACE, " ").strip()
    return " ".join(inner)


def _output(record: Record, vocabulary: Mapping[str, int], with_alternatives: bool) -> Record:
    output: Record = {"c": _units(record.get("confidence"))}
    for short, name in (("q", "chrf"), ("b", "bleu"), ("e", "quality")):
        output[short] = None if record.get(name) is None else round(record[name], 1)
    if record.get("quality_low") is not None:
        output["i"] = [round(record["quality_low"]), round(record["quality_high"])]
    if record.get("flagged"):
        output["f"] = 1
    if record.get("judged"):
        output["j"] = [(name, *_judged(record["translation"], each)) for name, each in record["judged"].items()]
    tokens, confidences = record.get("tokens"), record.get("token_confidence")
    if not tokens or not confidences:
        return output | {"h": record["translation"]}
    output["t"] = [vocabulary[token] for token in tokens]
    output["p"] = [_units(confidence) for confidence in confidences]
    own = [_units(math.exp(min(0.0, log_prob))) for log_prob in record.get("log_probs") or []]
    if len(own) == len(tokens) and any(abs((a or 0) - (b or 0)) > 20 for a, b in zip(own, output["p"])):
        output["u"] = own
    output["w"] = "".join("?" if label is None else "01"[label] for label in record.get("correct") or [])
    if record.get("labels") == "people":
        output["l"] = 1
    if with_alternatives and record.get("alternatives"):
        output["a"] = []
        for token, alternatives in zip(tokens, record["alternatives"]):
            others = [(each["token"], each["log_prob"]) for each in alternatives if each["token"] != token]
            flat = [(vocabulary[text], _units(math.exp(min(0.0, log_prob)))) for text, log_prob in others]
            output["a"].append(list(chain(*flat)))
    if spelled(tokens) != record["translation"]:
        output["h"] = record["translation"]
    return output


def _judged(translation: str, judged: Mapping[str, Any]) -> tuple[float, list[tuple[str, str]]]:
    """The score of another judge, and the translation in parts, each with the severity of the error that it is in, or
    ""; no parts without errors. COMET's places are those of the line without the space around it."""
    text = translation.strip()
    severity_of = [""] * len(text)
    for error in judged["errors"]:
        for place in range(error["start"], min(error["end"], len(text))):
            severity_of[place] = error.get("severity") or "error"
    runs = groupby(zip(severity_of, text), itemgetter(0))
    parts = [("".join(character for _, character in run), severity) for severity, run in runs]
    return round(judged["score"], 4), parts if judged["errors"] else []


def _units(probability: float | None) -> int | None:
    return None if probability is None else round(_UNITS * probability)


def _most_telling(rows: list[Record], sizes: list[int], room: int) -> list[Record]:
    """The rows that fit, in their old order: of one system the least confident, of several those that differ most."""

    def rank(index: int) -> tuple[bool, float]:
        outputs = rows[index]["o"]
        known = [output["q" if len(outputs) > 1 else "c"] for output in outputs]
        known = [figure for figure in known if figure is not None]
        return not known, min(known, default=0) - (max(known, default=0) if len(outputs) > 1 else 0)

    order = sorted(range(len(rows)), key=rank)
    total = np.cumsum([sizes[index] for index in order])
    return [rows[index] for index in sorted(order[: np.searchsorted(total, room, side="right")])]
