"""Fits what makes confidence true, on a development set, and says by cross-validation what it is worth.

Three things: a map of the next token's distribution after a given prefix (teacher-forced); an estimator of whether a
token of the model's own output is right (inference; labels by alignment with the reference); and the quality to expect
of a line, with a threshold that keeps a promise. The first two shall hold on text that nobody has labelled. So the
lines are parted into groups that are unlike, and each group is judged by what was fitted without it. What makes the
calibration error of any group clearly larger than the model's own probability has there is out; of the rest the one
with the lowest error in its *worst* group is stored; where that is the model's own probability, nothing is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import compress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mt.config_file import search_config
from mt.decoding.confidence import Recalibration
from mt.decoding.inputs import LINE_INPUTS, TOKEN_INPUTS, OutputInputs
from mt.decoding.scoring import Distributions, score_pairs
from mt.decoding.torch_engine import TorchEngine
from mt.decoding.types import Hypothesis
from mt.errors import UserError
from mt.evaluation.test_set import TestSet, text_fitted_on
from mt.evaluation.tokens import encoded_pairs, label_scores
from mt.metrics.bins import PROTOCOLS, CalibrationBins, expected_calibration_error
from mt.metrics.estimator import Logistic, Quality, clusters
from mt.metrics.labels import token_labels
from mt.metrics.maps import InverseLink, Isotonic, Temperature, TemperatureFit
from mt.metrics.noise import Floats
from mt.metrics.promise import find_threshold
from mt.metrics.quality import sentence_chrf
from mt.model.directory import LoadedModel
from mt.progress import LineNotes, busy, progress_bar

FEWEST_TO_ADAPT = 20
"""lines, to fit towards what is there already"""
_SHOWN = ("tokens", "ece", "noise_floor", "nll", "brier", "auroc", "accuracy", "confidence", "signature")
_TOLERATED = 0.003  # that the calibration error of a group of 3,000 tokens may rise by: chance alone moves it so far
_LINES_AT_A_TIME = 200
_Figures = dict[str, Floats]
"""confidence, correct, nll and brier of each token"""


@busy("calibrating")
def calibrate(
    loaded: LoadedModel,
    text: TestSet,
    *,
    folds: int = 5,
    precision: float = 0.95,
    chrf: float = 60.0,
    towards: Recalibration | None = None,
    **search: Any,
) -> dict[str, Any]:
    """Fits on a development set, neither trained on nor to be reported on; returns what calibration.json holds.

    `precision` and `chrf` are what the threshold shall promise: of the lines above it, this share reaches this sentence
    chrF. `towards`: what was fitted before on much other text, to which a fit on a few lines keeps close; its map of
    distributions stays. `search`: fields of SearchConfig; what is not given is as the model's config says. Raises
    UserError if there are too few sentences."""
    source_ids, target_ids, lines, overlong = _readable_pairs(loaded, text)
    least = 10 * folds if towards is None else FEWEST_TO_ADAPT
    if len(lines) < least:
        raise UserError(f"{len(lines)} sentences are too few; give a development set of at least {least}")
    outputs = _translate(loaded, source_ids, search)
    output_ids, log_probs = [each.tokens for each in outputs], [each.log_probs for each in outputs]
    values, line_values = OutputInputs(loaded.tokenizer, loaded.piece_counts)(source_ids, output_ids, log_probs)
    pieces = loaded.tokenizer.target_pieces
    labels = [token_labels(pieces(ids), pieces(target)) for ids, target in zip(output_ids, target_ids)]
    group_of_line = clusters(line_values, folds)
    own = np.exp(np.minimum(np.concatenate(log_probs), 0), dtype=np.float64), np.concatenate(labels)
    inference = _TokenMaps(*own, values, group_of_line, [len(ids) for ids in output_ids], towards)
    if towards is None:
        forced = _ForcedMaps(loaded, source_ids, target_ids, group_of_line).report("teacher_forced")
    else:
        forced = towards.saved["teacher_forced"]
    streams = [[stream[line] for line in lines] for stream in text.references]
    reached = np.array(sentence_chrf([loaded.tokenizer.decode_target(ids) for ids in output_ids], streams))
    fitted = np.arange(len(lines)) % 3 == 0  # the other lines make intervals and promises: they must not be known
    quality = Quality.fit(tuple(LINE_INPUTS), line_values, reached, fitted, towards.quality if towards else None)
    promised = partial(_promise, quality.apply(line_values)[:, 0].round(2), reached, fitted)  # as records state it
    promise = promised(precision, chrf)
    return {
        "weights": loaded.meta.get("weights_blake2b"),
        "teacher_forced": forced,
        "inference": inference.report("inference"),
        "quality": asdict(quality),
        "folds": folds,
        "fitted_on": text_fitted_on(text.sources, text.references[0]),
        "lines_overlong": overlong,
        "promises": [promise] if promise else [],
        "instead": [] if promise else _instead(promised, precision, chrf),
        "share_reaching": float((reached >= chrf).mean()),
    }


def _readable_pairs(loaded: LoadedModel, text: TestSet) -> tuple[list[list[int]], list[list[int]], list[int], int]:
    """Ids of both sides and numbers of the lines that are neither blank nor too long; and how many are too long."""
    source_ids, target_ids, lines = encoded_pairs(loaded, text.sources, text.references[0])
    longest, overlong = loaded.config.decode.max_length, LineNotes()
    fits = [len(ids) <= longest for ids in source_ids]  # what is translated in parts has no scores as a whole
    for line, fit in zip(lines, fits):
        if not fit:
            overlong.add(line)
    overlong.warn(f"lines left out because they are longer than {longest} tokens (decode.max_length)")
    kept_sources, kept_targets = (list(compress(each, fits)) for each in (source_ids, target_ids))
    return kept_sources, kept_targets, list(compress(lines, fits)), overlong.count


def _translate(loaded: LoadedModel, source_ids: list[list[int]], search: dict[str, Any]) -> list[Hypothesis]:
    """The model's best output for each source."""
    config, engine, found = search_config(loaded.config.decode, **search), TorchEngine(loaded), []
    with progress_bar(len(source_ids), "translate", "line") as bar:
        for first in range(0, len(source_ids), _LINES_AT_A_TIME):
            window = source_ids[first : first + _LINES_AT_A_TIME]
            found += [hypotheses[0] for hypotheses in engine.search(window, config)]
            bar.update(len(window))
    return found


