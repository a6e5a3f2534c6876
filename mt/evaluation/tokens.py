"""How true the probabilities of single tokens are: with the reference as prefix, and in the system's own output.

The end of a sentence is a token like any other; its figures are also given apart, because it is often the worst
calibrated of all (Kumar and Sarawagi 2019, arXiv:1903.00802). Apart means: by what was predicted, not by what the
reference has there, so that a well calibrated model looks well calibrated in each part. The same holds for the
breakdown by frequency.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mt.decoding.grouping import cut_source
from mt.decoding.scoring import Transform, score_pairs
from mt.evaluation.records import Record
from mt.metrics import (
    FREQUENCY_BORDERS,
    POSITION_BORDERS,
    SOURCE_LENGTH_BORDERS,
    Breakdown,
    ClassMeasures,
    Measures,
    token_labels,
    word_confidence,
    words_of_tokens,
)
from mt.metrics.words import END
from mt.model.directory import LoadedModel

Floats = NDArray[np.floating[Any]]
Flags = NDArray[np.bool_]
Level = Literal["subword", "subword-labelled-by-word", "word-product", "word-minimum"]

WINDOW = 4000
"""pairs whose ids exist at a time"""
FREQUENT_TYPES = 100
"""so many of the references' most frequent types have a class-wise error"""
SMALLEST = 1e-12
"""probabilities are kept this far from 0 and 1 in the logarithm of a right-or-wrong label"""


class SplitBins:
    """Calibration of all tokens, of those that end a sentence, and of the others; parts may be merged.

    bins, edges, level, split, resamples, seed: as in Measures.
    """

    def __init__(
        self, *, bins: int, edges: str, split: str, level: str = "subword", resamples: int = 0, seed: int = 12345
    ) -> None:
        self.whole, self.without_eos, self.eos = (
            Measures(bins=bins, edges=edges, level=level, eos=eos, split=split, resamples=resamples, seed=seed)
            for eos in ("yes", "no", "only")
        )

    def update(
        self, confidence: Floats, correct: Flags, end: Flags, *, nll: Floats, brier: Floats, lines: Any = None
    ) -> None:
        """Counts tokens: arrays of one entry each; `end` is true where the end of the sentence was predicted, `lines`
        the number of each token's sentence (one number: of all)."""
        numbers = None if lines is None else np.broadcast_to(np.asarray(lines), confidence.shape)
        for part, chosen in ((self.without_eos, ~end), (self.eos, end)):
            those = None if numbers is None else numbers[chosen]
            part.update(confidence[chosen], correct[chosen], nll=nll[chosen], brier=brier[chosen], lines=those)
        self.whole.update(confidence, correct, nll=nll, brier=brier, lines=numbers)

    def merge(self, other: SplitBins) -> None:
        """Adds what was counted of another part of the text, by another process say."""
        for part, added in ((self.whole, other.whole), (self.without_eos, other.without_eos), (self.eos, other.eos)):
            part.merge(added)

    def result(self) -> dict[str, Any]:
        """The calibration block of results.json: the figures of all tokens, and `without_eos` and `eos` apart."""
        return {**self.whole.block(), "without_eos": self.without_eos.block(), "eos": self.eos.block()}


class Breakdowns:
    """Calibration by how frequent the predicted type is, by position, and by source length (in tokens)."""

    def __init__(self, frequency: Counter[int] | Counter[str], *, bins: int, edges: str) -> None:
        self.frequency = frequency
        self.groups = {
            name: Breakdown(borders, bins=bins, edges=edges, lowest=lowest)
            for name, borders, lowest in (
                ("frequency", FREQUENCY_BORDERS, 0),
                ("position", POSITION_BORDERS, 1),
                ("source_length", SOURCE_LENGTH_BORDERS, 1),
            )
        }

    def update(self, types: Iterable[Any], source_length: int | None, confidence: Floats, correct: Flags) -> None:
        """Counts the tokens of one sentence, in their order."""
        values = {
            "frequency": [self.frequency[each] for each in types],
            "position": range(1, len(confidence) + 1),
            "source_length": None if source_length is None else [source_length] * len(confidence),
        }
        for name, numbers in values.items():
            if numbers is not None:
                self.groups[name].update(np.array(numbers), confidence, correct)

    def result(self) -> dict[str, Any]:
        """The `breakdown` of a calibration block."""
        return {name: group.result() for name, group in self.groups.items()}


def teacher_forced(
    loaded: LoadedModel,
    sources: Sequence[str],
    targets: Sequence[str],
    *,
    transform: Transform | None = None,
    resamples: int = 0,
    seed: int = 12345,
) -> dict[str, Any]:
    """The calibration block of the likeliest token after each prefix of the reference.

    Args:
        loaded, sources, targets: as in `teacher_forced_bins`.
        transform: recalibrates the distributions first.
        resamples: of sentences, for the interval of the ECE. seed: of these.

    Returns:
        The block of `teacher_forced_bins`, with `weighted_ece`, `classwise_ece` over the FREQUENT_TYPES most frequent
        types of the targets, and a `breakdown`.
    """
    tokenizer = loaded.tokenizer
    counted = SplitBins(bins=15, edges="(l,r]", split="teacher_forced", resamples=resamples, seed=seed)
    source_ids, target_ids, lines = encoded_pairs(loaded, sources, targets)
    frequency = Counter(token for ids in target_ids for token in ids)
    breakdowns = Breakdowns(frequency, bins=15, edges="(l,r]")
    classes = ClassMeasures(classes=[token for token, _ in frequency.most_common(FREQUENT_TYPES)])
    scores = score_pairs(
        loaded,
        source_ids,
        target_ids,
        transform=transform,
        observe=lambda chunk: classes.update(chunk.log_probs, chunk.target_ids),
    )
    for line, ids, scored in zip(lines, source_ids, scores):
        _count(counted, scored, tokenizer.end_id, line)
        breakdowns.update(scored.predicted.tolist(), len(ids), scored.confidence, scored.correct)
    found = classes.result()
    return {
        **counted.result(),
        **{name: found[name] for name in ("weighted_ece", "classwise_ece")},
        "breakdown": breakdowns.result(),
    }


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
    for first in range(0, len(sources), WINDOW):
        window = slice(first, first + WINDOW)
        source_ids, target_ids, lines = encoded_pairs(loaded, sources[window], targets[window])
        for line, scored in zip(lines, score_pairs(loaded, source_ids, target_ids)):
            _count(counted, scored, loaded.tokenizer.end_id, first + line)
    return counted


