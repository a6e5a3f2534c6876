"""Fits recalibration on a development set, and says by cross-validation what it is worth.

Two maps: of the next token's distribution after a given prefix (teacher-forced), and of the confidence in the tokens of
the model's own output (inference; labels by alignment with the reference). Each is picked by the Brier score of what
calibration asks: is this token right, the likeliest one or the one put out? That score is proper, while the calibration
error alone would be won by a map that always answers the mean; and it is not ruled, as the log-likelihood is, by the
few tokens that the model gave next to nothing. For the same reason temperatures are fitted to these labels, too, and
not only to the reference's tokens: the candidates named `top_...`. Each sentence is judged by maps that were fitted
without it: folds are runs of neighbouring lines.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mt.decoding.options import search_options
from mt.decoding.scoring import Chunk, score_pairs
from mt.decoding.torch_engine import TorchEngine
from mt.errors import UserError
from mt.evaluation.leakage import text_fitted_on
from mt.evaluation.test_set import TestSet
from mt.evaluation.threshold import find_threshold
from mt.evaluation.tokens import SMALLEST, encoded_pairs
from mt.metrics import Measures, token_labels
from mt.metrics.maps import InverseLink, Isotonic, Map, Temperature, TemperatureFit
from mt.metrics.quality import sentence_chrf
from mt.model.directory import LoadedModel
from mt.progress import progress_bar

Floats = NDArray[np.float64]
SHOWN = ("tokens", "ece", "ece_mass", "noise_floor", "nll", "brier", "accuracy", "confidence", "signature")
"""figures of each map that are kept"""
FIELDS = ("confidence", "correct", "nll", "brier")
"""of each token under each map"""
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
        search: fields of SearchOptions; what is not given is as the model's config says.

    Returns:
        What calibration.json holds, for `mt.decoding.confidence.dump_recalibration`.

    Raises:
        UserError: too few sentences for the folds.
    """
    source_ids, target_ids, lines = encoded_pairs(loaded, text.sources, text.references[0])
    if len(lines) < 10 * folds:
        raise UserError(f"{len(lines)} sentences are too few for {folds} folds; give a development set of {10 * folds}")
    fold_of_line = np.arange(len(lines)) * folds // len(lines)
    forced = _Tokens(loaded, source_ids, target_ids, fold_of_line, None)
    outputs = _search(loaded, source_ids, search)
    own_ids = [hypothesis.tokens for hypothesis in outputs]
    pieces = loaded.tokenizer.target_pieces
    labels = [token_labels(pieces(own), pieces(gold)) for own, gold in zip(own_ids, target_ids)]
    own = _Tokens(loaded, source_ids, own_ids, fold_of_line, labels)
    own.add_isotonic()
    picked_forced, picked_own = forced.pick(), own.pick()

    line_of_token = np.repeat(np.arange(len(lines)), [len(ids) for ids in own_ids])
    sums = np.bincount(line_of_token, weights=own.figures[picked_own]["confidence"])
    certain = np.asarray(sums / np.bincount(line_of_token), dtype=np.float64)
    translations = [loaded.tokenizer.decode_target(ids) for ids in own_ids]
    streams = [[stream[line] for line in lines] for stream in text.references]
    quality = np.array(sentence_chrf(translations, streams))
    threshold = find_threshold(certain, quality >= chrf, precision, fold_of_line)
    return {
        "weights": loaded.meta.get("weights_blake2b"),
        "teacher_forced": forced.report(picked_forced),
        "inference": own.report(picked_own),
        "folds": folds,
        "fitted_on": text_fitted_on(text.sources, text.references[0]),
        "thresholds": []
        if threshold is None
        else [{"metric": "chrf", "quality": chrf, "precision": precision, **threshold}],
        "share_reaching": float((quality >= chrf).mean()),
    }


def _search(loaded: LoadedModel, source_ids: list[list[int]], search: dict[str, Any]) -> list[Any]:
    options = search_options(loaded.config.decode, **search)
    engine = TorchEngine(loaded)
    found: list[Any] = []
    with progress_bar(len(source_ids), "translate", "line") as bar:
        for first in range(0, len(source_ids), _LINES_AT_A_TIME):
            window = source_ids[first : first + _LINES_AT_A_TIME]
            found += [hypotheses[0] for hypotheses in engine.search(window, options)]
            bar.update(len(window))
    return found


