"""How true the probabilities of single tokens are: with the reference as prefix, and in the system's own output.

The end of a sentence is a token like any other; its figures are also given apart, because it is often the worst
calibrated of all (Kumar and Sarawagi 2019, arXiv:1903.00802). Apart means: by what was predicted, not by what the
reference has there, so that a well calibrated model looks well calibrated in each part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mt.calibration.bins import CalibrationBins
from mt.calibration.labels import token_labels
from mt.decoding.scoring import score_pairs
from mt.evaluation.records import Record
from mt.model.directory import LoadedModel

Floats = NDArray[np.floating[Any]]
Flags = NDArray[np.bool_]

END = "</s>"
SPACE = "\u2581"
"""what SentencePiece puts in front of a token that follows a space"""
WINDOW = 4000
"""pairs whose ids exist at a time"""
SMALLEST = 1e-12
"""probabilities are kept this far from 0 and 1 in the logarithm of a right-or-wrong label"""


class SplitBins:
    """Calibration of all tokens, of those that end a sentence, and of the others.

    bins, edges, level, split: as in CalibrationBins.
    """

    def __init__(self, *, bins: int, edges: str, split: str, level: str = "subword") -> None:
        self.whole, self.without_eos, self.eos = (
            CalibrationBins(bins=bins, edges=edges, level=level, eos=eos, split=split) for eos in ("yes", "no", "only")
        )

    def update(self, confidence: Floats, correct: Flags, end: Flags, *, nll: Floats, brier: Floats) -> None:
        """Counts tokens: arrays of one entry each; `end` is true where the end of the sentence was predicted."""
        for part, chosen in ((self.without_eos, ~end), (self.eos, end)):
            part.update(confidence[chosen], correct[chosen], nll=nll[chosen], brier=brier[chosen])
        self.whole.update(confidence, correct, nll=nll, brier=brier)

    def merge(self, other: SplitBins) -> None:
        """Adds what was counted of another part of the text, by another process say."""
        for part, added in ((self.whole, other.whole), (self.without_eos, other.without_eos), (self.eos, other.eos)):
            part.merge(added)

    def result(self) -> dict[str, Any]:
        """The calibration block of results.json: the figures of all tokens, and `without_eos` and `eos` apart."""
        return {**self.whole.result(), "without_eos": self.without_eos.result(), "eos": self.eos.result()}


def teacher_forced(loaded: LoadedModel, sources: Sequence[str], targets: Sequence[str]) -> dict[str, Any]:
    """The calibration block of the likeliest token after each prefix of the reference, see `teacher_forced_bins`."""
    return teacher_forced_bins(loaded, sources, targets).result()


def teacher_forced_bins(loaded: LoadedModel, sources: Sequence[str], targets: Sequence[str]) -> SplitBins:
    """Calibration of the likeliest token after each prefix of the reference; 15 bins (l, r].

    Args:
        loaded: the model, in evaluation mode.
        sources: source lines; blank ones, which never reach the model, are left out, and longer ones than
            decode.max_length are cut, as in translation.
        targets: their references, as many.

    Returns:
        Bins that can be merged: correct is argmax = reference token; NLL (nats) of the reference token and Brier
        score over the whole vocabulary, halved to lie in 0..1.
    """
    counted = SplitBins(bins=15, edges="(l,r]", split="teacher_forced")
    tokenizer, longest = loaded.tokenizer, loaded.config.decode.max_length
    pairs = [(source, target) for source, target in zip(sources, targets) if source.strip()]
    for first in range(0, len(pairs), WINDOW):
        window = pairs[first : first + WINDOW]
        source_ids = [
            ids if len(ids) <= longest else [*ids[: longest - 1], tokenizer.end_id]
            for ids in tokenizer.encode_source([source for source, _ in window])
        ]
        target_ids = tokenizer.encode_target([target for _, target in window])
        for scored in score_pairs(loaded, source_ids, target_ids):
            brier = (1 - 2 * np.exp(scored.log_probs, dtype=np.float64) + scored.squares) / 2
            end = scored.predicted == tokenizer.end_id
            counted.update(scored.confidence, scored.correct, end, nll=-scored.log_probs, brier=brier)
    return counted


def inference(records: Iterable[Record], *, level: str = "subword") -> dict[str, Any] | None:
    """Calibration of the tokens that a system put out (Wang et al. 2020, arXiv:2005.00963); 20 bins [l, r).

    Args:
        records: with `token_confidence` and `correct`, as `label` leaves them.
        level: what was aligned, for the signature.

    Returns:
        The calibration block, NLL (nats) and Brier score (0..1) of the right-or-wrong label; None where no record
        has token probabilities.
    """
    counted = SplitBins(bins=20, edges="[l,r)", split="inference", level=level)
    any_tokens = False
    for record in records:
        if not record.get("token_confidence"):
            continue
        any_tokens = True
        confidence = np.asarray(record["token_confidence"], dtype=np.float64)
        correct = np.asarray(record["correct"], dtype=bool)
        right = np.clip(np.where(correct, confidence, 1 - confidence), SMALLEST, 1)
        end = np.array([token == END for token in record["tokens"]])
        counted.update(confidence, correct, end, nll=-np.log(right), brier=(confidence - correct) ** 2)
    return counted.result() if any_tokens else None


def label(records: Iterable[Record], reference_tokens: Iterable[Sequence[str]]) -> None:
    """Adds `correct` to each record with tokens: one bool per token, by alignment with the reference's tokens.

    Both sides are aligned with their end of sentence, which is appended to the reference where it has none.
    """
    for record, tokens in zip(records, reference_tokens):
        if record.get("tokens"):
            record["correct"] = list(token_labels(record["tokens"], _ended(tokens)))


def label_by_words(records: Iterable[Record], references: Iterable[str]) -> None:
    """Adds `correct` where only the reference's text is known: words are aligned, a token is as right as its word.

    Tokens form words by SentencePiece's mark of a space, or by a trailing "@@" of subword-nmt; else each is a word.
    """
    for record, reference in zip(records, references):
        if not record.get("tokens"):
            continue
        words, word_of_token = _words(record["tokens"])
        labels = token_labels(words, _ended(reference.split()))
        record["correct"] = [labels[word] for word in word_of_token]


def _ended(tokens: Sequence[str]) -> list[str]:
    return [*tokens] if tokens and tokens[-1] == END else [*tokens, END]


def _words(tokens: Sequence[str]) -> tuple[list[str], list[int]]:
    """Words of the output, and for each token the index of its word."""
    marked = any(token.startswith(SPACE) for token in tokens)
    words: list[str] = []
    word_of_token = []
    joined = False
    for token in tokens:
        starts = token == END or (token.startswith(SPACE) if marked else not joined)
        if starts or not words or words[-1] == END:
            words.append("")
        joined = not marked and token.endswith("@@")
        words[-1] += token.removesuffix("@@") if joined else token.removeprefix(SPACE)
        word_of_token.append(len(words) - 1)
    return words, word_of_token
