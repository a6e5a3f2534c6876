"""How true the probabilities of single tokens are: with the reference as prefix, and in the system's own output.

The end of a sentence is a token like any other; its figures are also given apart, because it is often the worst
calibrated of all (Kumar and Sarawagi 2019, arXiv:1903.00802). Apart means: by what was predicted, not by what the
reference has there, so that a well calibrated model looks well calibrated in each part. The same holds for the
breakdown by frequency.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mt.decoding.scoring import Distributions, Transform, score_pairs
from mt.evaluation.records import Record
from mt.metrics.bins import BORDERS, PROTOCOLS, Breakdown, CalibrationBins, CalibrationBlock
from mt.metrics.labels import END, token_labels, word_confidence, words_of_tokens
from mt.metrics.noise import Floats
from mt.model.directory import LoadedModel

Flags = NDArray[np.bool_]

_SMALLEST = 1e-12  # probability of a right-or-wrong label in the logarithm
_SAME = 1e-5  # probabilities that differ by less are the same but for rounding


class SplitBins:
    """Calibration of all tokens, of those that end a sentence, and of the others; parts may be merged.

    `protocol` is one of PROTOCOLS, `breakdown` names those of BORDERS whose groups are counted, too (these are not
    merged), `settings` are level, resamples and seed of CalibrationBins.
    """

    def __init__(self, protocol: str, *, breakdown: Collection[str] = (), **settings: Any) -> None:
        bins = PROTOCOLS[protocol]
        self.parts = [CalibrationBins(**bins, split=protocol, eos=eos, **settings) for eos in ("yes", "no", "only")]
        self.breakdown = {name: Breakdown(*groups, **bins) for name, groups in BORDERS.items() if name in breakdown}

    def update(
        self, confidence: Floats, correct: Flags, end: Flags, *, nll: Floats, brier: Floats, line: int, **groups: Any
    ) -> None:
        """Counts the tokens of one sentence, number `line`, in their order: figures (tokens,) as in
        CalibrationBins.update; `end` (tokens,): whether the end of the sentence was predicted; `groups`: for each name
        of the breakdown the number of each token, or of all of them, None: not known."""
        for part, chosen in zip(self.parts, (end | True, ~end, end)):  # end | True: all of them
            part.update(confidence[chosen], correct[chosen], nll=nll[chosen], brier=brier[chosen], lines=line)
        groups["position"] = np.arange(1, len(confidence) + 1)
        for name, group in self.breakdown.items():
            if groups[name] is not None:
                group.update(np.broadcast_to(groups[name], confidence.shape), confidence, correct)

    def merge(self, other: SplitBins) -> None:
        """Adds what was counted of another part of the text, by another process say."""
        for part, of_other in zip(self.parts, other.parts):
            part.merge(of_other)

    def result(self) -> CalibrationBlock:
        """The calibration block of results.json: the figures of all tokens, and `without_eos` and `eos` apart."""
        block, block_without_eos, block_of_eos = (part.block() for part in self.parts)
        block |= {"without_eos": block_without_eos, "eos": block_of_eos}
        if self.breakdown:
            block["breakdown"] = {name: group.result() for name, group in self.breakdown.items()}
        return block


def teacher_forced(
    loaded: LoadedModel,
    sources: Sequence[str],
    targets: Sequence[str],
    *,
    transform: Transform | None = None,
    breakdown: bool = False,
    **resampling: int,
) -> SplitBins:
    """Calibration of the likeliest token after each prefix of the reference, of lines as in encoded_pairs; 15 bins
    (l, r]. Correct is argmax = reference token; NLL (nats) of the reference token and Brier score over the whole
    vocabulary, halved to lie in 0..1. `transform` recalibrates the distributions first; `breakdown`: counts groups of
    tokens, too, without which parts of a text can be merged; `resampling`: `resamples` and `seed` of CalibrationBins.
    """
    counted = SplitBins("teacher_forced", breakdown=BORDERS if breakdown else (), **resampling)
    source_ids, target_ids, lines = encoded_pairs(loaded, sources, targets)
    frequency = Counter(token for ids in target_ids for token in ids) if breakdown else Counter()
    scores = score_pairs(loaded, source_ids, target_ids, transform=transform)
    for line, ids, scored in zip(lines, source_ids, scores):
        counted.update(
            scored.confidence,
            scored.correct,
            scored.predicted == loaded.tokenizer.end_id,
            nll=-scored.log_probs,
            brier=(1 - 2 * np.exp(scored.log_probs, dtype=np.float64) + scored.squares) / 2,
            line=line,
            frequency=[frequency[token] for token in scored.predicted.tolist()],
            source_length=len(ids),
        )
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


@dataclass
class Output:
    """What a system put out for a line: its record, and what only an evaluation needs beside it."""

    record: Record
    source_length: int | None = None
    """tokens of the source; None: not known"""
    correct_words: list[bool] = field(default_factory=list)
    """whether each word of the tokens is right, see `label_words`"""

    def confidence(self, recalibrated: bool) -> list[float]:
        """Of each token: `token_confidence`, or the system's own `exp(log_probs)` where that is another one."""
        given: list[float] = self.record.get("token_confidence") or []
        log_probs = [] if recalibrated else self.record.get("log_probs") or []
        own = [math.exp(min(0.0, value)) for value in log_probs]
        return own if any(abs(first - second) > _SAME for first, second in zip(own, given)) else given


