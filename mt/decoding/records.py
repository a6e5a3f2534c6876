"""Translation records: what one line of input comes to, for programs and for JSON lines."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from mt.corpus.tokenizer import Tokenizer
from mt.decoding.types import Hypothesis

# Whatever some program takes for the end of a line; byte pieces can spell any of them.
_LINE_BREAKS = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_NOTHING = Hypothesis([], np.zeros(0), 0.0, 0.0)  # the output of a blank line


def translation_output(hypotheses: Sequence[Hypothesis], tokenizer: Tokenizer, nbest: int = 1) -> dict[str, Any]:
    """What a line's record says of its translation; the rest of the record is its "line" and its "source".

    Args:
        hypotheses: outputs, best first; none for a blank line.
        tokenizer: turns ids to text.
        nbest: above 1, all outputs of different text are listed under "nbest", the best first.

    Returns:
        translation, score, confidence, tokens, log_probs, token_confidence, and nbest if asked for. A blank line
        has the translation "", empty lists, score 0 and confidence 1. Numbers keep seven significant digits.
    """
    outputs = [_output(hypothesis, tokenizer) for hypothesis in hypotheses or [_NOTHING]]
    if nbest == 1:
        return outputs[0]
    by_text: dict[str, dict[str, Any]] = {}
    for output in outputs:  # the same text by other pieces is no second translation
        by_text.setdefault(output["translation"], output)
    return {**outputs[0], "nbest": list(by_text.values())}


def _output(hypothesis: Hypothesis, tokenizer: Tokenizer) -> dict[str, Any]:
    # The parts of a line that was too long, each with its end, are texts of their own.
    runs = groupby(hypothesis.tokens, lambda token: token == tokenizer.end_id)
    text = " ".join(tokenizer.decode_target(list(tokens)) for end, tokens in runs if not end)
    return {
        "translation": _LINE_BREAKS.sub(" ", text),
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


def json_line(record: dict[str, Any]) -> str:
    """The record as one line of JSON, whatever a reader takes for a line break; without the final line feed."""
    text = json.dumps(record, ensure_ascii=False)
    return _LINE_BREAKS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def shortened(value: float) -> float:
    """Seven significant digits: all that float32 holds."""
    return float(f"{value:.7g}")
