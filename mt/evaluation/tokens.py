"""How true the probabilities of single tokens are: with the reference as prefix, and in the system's own output.

The end of a sentence is a token like any other; its figures are also given apart, because it is often the worst
calibrated of all (Kumar and Sarawagi 2019, arXiv:1903.00802). Apart means: by what was predicted, not by what the
reference has there, so that a well calibrated model looks well calibrated in each part. The same holds for the
breakdown by how often the piece stands in the training text.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mt.decoding.scoring import Distributions, Transform, score_pairs
from mt.evaluation.records import Record
from mt.metrics.bins import PROTOCOLS, CalibrationBins, CalibrationBlock, sentence_sums
from mt.metrics.labels import END, token_labels, words_of_tokens
from mt.metrics.noise import Floats
from mt.model.directory import LoadedModel

Flags = NDArray[np.bool_]

_SMALLEST = 1e-12  # probability of a right-or-wrong label in the logarithm
_SAME = 1e-5  # probabilities that differ by less are the same but for rounding
_BORDERS = (1, 10, 100, 1000, 10_000)  # of groups of pieces by their number in the training text
_GROUPS = ("0", "1-9", "10-99", "100-999", "1000-9999", "10000+")
_OF_GROUP = ("tokens", "confidence", "accuracy", "ece", "noise_floor")


class SplitBins:
    """Calibration of all tokens, of those that end a sentence, and of the others; parts may be merged. `protocol` is
    one of PROTOCOLS, `level` as in CalibrationBins."""

    def __init__(self, protocol: str, *, level: str = "subword") -> None:
        self.settings: dict[str, Any] = {**PROTOCOLS[protocol], "split": protocol, "level": level}
        self.parts = [CalibrationBins(**self.settings, eos=eos) for eos in ("yes", "no", "only")]
        self.groups: dict[int, CalibrationBins] = {}
        """by how often the piece stands in the training text, where that is known; not merged"""

    def update(
        self, confidence: Floats, correct: Flags, end: Flags, *, line: int, counts: Any = None, **scores: Floats
    ) -> None:
        """Counts the tokens of one sentence, number `line`: figures (tokens,), and `scores`, nll and brier, as in
        CalibrationBins.update; `end` (tokens,): whether the end of the sentence was predicted; `counts` (tokens,): how
        often each piece stands in the training text, None: not known."""
        for part, chosen in zip(self.parts, (end | True, ~end, end)):  # end | True: all of them
            of_part = {name: values[chosen] for name, values in scores.items()}
            part.update(confidence[chosen], correct[chosen], lines=line, **of_part)
        group = np.searchsorted(_BORDERS, [] if counts is None else counts, side="right")
        for number in np.unique(group).tolist():
            counted = self.groups.setdefault(number, CalibrationBins(**self.settings))
            counted.update(confidence[group == number], correct[group == number], lines=line)

    def merge(self, other: SplitBins) -> None:
        """Adds what was counted of another part of the text, by another process say."""
        for part, of_other in zip(self.parts, other.parts):
            part.merge(of_other)

    def result(self) -> CalibrationBlock:
        """The calibration block of results.json: the figures of all tokens, and `without_eos` and `eos` apart."""
        block, block_without_eos, block_of_eos = (part.block() for part in self.parts)
        block |= {"without_eos": block_without_eos, "eos": block_of_eos}
        if self.groups:
            groups: Any = [(_GROUPS[number], self.groups[number].block()) for number in sorted(self.groups)]
            rows = [{"name": name} | {key: group[key] for key in _OF_GROUP} for name, group in groups]
            block["breakdown"] = {"frequency": rows}
        return block


def teacher_forced(
    loaded: LoadedModel,
    sources: Sequence[str],
    targets: Sequence[str],
    *,
    transform: Transform | None = None,
    training_counts: NDArray[np.integer] | None = None,
    sums: dict[int, Any] | None = None,
) -> SplitBins:
    """Calibration of the likeliest token after each prefix of the reference, of lines as in encoded_pairs; 15 bins
    (l, r]. Correct is argmax = reference token; NLL (nats) of the reference token and Brier score over the whole
    vocabulary, halved to lie in 0..1. `transform` recalibrates the distributions first. `training_counts`
    (vocabulary,): how often each piece stands in the training text, for the breakdown; None: without one. `sums`
    receives the `sentence_sums` of each line, for paired tests of systems.
    """
    counted = SplitBins("teacher_forced")
    source_ids, target_ids, lines = encoded_pairs(loaded, sources, targets)
    for line, scored in zip(lines, score_pairs(loaded, source_ids, target_ids, transform=transform)):
        counted.update(
            scored.confidence,
            scored.correct,
            scored.predicted == loaded.tokenizer.end_id,
            nll=-scored.log_probs,
            brier=(1 - 2 * np.exp(scored.log_probs, dtype=np.float64) + scored.squares) / 2,
            line=line,
            counts=None if training_counts is None else training_counts[scored.predicted],
        )
        if sums is not None:
            sums[line] = sentence_sums("teacher_forced", scored.confidence, scored.correct, -scored.log_probs)
    return counted


def encoded_pairs(
    loaded: LoadedModel, sources: Sequence[str], targets: Sequence[str]
) -> tuple[list[list[int]], list[list[int]], list[int]]:
    """Ids of the sources that are not blank (blank ones never reach the model), of their targets, and the lines'
    numbers. Sources of more than decode.max_length tokens are read whole, as `mt.decoding.scoring.score_lines` does."""
    lines = [line for line, source in enumerate(sources) if source.strip()]
    source_ids = loaded.tokenizer.encode_source([sources[line] for line in lines])
    target_ids = loaded.tokenizer.encode_target([targets[line] for line in lines])
    return source_ids, target_ids, lines


def token_confidence(record: Record, recalibrated: bool) -> list[float]:
    """Of each token: `token_confidence`, or the system's own `exp(log_probs)` where that is another one."""
    given: list[float] = record.get("token_confidence") or []
    log_probs = [] if recalibrated else record.get("log_probs") or []
    own = [math.exp(min(0.0, value)) for value in log_probs]
    return own if any(abs(first - second) > _SAME for first, second in zip(own, given)) else given


