"""The outcomes of a study: from the records of a cell to a figure, for any weighting of the lines of a text."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mt.errors import UserError
from mt.evaluation.sentences import rejection_ratio
from mt.files.json_file import read_json
from mt.metrics.bins import PROTOCOLS, bin_of
from mt.metrics.noise import Floats
from tools.studies.cells import FORCED, INSPECTION, read_cell, records_of
from tools.studies.plan import Study
from tools.studies.records import Arrays, read


class Measure(NamedTuple):
    """A figure of a text: a score of sums over its lines."""

    rows: Floats
    """(lines, figures)"""
    score: Callable[[Floats], float]
    """of the rows' weighted sum (figures,)"""

    def value(self, weights: Floats | None = None) -> float:
        """The figure where each line counts as often as its weight says; None: once."""
        return self.score(self.rows.sum(0) if weights is None else weights @ self.rows)


class Ranked(NamedTuple):
    """A figure that depends on the order of lines, which sums do not tell."""

    confidence: Floats
    quality: Floats

    def value(self, weights: Floats | None = None) -> float:
        """See Measure.value."""
        each = np.ones(len(self.quality), dtype=int) if weights is None else weights.astype(int)
        return rejection_ratio(np.repeat(self.confidence, each), np.repeat(self.quality, each)) or 0.0


class Scalar(NamedTuple):
    """A figure of the cell, whatever the text."""

    figure: float

    def value(self, weights: Floats | None = None) -> float:
        """The figure."""
        return self.figure


def measure(folder: Path, test: str, search: str, outcome: str) -> Measure | Ranked | Scalar:
    """An outcome of a cell. Raises ValueError for one that is unknown."""
    if outcome in _OF_CELL:
        return Scalar(_OF_CELL[outcome](read_cell(folder)))
    if outcome in OF_INSPECTION:
        return Scalar(OF_INSPECTION[outcome](inspection_of(folder)))
    if outcome in _OF_TOKENS:
        arrays = read(records_of(folder, test, FORCED))
        return _OF_TOKENS[outcome](arrays, len(arrays["words"]))
    if outcome in _OF_OUTPUT:
        arrays = read(records_of(folder, test, search))
        return _OF_OUTPUT[outcome](arrays, len(arrays["chrf"]))
    raise ValueError(f"outcome is {outcome!r}; it must be one of {', '.join(sorted(OUTCOMES))}")


def inspection_of(folder: Path) -> dict[str, Any]:
    """What was found inside the model of a cell; empty where its text was too short."""
    found = read_json(folder / INSPECTION, dict[str, Any], "remove it, and run the cell again")
    return {} if "too_short" in found else found


def _by_line(arrays: Arrays, lines: int, *columns: Floats) -> Floats:
    """Sums over the tokens of each line: their number, then of each column; a token that is nan in one counts not."""
    known = ~np.isnan(np.sum(columns, axis=0))
    line = arrays["line"][known]
    parts = [np.ones(len(line)), *(column[known] for column in columns)]
    return np.stack([np.bincount(line, weights=part, minlength=lines) for part in parts], axis=1)


def _mean(sums: Floats) -> float:
    return float(sums[1] / sums[0])


def _token_mean(name: str, arrays: Arrays, lines: int) -> Measure:
    return Measure(_by_line(arrays, lines, arrays[name].astype(np.float64)), _mean)


def _binned(protocol: str, confidence: Floats, right: Floats, arrays: Arrays, lines: int) -> Measure:
    """Expected calibration error from the bins of a protocol."""
    known, bins = ~np.isnan(right), PROTOCOLS[protocol]["bins"]
    certain = np.clip(confidence.astype(np.float64), 0, 1)[known]
    cell = arrays["line"][known] * bins + bin_of(certain, **PROTOCOLS[protocol])
    gaps = np.bincount(cell, weights=right[known] - certain, minlength=lines * bins).reshape(lines, bins)
    tokens = np.bincount(arrays["line"][known], minlength=lines)
    return Measure(np.column_stack([tokens, gaps]), lambda sums: float(np.abs(sums[1:]).sum() / sums[0]))


def _forced_error(confidence: str, right: str, arrays: Arrays, lines: int) -> Measure:
    return _binned("teacher_forced", arrays[confidence], arrays[right], arrays, lines)


def _output_error(arrays: Arrays, lines: int) -> Measure:
    return _binned("inference", np.exp(arrays["log_prob"]), arrays["right"], arrays, lines)


def _gap(arrays: Arrays, lines: int) -> Measure:
    """Mean confidence less accuracy."""
    certain = arrays["confidence"] if "confidence" in arrays else np.exp(arrays["log_prob"])
    return Measure(_by_line(arrays, lines, certain.astype(np.float64) - arrays["right"]), _mean)


_CELLS = 400