def _promise(
    expected: Floats, chrf: Floats, fitted: NDArray[np.bool_], precision: float, least: float
) -> dict[str, Any] | None:
    """A threshold on the expected quality above which the share `precision` of the lines reaches the chrF `least`."""
    found = find_threshold(expected, chrf >= least, precision, fitted)
    return found and {"by": "quality", "chrf": least, "precision": precision, **found}


def _instead(
    promised: Callable[[float, float], dict[str, Any] | None], precision: float, chrf: float
) -> list[dict[str, Any]]:
    """What these lines can promise where they cannot promise what was asked for: less often, or a lower chrF."""
    shares = (share / 100 for share in range(95, 45, -5) if share / 100 < precision)
    qualities = (float(least) for least in range(95, 0, -5) if least < chrf)
    found = [next(filter(None, (promised(share, chrf) for share in shares)), None)]
    found.append(next(filter(None, (promised(precision, least) for least in qualities)), None))
    return [each for each in found if each]


class _Maps:
    """Candidates, and the figures of each token by what was fitted on the other groups."""

    maps: dict[str, Any]
    """name: what was fitted on all of the text"""
    figures: dict[str, _Figures]

    def __init__(self, group_of_line: NDArray[np.intp], lengths: Sequence[int]) -> None:
        self.line = np.repeat(np.arange(len(lengths)), lengths)
        self.group = group_of_line[self.line]
        self.groups = [*range(int(group_of_line.max()) + 1)]

    def report(self, protocol: str) -> dict[str, Any]:
        """This text's part of calibration.json."""
        bins, blocks = PROTOCOLS[protocol], {}
        own = self._errors_of_groups("identity", bins)
        for name, figures in self.figures.items():
            counted = CalibrationBins(**bins, split=f"{protocol},cross-validated")
            counted.update(**figures, lines=self.line)
            block: dict[str, Any] = {**counted.block()}
            errors = self._errors_of_groups(name, bins)
            worse = {"worst_ece": float(errors.max()), "worst_change": float((errors - own).max())}
            blocks[name] = {each: block[each] for each in _SHOWN} | worse
        tolerated = _TOLERATED * max(1.0, float(np.sqrt(3000 / max(1, np.bincount(self.group).min()))))
        allowed = [name for name, block in blocks.items() if block["worst_change"] <= tolerated]
        picked = min(allowed, key=lambda name: blocks[name]["worst_ece"])  # the first, identity, among equals
        return {
            "map": self.maps[picked],
            "before": blocks["identity"],
            "after": blocks[picked],
            "picked": picked,
            "candidates": blocks,
        }

    def _errors_of_groups(self, name: str, bins: dict[str, Any]) -> Floats:
        figures = [self.figures[name][each] for each in ("confidence", "correct")]
        parts = [[each[self.group == group] for each in figures] for group in self.groups]
        return np.array([expected_calibration_error(*part, **bins) for part in parts])


class _TokenMaps(_Maps):
    """What says whether tokens of an output are right: confidence (tokens,), correct (tokens,), their inputs. With
    `towards` all is about the fit on a few lines."""

    def __init__(
        self,
        confidence: Floats,
        correct: NDArray[np.bool_],
        values: Floats,
        group_of_line: NDArray[np.intp],
        lengths: Sequence[int],
        towards: Recalibration | None,
    ) -> None:
        super().__init__(group_of_line, lengths)
        fit_logistic = partial(Logistic.fit, TOKEN_INPUTS)
        if towards is not None:
            known = towards.tokens if isinstance(towards.tokens, Logistic) else Logistic.identity(TOKEN_INPUTS)
            fit_logistic = partial(fit_logistic, towards=known)
        fits: dict[str, tuple[Callable[..., Any], Floats]] = {"logistic": (fit_logistic, values)}
        if towards is None:
            fits["isotonic"] = (Isotonic.fit, confidence)
        self.maps, self.figures = {"identity": Temperature().to_json()}, {"identity": _figures(confidence, correct)}
        for name, (fit, read) in fits.items():
            judged = np.zeros_like(confidence)
            for group in self.groups:
                inside = self.group == group
                judged[inside] = fit(read[~inside], correct[~inside]).apply(read[inside])
            whole = fit(read, correct)
            self.maps[name] = {"name": name, **asdict(whole)}
            self.figures[name] = _figures(judged, correct)


