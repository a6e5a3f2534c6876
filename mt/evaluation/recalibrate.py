"""Fits recalibration on a development set, and says by cross-validation what it is worth.

Two maps: of the next token's distribution after a given prefix (teacher-forced), and of the confidence in the tokens of
the model's own output (inference; labels by alignment with the reference). Each is picked by the Brier score of what
calibration asks: is this token right, the likeliest one or the one put out? That score is proper, while the calibration
error alone would be won by a map that always answers the mean; and it is not ruled, as the log-likelihood is, by the
few tokens that the model gave next to nothing. For the same reason temperatures are fitted to these labels, too, and
not only to the reference's tokens: the candidates named `top_...`. Each sentence is evaluated with maps that were
fitted without it: folds are runs of neighbouring lines.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mt.config_file import search_config
from mt.decoding.scoring import Distributions, score_pairs
from mt.decoding.torch_engine import TorchEngine
from mt.errors import UserError
from mt.evaluation.sentences import find_threshold
from mt.evaluation.test_set import TestSet, text_fitted_on
from mt.evaluation.tokens import encoded_pairs, label_scores
from mt.metrics.bins import PROTOCOLS, CalibrationBins
from mt.metrics.labels import token_labels
from mt.metrics.maps import InverseLink, Isotonic, Map, Temperature, TemperatureFit
from mt.metrics.noise import Floats
from mt.metrics.quality import sentence_chrf
from mt.model.directory import LoadedModel
from mt.progress import progress_bar

_SHOWN = ("tokens", "ece", "ece_mass", "noise_floor", "nll", "brier", "accuracy", "confidence", "signature")
_FIELDS = ("confidence", "correct", "nll", "brier")
_LINES_AT_A_TIME = 200


def calibrate(
    loaded: LoadedModel, text: TestSet, *, folds: int = 5, precision: float = 0.95, chrf: float = 60.0, **search: Any
) -> dict[str, Any]:
    """Fits and picks the maps.

    Args:
        loaded: the model.
        text: a development set, neither trained on nor to be reported on.
        folds: of the cross-validation.
        precision, chrf: what the confidence threshold shall promise: of the lines above it, this share reaches this
            sentence chrF.
        search: fields of SearchConfig; what is not given is as the model's config says.

    Returns:
        What calibration.json holds, for `mt.decoding.confidence.dump_recalibration`.

    Raises:
        UserError: too few sentences for the folds.
    """
    source_ids, target_ids, lines = encoded_pairs(loaded, text.sources, text.references[0])
    if len(lines) < 10 * folds:
        raise UserError(f"{len(lines)} sentences are too few for {folds} folds; give a development set of {10 * folds}")
    fold_of_line = np.arange(len(lines)) * folds // len(lines)
    teacher_forced = MapComparison(loaded, source_ids, target_ids, fold_of_line)
    output_ids = _translate(loaded, source_ids, search)
    pieces = loaded.tokenizer.target_pieces
    labels = [token_labels(pieces(output), pieces(target)) for output, target in zip(output_ids, target_ids)]
    inference = MapComparison(loaded, source_ids, output_ids, fold_of_line, labels)

    line_of_token = np.repeat(np.arange(len(lines)), [len(ids) for ids in output_ids])
    sums = np.bincount(line_of_token, weights=inference.figures[inference.pick()]["confidence"])
    confidence = np.asarray(sums / np.bincount(line_of_token), dtype=np.float64)
    translations = [loaded.tokenizer.decode_target(ids) for ids in output_ids]
    streams = [[stream[line] for line in lines] for stream in text.references]
    good = np.array(sentence_chrf(translations, streams)) >= chrf
    threshold = find_threshold(confidence, good, precision, fold_of_line)
    promise = {"metric": "chrf", "quality": chrf, "precision": precision}
    return {
        "weights": loaded.meta.get("weights_blake2b"),
        "teacher_forced": teacher_forced.report(),
        "inference": inference.report(),
        "folds": folds,
        "fitted_on": text_fitted_on(text.sources, text.references[0]),
        "thresholds": [] if threshold is None else [promise | threshold],
        "share_reaching": float(good.mean()),
    }


def _translate(loaded: LoadedModel, source_ids: list[list[int]], search: dict[str, Any]) -> list[list[int]]:
    """The model's best output for each source."""
    config = search_config(loaded.config.decode, **search)
    engine = TorchEngine(loaded)
    found: list[list[int]] = []
    with progress_bar(len(source_ids), "translate", "line") as bar:
        for first in range(0, len(source_ids), _LINES_AT_A_TIME):
            window = source_ids[first : first + _LINES_AT_A_TIME]
            found += [hypotheses[0].tokens for hypotheses in engine.search(window, config)]
            bar.update(len(window))
    return found