def _rank_figure(kind: str, arrays: Arrays, lines: int) -> Measure:
    """AUROC or AUGRC of tokens (see mt.metrics.ranks), from cells of equally many tokens, ties within."""
    confidence, right = arrays["confidence"], arrays["right"]
    borders = np.unique(np.quantile(confidence, np.linspace(0, 1, _CELLS + 1)[1:-1]))
    size = len(borders) + 1
    cell = arrays["line"].astype(np.int64) * size + np.searchsorted(borders, confidence)
    shape = {"minlength": lines * size}
    counts = [np.bincount(cell, weights=each, **shape).reshape(lines, size) for each in (np.ones_like(right), right)]

    def score(sums: Floats) -> float:
        count, correct = sums[:size], sums[size:]
        total, hits = count.sum(), correct.sum()
        pairs = ((count - correct) * (hits - np.cumsum(correct) + correct / 2)).sum()
        auroc = float(pairs / max(1.0, hits * (total - hits)))
        risk = 1 - hits / total
        return auroc if kind == "auroc" else float((1 - auroc) * risk * (1 - risk) + risk**2 / 2)

    return Measure(np.concatenate(counts, axis=1), score)


def _bleu(arrays: Arrays, lines: int) -> Measure:
    from sacrebleu.metrics import BLEU

    metric = BLEU()
    return Measure(
        arrays["bleu"].astype(np.float64), lambda sums: float(metric._compute_score_from_stats(sums.tolist()).score)
    )


def _line_mean(values: Floats) -> Measure:
    return Measure(np.column_stack([np.ones(len(values)), values.astype(np.float64)]), _mean)


def _sentence_selection(arrays: Arrays, lines: int) -> Ranked:
    """How well the mean probability of an output's tokens tells which outputs to reject, by chrF."""
    sums = _by_line(arrays, lines, np.exp(arrays["log_prob"].astype(np.float64)))
    return Ranked(sums[:, 1] / np.maximum(sums[:, 0], 1), arrays["chrf"].astype(np.float64))


def _early(name: str, cell: dict[str, Any]) -> float:
    """A validation figure at the first validation: how fast was learnt."""
    return float(cell["curve"][0][name])


_OF_TOKENS: dict[str, Callable[[Arrays, int], Measure]] = {
    **{name: partial(_token_mean, name) for name in ("nll", "kl", "tempered_nll", "entropy", "confidence")},
    "accuracy": partial(_token_mean, "right"),
    "ece": partial(_forced_error, "confidence", "right"),
    "tempered_ece": partial(_forced_error, "tempered_confidence", "right"),
    "exact_ece": partial(_forced_error, "confidence", "true_best"),
    "gap": _gap,
    "auroc": partial(_rank_figure, "auroc"),
    "augrc": partial(_rank_figure, "augrc"),
}
_OF_OUTPUT: dict[str, Callable[[Arrays, int], Measure | Ranked]] = {
    "bleu": _bleu,
    "chrf": lambda arrays, _: _line_mean(arrays["chrf"]),
    "ece_output": _output_error,
    "gap_output": _gap,
    "selection": _sentence_selection,
    "valid": lambda arrays, _: _line_mean(np.isfinite(arrays["true_log_prob"])),
    "length_ratio": lambda arrays, _: Measure(arrays["bleu"][:, :2].astype(np.float64), lambda s: float(s[0] / s[1])),
    "log_prob": lambda arrays, lines: _line_mean(_by_line(arrays, lines, arrays["log_prob"].astype(float))[:, 1]),
}
_OF_CELL: dict[str, Callable[[dict[str, Any]], float]] = {
    "temperature": lambda cell: float(cell["temperature"]),
    "early_bleu": partial(_early, "bleu"),
    "early_accuracy": partial(_early, "accuracy"),
    "seconds": lambda cell: float(cell["training_seconds"]),
}
OF_INSPECTION: dict[str, Callable[[dict[str, Any]], float]] = {
    "tightness": lambda found: float(found["tightness"]["frequent"]["ratio"]),
    "distance_variation": lambda found: float(found["distances"]["distance_variation"]),
    "logit_spread": lambda found: float(found["distances"]["logit_spread"]),
    "margin": lambda found: float(found["margins"]["mean"]["mean"]),
}
OUTCOMES = {*_OF_TOKENS, *_OF_OUTPUT, *_OF_CELL, *OF_INSPECTION}


def check_outcomes(study: Study, path: Path) -> None:
    """Raises UserError where a question asks for an outcome that is unknown: before the work, not after it."""
    for name, question in study.questions.items():
        for each in question.comparisons:
            if unknown := {each.outcome, each.second_outcome or each.outcome} - OUTCOMES:
                known = ", ".join(sorted(OUTCOMES))
                raise UserError(f"{path}: question {name}: outcome is {unknown.pop()!r}; it must be one of {known}")
