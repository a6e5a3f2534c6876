"""The translations of a page, as data for its script: short names, because there are thousands."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

Record = dict[str, Any]
END = "</s>"
SPACE = "\u2581"
UNITS = 10_000
"""probabilities are whole numbers of ten-thousandths"""


def payload(names: Sequence[str], systems: Sequence[Sequence[Record]], room: int, threshold: float | None) -> Any:
    """What the script of a page gets.

    Args:
        names: of the systems.
        systems: the records of each, line by line for the same sources.
        room: bytes that the text of it may take. What does not fit stays out: first the alternatives of the tokens,
            then the most confident translations.
        threshold: confidence below which a line is flagged at first; None: not known.

    Returns:
        `systems`: names; `threshold`; `total`: number of translations; `vocabulary`: texts of tokens; `rows`, each
        with `n` line from 1, `s` source, `r` references and `o`, one output a system: `c` confidence and `q`, `b`
        sentence chrF and BLEU or null, `f` 1 where the record is flagged, and either `t` tokens as indices into
        the vocabulary, `p` their confidences, `u` the model's own probabilities where they differ, `w` a digit
        each ("1" right, "0" wrong), `a` for each a flat list of alternatives (index, probability, index ...), or,
        where the tokens do not spell it, `h` the translation.
    """
    for with_alternatives in (True, False):
        vocabulary: dict[str, int] = {}
        rows = [_row(records, vocabulary, with_alternatives) for records in zip(*systems)]
        words = list(vocabulary)
        sizes = [len(script_json(row).encode("utf-8", "replace")) + 1 for row in rows]
        free = room - len(script_json(words).encode("utf-8", "replace"))
        if sum(sizes) <= free:
            break
    kept = _least_confident(rows, sizes, free)
    return {"systems": list(names), "threshold": threshold, "total": len(rows), "vocabulary": words, "rows": kept}


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


def _row(records: Sequence[Record], vocabulary: dict[str, int], with_alternatives: bool) -> Record:
    first = records[0]
    return {
        "n": first["line"] + 1,
        "s": first.get("source") or "",
        "r": first.get("references") or [first.get("reference", "")],
        "o": [_output(record, vocabulary, with_alternatives) for record in records],
    }


def _output(record: Record, vocabulary: dict[str, int], with_alternatives: bool) -> Record:
    output: Record = {"c": _units(record.get("confidence"))}
    for short, name in (("q", "chrf"), ("b", "bleu")):
        output[short] = None if record.get(name) is None else round(record[name], 1)
    if record.get("flagged"):
        output["f"] = 1
    tokens, confidences = record.get("tokens"), record.get("token_confidence")
    if not tokens or not confidences:
        return output | {"h": record["translation"]}
    output["t"] = [vocabulary.setdefault(token, len(vocabulary)) for token in tokens]
    output["p"] = [_units(confidence) for confidence in confidences]
    own = [_units(math.exp(min(0.0, log_prob))) for log_prob in record.get("log_probs") or []]
    if len(own) == len(tokens) and any(abs((a or 0) - (b or 0)) > 20 for a, b in zip(own, output["p"])):
        output["u"] = own
    output["w"] = "".join("01"[bool(label)] for label in record.get("correct") or [])
    if with_alternatives and record.get("alternatives"):
        output["a"] = [_alternatives(token, each, vocabulary) for token, each in zip(tokens, record["alternatives"])]
    if spelled(tokens) != record["translation"]:
        output["h"] = record["translation"]
    return output


def _alternatives(token: str, alternatives: Sequence[tuple[str, float]], vocabulary: dict[str, int]) -> list[int]:
    """(token, log-probability) pairs as a flat list, without the chosen token itself."""
    flat = []
    for text, log_prob in alternatives:
        if text != token:
            flat += [vocabulary.setdefault(text, len(vocabulary)), _units(math.exp(min(0.0, log_prob))) or 0]
    return flat


def _units(probability: float | None) -> int | None:
    return None if probability is None else round(UNITS * probability)


def _least_confident(rows: list[Record], sizes: list[int], room: int) -> list[Record]:
    """The rows that fit, the least confident first, in their old order."""

    def doubt(index: int) -> tuple[bool, int]:
        known = [output["c"] for output in rows[index]["o"] if output["c"] is not None]
        return not known, min(known, default=0)

    kept = []
    for index in sorted(range(len(rows)), key=doubt):
        room -= sizes[index]
        if room < 0:
            break
        kept.append(index)
    return [rows[index] for index in sorted(kept)]