def encoded_pairs(
    loaded: LoadedModel, sources: Sequence[str], targets: Sequence[str]
) -> tuple[list[list[int]], list[list[int]], list[int]]:
    """Ids of the sources that are not blank, as translation cuts them, of their targets, and the lines' numbers."""
    lines = [line for line, source in enumerate(sources) if source.strip()]
    longest = loaded.config.decode.max_length
    source_ids = loaded.tokenizer.encode_source([sources[line] for line in lines])
    target_ids = loaded.tokenizer.encode_target([targets[line] for line in lines])
    return [cut_source(ids, longest) for ids in source_ids], target_ids, lines


def _count(counted: SplitBins, scored: Any, end_id: int, line: int) -> None:
    brier = (1 - 2 * np.exp(scored.log_probs, dtype=np.float64) + scored.squares) / 2
    end = scored.predicted == end_id
    counted.update(scored.confidence, scored.correct, end, nll=-scored.log_probs, brier=brier, lines=line)


def inference(
    records: Sequence[Record],
    *,
    level: Level = "subword",
    confidence: str = "token_confidence",
    correct: str = "correct",
    split: str = "inference",
    resamples: int = 0,
    seed: int = 12345,
) -> dict[str, Any] | None:
    """Calibration of the tokens that a system put out (Wang et al. 2020, arXiv:2005.00963); 20 bins [l, r).

    Args:
        records: with labels, as `label` leaves them.
        level: what is right or wrong. word-product, word-minimum: words, whose confidence is the product or the
            minimum of their tokens' ones, and which are labelled in `correct_words`.
        confidence, correct: the fields that hold them; where a record lacks `confidence`, its `token_confidence`.
        split: for the signature.
        resamples: of sentences, for the interval of the ECE. seed: of these.

    Returns:
        The calibration block, NLL (nats) and Brier score (0..1) of the right-or-wrong label; None where no record
        has token probabilities.
    """
    counted = SplitBins(bins=20, edges="[l,r)", split=split, level=level, resamples=resamples, seed=seed)
    frequency = Counter(token for record in records for token in record.get("reference_tokens") or ())
    breakdowns = Breakdowns(frequency, bins=20, edges="[l,r)")
    any_tokens = False
    for line, record in enumerate(records):
        if not record.get("token_confidence"):
            continue
        any_tokens = True
        tokens, certain, right = record["tokens"], record.get(confidence) or record["token_confidence"], record[correct]
        if level.startswith("word-"):
            tokens, word_of_token = words_of_tokens(tokens)
            combine: Literal["product", "minimum"] = "product" if level == "word-product" else "minimum"
            certain, right = word_confidence(certain, word_of_token, combine), record["correct_words"]
        certain = np.asarray(certain, dtype=np.float64)
        right = np.asarray(right, dtype=bool)
        truth = np.clip(np.where(right, certain, 1 - certain), SMALLEST, 1)
        end = np.array([token == END for token in tokens])
        counted.update(certain, right, end, nll=-np.log(truth), brier=(certain - right) ** 2, lines=line)
        breakdowns.update(tokens, record.get("source_length"), certain, right)
    if not any_tokens:
        return None
    breakdown = breakdowns.result()
    if not frequency or level.startswith("word-"):
        del breakdown["frequency"]
    return {**counted.result(), "breakdown": breakdown}


def label(records: Iterable[Record], reference_tokens: Iterable[Sequence[str]]) -> None:
    """Adds to each record with tokens one bool per token: `correct`, by alignment (TER) with the reference's tokens,
    and `correct_in_order`, by plain edit distance, which moves nothing.

    Both sides are aligned with their end of sentence, which is appended to the reference where it has none.
    """
    for record, tokens in zip(records, reference_tokens):
        if record.get("tokens"):
            record["correct"] = list(token_labels(record["tokens"], _ended(tokens)))
            record["correct_in_order"] = list(token_labels(record["tokens"], _ended(tokens), shifts=False))


def label_words(records: Iterable[Record], references: Iterable[str]) -> None:
    """Adds `correct_words`, one bool for each word of the tokens, by alignment with the reference's words. Where
    tokens have no labels yet, each becomes as right as its word."""
    for record, reference in zip(records, references):
        if not record.get("tokens"):
            continue
        words, word_of_token = words_of_tokens(record["tokens"])
        reference_words = _ended(reference.split())
        for shifts, field in ((True, "correct"), (False, "correct_in_order")):
            labels = list(token_labels(words, reference_words, shifts=shifts))
            if shifts:
                record["correct_words"] = labels
            record.setdefault(field, [labels[word] for word in word_of_token])


def _ended(tokens: Sequence[str]) -> list[str]:
    return [*tokens] if tokens and tokens[-1] == END else [*tokens, END]