class MapComparison:
    """Every candidate map, and its figures of each token of a text by maps fitted on the other folds.

    Args:
        loaded: the model.
        source_ids, target_ids: ids of each sentence, end of sentence last.
        fold_of_line: (sentences,), from 0.
        labels: whether each token of an output is right; None: the targets are references (teacher-forced).
    """

    def __init__(
        self,
        loaded: LoadedModel,
        source_ids: Sequence[list[int]],
        target_ids: Sequence[list[int]],
        fold_of_line: NDArray[np.intp],
        labels: list[list[bool]] | None = None,
    ) -> None:
        self.loaded, self.source_ids, self.target_ids = loaded, source_ids, target_ids
        lengths = [len(ids) for ids in target_ids]
        self.starts = np.cumsum([0, *lengths[:-1]])
        self.fold = np.repeat(fold_of_line, lengths)
        self.folds = int(fold_of_line.max()) + 1
        self.labels = None if labels is None else np.concatenate([np.array(each, dtype=bool) for each in labels])
        self.maps: dict[str, tuple[list[Any], Map]] = {}
        """name: the maps for each held-out fold, and the one fitted on everything; isotonic ones come last"""
        self.figures: dict[str, dict[str, Floats]] = {}
        """name: confidence, correct, nll and brier of each token"""
        self._fit()
        self._evaluate()
        if self.labels is not None:
            self._add_isotonic(self.labels)

    def pick(self) -> str:
        """The map with the lowest mean Brier score of right or wrong; the first one among equals."""
        return min(self.maps, key=self._label_brier)

    def report(self) -> dict[str, Any]:
        """This text's part of calibration.json."""
        picked = self.pick()
        blocks = {name: self._block(name) for name in self.maps}
        return {
            "map": self.maps[picked][1].to_json(),
            "before": blocks["identity"],
            "after": blocks[picked],
            "picked": picked,
            "candidates": blocks,
        }

    def _fit(self) -> None:
        """The maps that act on whole distributions, in one pass over the text."""
        tokenizer = self.loaded.tokenizer
        classes = tokenizer.target_size, tokenizer.pad_id, tokenizer.begin_id
        link = InverseLink.of_loss(self.loaded.config.loss, *classes)
        # a temperature is fitted to the reference's token or, `top_`, to whether the likeliest token is right
        objectives = ("", "top_") if self.labels is None else ("",)
        candidates = list(product(objectives, [None] if link is None else [None, link]))
        fits = [
            [TemperatureFit(link=each, end_id=tokenizer.end_id) for _, each in candidates] for _ in range(self.folds)
        ]

        def count(fold: int, tokens: NDArray[np.intp], log_probs: Tensor, ids: Tensor) -> None:
            correct = None if self.labels is None else self.labels[tokens]
            best = log_probs.argmax(-1)
            for (objective, _), fit in zip(candidates, fits[fold]):
                fit.update(log_probs, *((best, best == ids) if objective else (ids, correct)))

        self._pass_over_text("fit", count)
        identity = Temperature()
        self.maps["identity"] = [identity] * self.folds, identity
        if link is not None:
            self.maps["link"] = [link] * self.folds, link
        for (objective, _), parts in zip(candidates, zip(*fits)):
            held_out = [_merged(parts[:fold] + parts[fold + 1 :]) for fold in range(self.folds)]
            whole = _merged(parts)
            for end_apart in (False, True):
                *maps, last = [fit.map(end_apart=end_apart) for fit in (*held_out, whole)]
                self.maps[objective + last.name] = list(maps), last

    def _evaluate(self) -> None:
        """The figures of each token, under each map that was fitted without it."""
        self.figures = {name: {each: np.zeros(len(self.fold)) for each in _FIELDS} for name in self.maps}

        def measure(fold: int, tokens: NDArray[np.intp], log_probs: Tensor, ids: Tensor) -> None:
            for name, (held_out, _) in self.maps.items():
                values = held_out[fold].apply(log_probs)
                if self.labels is None:
                    found = _next_token_figures(values, ids)
                else:
                    probability = values.gather(1, ids[:, None])[:, 0].double().exp().clamp(max=1)
                    found = _label_figures(probability.numpy(force=True), self.labels[tokens])
                for field, figures in found.items():
                    self.figures[name][field][tokens] = figures

        self._pass_over_text("evaluate", measure)

    def _add_isotonic(self, labels: NDArray[np.bool_]) -> None:
        """The map that acts on confidences alone."""
        confidence = self.figures["identity"]["confidence"]
        held_out, values = [], np.zeros_like(confidence)
        for fold in range(self.folds):
            outside = self.fold != fold
            held_out.append(Isotonic.fit(confidence[outside], labels[outside]))
            values[~outside] = held_out[-1].apply(confidence[~outside])
        self.maps["isotonic"] = held_out, Isotonic.fit(confidence, labels)
        self.figures["isotonic"] = _label_figures(values, labels)

    def _pass_over_text(self, name: str, use: Callable[[int, NDArray[np.intp], Tensor, Tensor], None]) -> None:
        """Shows all tokens, some of one fold at a time: fold, numbers in the text, log-probabilities and ids."""

        def observe(chunk: Distributions) -> None:
            tokens = self.starts[chunk.pairs] + chunk.positions
            for fold in np.unique(self.fold[tokens]):
                rows = np.flatnonzero(self.fold[tokens] == fold)
                chosen = torch.from_numpy(rows).to(chunk.target_ids.device)
                use(int(fold), tokens[rows], chunk.log_probs[chosen], chunk.target_ids[chosen])

        with progress_bar(len(self.source_ids), name, "line") as bar:
            for _ in score_pairs(self.loaded, self.source_ids, self.target_ids, observe=observe):
                bar.update(1)

    def _label_brier(self, name: str) -> float:
        found = self.figures[name]
        return float(((found["confidence"] - found["correct"]) ** 2).mean())

    def _block(self, name: str) -> dict[str, Any]:
        """Calibration figures of all tokens under one map."""
        protocol = "teacher_forced" if self.labels is None else "inference"
        counted = CalibrationBins(**PROTOCOLS[protocol], split=f"{protocol},cross-validated")
        counted.update(**self.figures[name])
        block: dict[str, Any] = {**counted.block()}
        return {**{each: block[each] for each in _SHOWN}, "label_brier": self._label_brier(name)}


def _merged(parts: Sequence[TemperatureFit]) -> TemperatureFit:
    whole = copy.deepcopy(parts[0])
    for part in parts[1:]:
        whole.merge(part)
    return whole


def _next_token_figures(log_probs: Tensor, ids: Tensor) -> dict[str, Floats]:
    """Figures of the next token: (n, vocabulary) log-probabilities, (n,) ids of the reference's tokens."""
    best, best_ids = log_probs.max(-1)
    gold = log_probs.gather(1, ids[:, None])[:, 0].double()
    brier = (1 - 2 * gold.exp() + (2 * log_probs).exp().sum(-1).double()) / 2
    fields = {
        "confidence": best.double().exp().clamp(max=1),
        "correct": (best_ids == ids).double(),
        "nll": -gold,
        "brier": brier.clamp(min=0),
    }
    return {name: values.numpy(force=True) for name, values in fields.items()}


def _label_figures(confidence: Floats, correct: NDArray[np.bool_]) -> dict[str, Floats]:
    """Figures of right-or-wrong labels."""
    return {"confidence": confidence, "correct": correct.astype(np.float64), **label_scores(confidence, correct)}