class _ForcedMaps(_Maps):
    """Maps of the next token's distribution, with the reference as prefix. Temperatures are fitted to the reference's
    token or (`top_`) to whether the likeliest token is right: likelihood is ruled by the few tokens that the model gave
    next to nothing, and the temperature it likes best can make the calibration error worse."""

    def __init__(
        self,
        loaded: LoadedModel,
        source_ids: Sequence[list[int]],
        target_ids: Sequence[list[int]],
        group_of_line: NDArray[np.intp],
    ) -> None:
        lengths = [len(ids) for ids in target_ids]
        super().__init__(group_of_line, lengths)
        self.loaded, self.source_ids, self.target_ids = loaded, source_ids, target_ids
        self.starts = np.cumsum([0, *lengths[:-1]])
        self.without: dict[str, list[Any]] = {}
        """name: for each group the map that was fitted to the others"""
        self._fit()
        self.figures = {name: {} for name in self.maps}
        self._pass_over_text("evaluate", self._measure)

    def _fit(self) -> None:
        """All maps, in one pass over the text."""
        tokenizer = self.loaded.tokenizer
        classes = tokenizer.target_size, tokenizer.pad_id, tokenizer.begin_id
        counts = self.loaded.piece_counts
        taught, of_loss = self.loaded.config.train.teacher, InverseLink.of_loss  # a student has no link of its own
        link = None if taught else of_loss(self.loaded.config.loss, *classes, unigram=counts and counts[1])
        candidates = [(prefix, each) for prefix in ("", "top_") for each in (None, link)[: 1 + (link is not None)]]
        fits = [[TemperatureFit(each) for _, each in candidates] for _ in self.groups]

        def count(group: int, tokens: NDArray[np.intp], log_probs: Tensor, ids: Tensor) -> None:
            best = log_probs.argmax(-1)
            for (prefix, _), fit in zip(candidates, fits[group]):
                fit.update(log_probs, *((best, best == ids) if prefix else (ids,)))

        self._pass_over_text("fit", count)
        known: dict[str, Any] = {"identity": Temperature()} | ({} if link is None else {"link": link})
        self.without = {name: [each] * len(self.groups) for name, each in known.items()}
        for (prefix, _), parts in zip(candidates, zip(*fits)):
            total = sum(part.sums for part in parts)
            whole = replace(parts[0], sums=total).map()
            known[prefix + whole.name] = whole
            self.without[prefix + whole.name] = [replace(part, sums=total - part.sums).map() for part in parts]
        self.maps = {name: each.to_json() for name, each in known.items()}

    def _measure(self, group: int, tokens: NDArray[np.intp], log_probs: Tensor, ids: Tensor) -> None:
        """The figures of some tokens, under each map that was fitted without them."""
        for name, maps in self.without.items():
            values = maps[group].apply(log_probs)
            chosen = values.gather(1, ids[:, None])[:, 0].double()
            best, best_ids = values.max(-1)
            brier = ((1 - 2 * chosen.exp() + (2 * values).exp().sum(-1).double()) / 2).clamp(min=0)
            found = (best.double().exp().clamp(max=1), (best_ids == ids).double(), -chosen, brier)
            for each, of_tokens in zip(("confidence", "correct", "nll", "brier"), found):
                self.figures[name].setdefault(each, np.zeros(len(self.group)))[tokens] = of_tokens.numpy(force=True)

    def _pass_over_text(self, name: str, use: Callable[[int, NDArray[np.intp], Tensor, Tensor], None]) -> None:
        """Shows all tokens, some of one group at a time: group, numbers in the text, log-probabilities and ids."""

        def observe(chunk: Distributions) -> None:
            tokens = self.starts[chunk.pairs] + chunk.positions
            for group in np.unique(self.group[tokens]):
                rows = np.flatnonzero(self.group[tokens] == group)
                chosen = torch.from_numpy(rows).to(chunk.target_ids.device)
                use(int(group), tokens[rows], chunk.log_probs[chosen], chunk.target_ids[chosen])

        with progress_bar(len(self.source_ids), name, "line") as bar:
            for _ in score_pairs(self.loaded, self.source_ids, self.target_ids, observe=observe):
                bar.update(1)


def _figures(confidence: Floats, correct: NDArray[np.bool_]) -> _Figures:
    """Figures of right-or-wrong labels."""
    return {"confidence": confidence, "correct": correct.astype(np.float64), **label_scores(confidence, correct)}