def inference(
    records: Sequence[Record],
    *,
    level: str = "subword",
    recalibrated: bool = False,
    training_counts: Mapping[str, int] | None = None,
) -> CalibrationBlock | None:
    """Calibration of the tokens that a system put out (Wang et al. 2020, arXiv:2005.00963), labelled; 20 bins [l, r).
    Tokens whose label is None stay out. NLL (nats) and Brier score (0..1) are of the right-or-wrong label; None where
    no record has token probabilities.

    `level`, for the signature: subword, or subword-labelled-by-word or -by-people. `recalibrated`: take
    `token_confidence`, not the system's own probabilities. `training_counts`: how often each piece stands in the
    training text, for the breakdown.
    """
    counted = SplitBins("inference", level=level)
    for line, record in enumerate(records):
        certain = np.array(token_confidence(record, recalibrated), dtype=np.float64)
        labels = record["correct"] if len(certain) else []
        known = np.array([label is not None for label in labels], dtype=bool)  # people may have left some out
        if not known.any():
            continue
        right, certain = np.array(labels)[known].astype(bool), certain[known]
        tokens = list(compress(record["tokens"], known))
        end = np.array([token == END for token in tokens])
        counts = None if training_counts is None else [training_counts.get(token, 0) for token in tokens]
        counted.update(certain, right, end, **label_scores(certain, right), line=line, counts=counts)
    return counted.result() if counted.parts[0].sums.any() else None


def label_scores(confidence: Floats, correct: Flags) -> dict[str, Floats]:
    """`nll` (nats) and `brier` (0..1) of right-or-wrong labels, (n,)."""
    probability = np.clip(np.where(correct, confidence, 1 - confidence), _SMALLEST, 1)
    return {"nll": -np.log(probability), "brier": (confidence - correct) ** 2}


def label(records: Sequence[Record]) -> None:
    """Adds `correct` to records with tokens, one bool per token, by alignment (TER) with their `reference_tokens`; the
    end of sentence is appended to the reference where it has none."""
    for record in (each for each in records if each.get("tokens")):
        record["correct"] = token_labels(record["tokens"], _ended(record["reference_tokens"]))


def label_words(records: Sequence[Record], references: Sequence[str]) -> None:
    """Adds `correct` to records with tokens by alignment of their words with the reference's: a token is as right as
    its word."""
    for record, reference in zip(records, references):
        if record.get("tokens"):
            words, word_of_token = words_of_tokens(record["tokens"])
            right = token_labels(words, _ended(reference.split()))
            record["correct"] = [right[word] for word in word_of_token]


def add_alternatives(loaded: LoadedModel, records: Sequence[Record], most: int = 3) -> None:
    """Adds `alternatives` to records with tokens: for each token the `most` likeliest ones there, likeliest
    first, as {"token", "log_prob": natural log of the model's own probability}. One forced pass over the outputs; lines
    that were cut or translated in parts, and those with tokens that are none of the model's, are left as they are."""
    tokenizer, longest = loaded.tokenizer, loaded.config.decode.max_length
    pieces = tokenizer.target_pieces(range(tokenizer.target_size))
    ids = {piece: number for number, piece in enumerate(pieces)}
    known = [record for record in records if record.get("tokens") and ids.keys() >= set(record["tokens"])]
    source_ids = tokenizer.encode_source([record["source"] for record in known])
    chosen = [(record, source) for record, source in zip(known, source_ids) if len(source) <= longest]

    def observe(chunk: Distributions) -> None:
        values, indices = chunk.log_probs.topk(min(most, len(pieces)))
        for pair, place, log_probs, best in zip(chunk.pairs, chunk.positions, values.tolist(), indices.tolist()):
            chosen[pair][0]["alternatives"][place] = [
                {"token": pieces[number], "log_prob": round(log_prob, 4)} for number, log_prob in zip(best, log_probs)
            ]

    for record, _ in chosen:
        record["alternatives"] = [[]] * len(record["tokens"])  # one list: entries are replaced, not changed
    target_ids = [[ids[token] for token in record["tokens"]] for record, _ in chosen]
    deque(score_pairs(loaded, [source for _, source in chosen], target_ids, observe=observe), maxlen=0)


def _ended(tokens: Sequence[str]) -> list[str]:
    return [*tokens] if tokens and tokens[-1] == END else [*tokens, END]