def inference(
    outputs: Sequence[Output], *, level: str = "subword", recalibrated: bool = False, **resampling: int
) -> CalibrationBlock | None:
    """Calibration of the tokens that a system put out (Wang et al. 2020, arXiv:2005.00963), labelled; 20 bins [l, r).
    NLL (nats) and Brier score (0..1) are of the right-or-wrong label; None where no record has token probabilities.

    `level` is what is right or wrong: subword, subword-labelled-by-word or word-product, that is words, with the
    product of their tokens' confidences. `recalibrated`: take `token_confidence`, not the system's own probabilities.
    """
    words = level == "word-product"
    frequency = Counter(token for output in outputs for token in output.record.get("reference_tokens") or ())
    names = [name for name in BORDERS if name != "frequency" or (frequency and not words)]
    counted = SplitBins("inference", level=level, breakdown=names, **resampling)
    for line, output in enumerate(outputs):
        confidence = output.confidence(recalibrated)
        if not confidence:
            continue
        tokens, correct = output.record["tokens"], output.record["correct"]
        if words:
            tokens, word_of_token = words_of_tokens(tokens)
            confidence, correct = word_confidence(confidence, word_of_token), output.correct_words
        certain, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=bool)
        counted.update(
            certain,
            right,
            np.array([token == END for token in tokens]),
            **label_scores(certain, right),
            line=line,
            frequency=[frequency[token] for token in tokens],
            source_length=output.source_length,
        )
    return counted.result() if counted.parts[0].sums.any() else None


def label_scores(confidence: Floats, correct: Flags) -> dict[str, Floats]:
    """`nll` (nats) and `brier` (0..1) of right-or-wrong labels, (n,)."""
    probability = np.clip(np.where(correct, confidence, 1 - confidence), _SMALLEST, 1)
    return {"nll": -np.log(probability), "brier": (confidence - correct) ** 2}


def label(outputs: Sequence[Output]) -> None:
    """Adds `correct` to records with tokens, one bool per token, by alignment (TER) with their `reference_tokens`; the
    end of sentence is appended to the reference where it has none."""
    for record in (each.record for each in outputs if each.record.get("tokens")):
        record["correct"] = token_labels(record["tokens"], _ended(record["reference_tokens"]))


def label_words(outputs: Sequence[Output], references: Sequence[str]) -> None:
    """Labels words of the tokens by alignment with the reference's. Tokens without labels become as right as theirs."""
    for output, reference in zip(outputs, references):
        if output.record.get("tokens"):
            words, word_of_token = words_of_tokens(output.record["tokens"])
            output.correct_words = token_labels(words, _ended(reference.split()))
            output.record.setdefault("correct", [output.correct_words[word] for word in word_of_token])


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