class _Tokens:
    """The tokens of a text, with every map's figures of each, by maps fitted on the other folds.

    labels: of each token of an output; None: the targets are the references (teacher-forced).
    """

    def __init__(
        self,
        loaded: LoadedModel,
        source_ids: list[list[int]],
        target_ids: list[list[int]],
        fold_of_line: NDArray[np.intp],
        labels: list[list[bool]] | None,
    ) -> None:
        lengths = [len(ids) for ids in target_ids]
        self.starts = np.cumsum([0, *lengths[:-1]])
        self.fold = np.repeat(fold_of_line, lengths)
        self.folds = int(fold_of_line.max()) + 1
        self.labels = None if labels is None else np.concatenate([np.array(each, dtype=bool) for each in labels])
        self.maps: dict[str, tuple[list[Any], Map]] = {}
        """name: the maps for each held-out fold, and the one fitted on everything; isotonic ones come last"""
        self.figures: dict[str, dict[str, Floats]] = {}
        """name: FIELDS of each token"""
        self._fit(loaded, source_ids, target_ids)
        self._apply(loaded, source_ids, target_ids)

    def add_isotonic(self) -> None:
        """The map that acts on confidences alone; for outputs."""
        assert self.labels is not None
        certain = self.figures["identity"]["confidence"]
        outside = [self.fold != fold for fold in range(self.folds)]
        held_out = [Isotonic.fit(certain[chosen], self.labels[chosen]) for chosen in outside]
        values = np.zeros_like(certain)
        for chosen, each in zip(outside, held_out):
            values[~chosen] = each.apply(certain[~chosen])
        self.maps["isotonic"] = held_out, Isotonic.fit(certain, self.labels)
        self.figures["isotonic"] = _binary(values, self.labels)

    def pick(self) -> str:
        """The map with the lowest mean Brier score of right or wrong; the first one among equals."""
        return min(self.maps, key=self._label_brier)

    def report(self, picked: str) -> dict[str, Any]:
        """This text's part of calibration.json."""
        blocks = {name: self._block(name) for name in self.maps}
        return {
            "map": self.maps[picked][1].to_json(),
            "before": blocks["identity"],
            "after": blocks[picked],
            "picked": picked,
            "candidates": blocks,
        }

    def _fit(self, loaded: LoadedModel, source_ids: list[list[int]], target_ids: list[list[int]]) -> None:
        tokenizer = loaded.tokenizer
        link = InverseLink.of_loss(loaded.config.loss, tokenizer)
        links: list[InverseLink | None] = [None] if link is None else [None, link]
        aims = ("",) if self.labels is not None else ("", "top_")
        kinds = [(aim, each) for aim in aims for each in links]
        fits = [[TemperatureFit(link=each, end_id=tokenizer.end_id) for _, each in kinds] for _ in range(self.folds)]

        def observe(chunk: Chunk) -> None:
            tokens = self.starts[chunk.pairs] + chunk.positions
            for fold, rows in self._rows_of_folds(tokens):
                correct = None if self.labels is None else self.labels[tokens[rows]]
                chosen = torch.from_numpy(rows).to(chunk.target_ids.device)
                log_probs, ids = chunk.log_probs[chosen], chunk.target_ids[chosen]
                best = log_probs.argmax(-1)
                for (aim, _), fit in zip(kinds, fits[fold]):
                    fit.update(log_probs, *((best, best == ids) if aim else (ids, correct)))

        _look(loaded, source_ids, target_ids, observe, "fit")
        identity = Temperature()
        self.maps["identity"] = [identity] * self.folds, identity
        if link is not None:
            self.maps["link"] = [link] * self.folds, link
        for place, (aim, _) in enumerate(kinds):
            parts = [fits[fold][place] for fold in range(self.folds)]
            held_out = [_merged(parts[:fold] + parts[fold + 1 :]) for fold in range(self.folds)]
            whole = _merged(parts)
            for end_apart in (False, True):
                *maps, last = [fit.map(end_apart=end_apart) for fit in (*held_out, whole)]
                self.maps[aim + last.name] = list(maps), last

    def _apply(self, loaded: LoadedModel, source_ids: list[list[int]], target_ids: list[list[int]]) -> None:
        self.figures = {name: {each: np.zeros(len(self.fold)) for each in FIELDS} for name in self.maps}

        def observe(chunk: Chunk) -> None:
            tokens = self.starts[chunk.pairs] + chunk.positions
            for fold, rows in self._rows_of_folds(tokens):
                chosen = torch.from_numpy(rows).to(chunk.target_ids.device)
                log_probs, ids = chunk.log_probs[chosen], chunk.target_ids[chosen]
                for name, (held_out, _) in self.maps.items():
                    values = held_out[fold].apply(log_probs)
                    if self.labels is None:
                        found = _forced(values, ids)
                    else:
                        own = values.gather(1, ids[:, None])[:, 0].double().exp().clamp(max=1)
                        found = _binary(own.numpy(force=True), self.labels[tokens[rows]])
                    for field, figures in found.items():
                        self.figures[name][field][tokens[rows]] = figures

        _look(loaded, source_ids, target_ids, observe, "judge")

    def _rows_of_folds(self, tokens: NDArray[np.intp]) -> list[tuple[int, NDArray[np.intp]]]:
        folds = self.fold[tokens]
        return [(int(fold), np.flatnonzero(folds == fold)) for fold in np.unique(folds)]

    def _label_brier(self, name: str) -> float:
        found = self.figures[name]
        return float(((found["confidence"] - found["correct"]) ** 2).mean())

    def _block(self, name: str) -> dict[str, Any]:
        """Calibration figures of all tokens under one map."""
        bins, edges, split = (15, "(l,r]", "teacher_forced") if self.labels is None else (20, "[l,r)", "inference")
        measures = Measures(bins=bins, edges=edges, split=f"{split},cross-validated")
        found = self.figures[name]
        measures.update(found["confidence"], found["correct"], nll=found["nll"], brier=found["brier"])
        block = measures.block()
        return {**{each: block[each] for each in SHOWN}, "label_brier": self._label_brier(name)}


def _look(
    loaded: LoadedModel, source_ids: Sequence[list[int]], target_ids: Sequence[list[int]], observe: Any, name: str
) -> None:
    with progress_bar(len(source_ids), name, "line") as bar:
        for _ in score_pairs(loaded, source_ids, target_ids, observe=observe):
            bar.update(1)


def _merged(parts: Sequence[TemperatureFit]) -> TemperatureFit:
    whole = copy.deepcopy(parts[0])
    for part in parts[1:]:
        whole.merge(part)
    return whole


def _forced(log_probs: Tensor, ids: Tensor) -> dict[str, Floats]:
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


def _binary(confidence: Floats, correct: NDArray[np.bool_]) -> dict[str, Floats]:
    """Figures of right-or-wrong labels."""
    right = np.clip(np.where(correct, confidence, 1 - confidence), SMALLEST, 1)
    return {
        "confidence": confidence,
        "correct": correct.astype(np.float64),
        "nll": -np.log(right),
        "brier": (confidence - correct) ** 2,
    }
