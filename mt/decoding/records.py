"""Translation records: what one line of input comes to, for programs and for JSON lines."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np

from mt.corpus.tokenizer import Tokenizer
from mt.decoding.types import Hypothesis
from mt.metrics.labels import END, characters_of_tokens
from mt.progress import LineNotes

# Languages written without spaces between words: parts of a line are joined as they are.
_UNSPACED = r"(zho?|cmn|yue|wuu|lzh|ja|jpn|tha?|lo|lao|km|khm|mya?|bod?|dzo?)([-_]|$)"

# Whatever some program takes for the end of a line; byte pieces can spell any of them.
_LINE_BREAKS = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_NOTHING = Hypothesis([], np.zeros(0), 0.0, 0.0)  # the output of a blank line


def translation_output(
    hypotheses: Sequence[Hypothesis],
    tokenizer: Tokenizer,
    nbest: int = 1,
    *,
    separator: str = " ",
    prefix: tuple[str, int] = ("", 0),
) -> dict[str, Any]:
    """What a line's record says of its translation; the rest of the record is its "line" and its "source".

    Args:
        hypotheses: outputs, best first; none for a blank line.
        nbest: above 1, all outputs of different text are listed under "nbest", the best first.
        separator: what stands between the parts of a line that was too long.
        prefix: the text that the outputs begin with, as it was given, and how many of their tokens stand for it.

    Returns:
        translation, score, confidence, tokens, log_probs, token_confidence, and nbest if asked for. A blank line
        has the translation "", empty lists, score 0 and confidence 1. Numbers keep seven significant digits.
    """
    outputs = [_output(hypothesis, tokenizer, separator, *prefix) for hypothesis in hypotheses or [_NOTHING]]
    if nbest == 1:
        return outputs[0]
    by_text: dict[str, dict[str, Any]] = {}
    for output in outputs:  # the same text by other pieces is no second translation
        by_text.setdefault(output["translation"], output)
    return {**outputs[0], "nbest": list(by_text.values())}


def separator_of(language: str) -> str:
    """What stands between two sentences of a language, by its code: a space, or nothing."""
    return "" if re.match(_UNSPACED, language.lower()) else " "


def one_line(text: str) -> str:
    """The text with a space for whatever some program takes for the end of a line."""
    return _LINE_BREAKS.sub(" ", text)


def _output(hypothesis: Hypothesis, tokenizer: Tokenizer, separator: str, prefix: str, forced: int) -> dict[str, Any]:
    # The parts of a line that was too long, each with its end, are texts of their own.
    rest = hypothesis.tokens[forced:]
    runs = groupby(rest, lambda token: token == tokenizer.end_id)
    texts = [tokenizer.decode_target(list(tokens)) for end, tokens in runs if not end]
    if prefix and rest:  # spelled as it was given: pieces may not know its characters
        goes_on = rest[0] != tokenizer.end_id
        space = " " * tokenizer.target_pieces(rest[:1])[0].startswith("▁")
        texts[:goes_on] = [prefix + space + texts[0] if goes_on else prefix]
    return {
        "translation": one_line(separator.join(texts)),
        "score": shortened(hypothesis.score),
        **token_fields(tokenizer.target_pieces(hypothesis.tokens), hypothesis.log_probs, hypothesis.confidence),
    }


def token_fields(pieces: list[str], log_probs: np.ndarray, recalibrated: np.ndarray | None = None) -> dict[str, Any]:
    """What goes token by token, and the mean confidence, 1 without tokens."""
    confidence = np.exp(log_probs, dtype=np.float64) if recalibrated is None else recalibrated
    return {
        "confidence": shortened(float(confidence.mean())) if len(confidence) else 1.0,
        "tokens": pieces,
        "log_probs": [shortened(value) for value in log_probs.tolist()],
        "token_confidence": [shortened(value) for value in confidence.tolist()],
    }


class Remarks:
    """Lines of a text that are too long, or hold characters that the model has never seen: counted, and told of."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer, self.overlong, self.unknown = tokenizer, LineNotes(), LineNotes()

    def add(self, record: dict[str, Any]) -> None:
        """Counts what a record of `translate` or `score_lines` says of its line."""
        if record["overlong"]:
            self.overlong.add(record["line"])
        if record["unknown"] or record.get("target_unknown"):
            self.unknown.add(record["line"], partial(self._unknown, record["source"], record.get("target", "")))

    def warn(self, done: str, longest: int) -> None:
        """One line of each kind, if there are any; `done`: what became of lines of more than `longest` tokens."""
        self.overlong.warn(f"lines {done} because they are longer than {longest} tokens (decode.max_length)")
        self.unknown.warn("lines with characters that the model has never seen")

    def _unknown(self, source: str, target: str, most: int = 5) -> str:
        """The first few such characters, escaped, in brackets."""
        encoders, unknown_id = (self.tokenizer.encode_source, self.tokenizer.encode_target), self.tokenizer.unknown_id
        sides = zip(encoders, map(dict.fromkeys, (source, target)))
        found = [each for encode, text in sides for each in text if unknown_id in encode([each])[0]]
        escaped = [each.encode("unicode_escape").decode() for each in found[:most]] + ["..."] * (len(found) > most)
        return f" ({', '.join(escaped)})" if found else ""


def json_line(record: dict[str, Any]) -> str:
    """The record as one line of JSON, whatever a reader takes for a line break; without the final line feed."""
    text = json.dumps(record, ensure_ascii=False)
    return _LINE_BREAKS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def tagged_line(record: dict[str, Any], bad_below: float) -> str:
    """By tabs: the translation, its confidence, and a tag for each of its words and one for its end, by spaces: BAD
    where the confidence in one of its tokens is below `bad_below`, else OK."""
    text, tokens = record["translation"], record["tokens"]
    doubted = [confidence < bad_below for confidence in record["token_confidence"]]
    places = characters_of_tokens(tokens, text) or [[*range(len(text))] for _ in tokens]  # or all doubt all
    bad = {place for of_token, doubt in zip(places, doubted) if doubt for place in of_token}
    wrong = [not bad.isdisjoint(range(*word.span())) for word in re.finditer(r"\S+", text)]
    wrong.append(bool(tokens) and tokens[-1] == END and doubted[-1])
    return "\t".join(
        [" ".join(text.split("\t")), str(record["confidence"]), " ".join("BAD" if each else "OK" for each in wrong)]
    )


def shortened(value: float) -> float:
    """Seven significant digits: all that float32 holds."""
    return float(f"{value:.7g}")
