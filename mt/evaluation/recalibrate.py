"""Fits recalibration on a development set, and says by cross-validation what it is worth.

Two maps: of the next token's distribution after a given prefix (teacher-forced), and of the confidence in the tokens of
the model's own output (inference; labels by alignment with the reference). Each is picked by the Brier score of what
calibration asks: is this token right, the likeliest one or the one put out? It is proper, while the calibration error
alone would be won by a map that always answers the mean, and it is not ruled, as the log-likelihood is, by the few
tokens that the model gave next to nothing; so temperatures are fitted to these labels, too (`top_...`). Each sentence
is evaluated with maps that were fitted without it: folds are runs of neighbouring lines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import compress, product
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
from mt.metrics.maps import InverseLink, Isotonic, Temperature, TemperatureFit
from mt.metrics.noise import Floats
from mt.metrics.quality import sentence_chrf
from mt.model.directory import LoadedModel
from mt.progress import LineNotes, progress_bar

_SHOWN = ("tokens", "ece", "ece_mass", "noise_floor", "nll", "brier", "accuracy", "confidence", "signature")
_LINES_AT_A_TIME = 200


def calibrate(
    loaded: LoadedModel, text: TestSet, *, folds: int = 5, precision: float = 0.95, chrf: float = 60.0, **search: Any
) -> dict[str, Any]:
    """Fits and picks the maps on a development set, neither trained on nor to be reported on; returns what
    calibration.json holds. `precision` and `chrf` are what the confidence threshold shall promise: of the lines above
    it, this share reaches this sentence chrF. `search`: fields of SearchConfig; what is not given is as the model's
    config says. Raises UserError if there are too few sentences for the folds."""
    source_ids, target_ids, lines = encoded_pairs(loaded, text.sources, text.references[0])
    longest, overlong = loaded.config.decode.max_length, LineNotes()
    fits = [len(ids) <= longest for ids in source_ids]  # what is translated in parts has no scores as a whole
    for line, fit in zip(lines, fits):
        if not fit:
            overlong.add(line)
    overlong.warn(f"lines left out because they are longer than {longest} tokens (decode.max_length)")
    source_ids, target_ids = (list(compress(each, fits)) for each in (source_ids, target_ids))
    lines = list(compress(lines, fits))
    if len(lines) < 10 * folds:
        raise UserError(f"{len(lines)} sentences are too few for {folds} folds; give a development set of {10 * folds}")
    fold_of_line = np.arange(len(lines)) * folds // len(lines)
    teacher_forced = MapComparison(loaded, source_ids, target_ids, fold_of_line)
    output_ids = _translate(loaded, source_ids, search)
    pieces = loaded.tokenizer.target_pieces
    pairs = zip(output_ids, target_ids)
    labels = [right for output, target in pairs for right in token_labels(pieces(output), pieces(target))]
    inference = MapComparison(loaded, source_ids, output_ids, fold_of_line, np.array(labels, dtype=bool))

    line_of_token = np.repeat(np.arange(len(lines)), [len(ids) for ids in output_ids])
    sums = np.bincount(line_of_token, weights=inference.figures[inference.picked]["confidence"])
    translations = [loaded.tokenizer.decode_target(ids) for ids in output_ids]
    streams = [[stream[line] for line in lines] for stream in text.references]
    good = np.array(sentence_chrf(translations, streams)) >= chrf
    threshold = find_threshold(sums / np.bincount(line_of_token), good, precision, fold_of_line)
    promise = {"metric": "chrf", "quality": chrf, "precision": precision}
    return {
        "weights": loaded.meta.get("weights_blake2b"),
        "teacher_forced": teacher_forced.report(),
        "inference": inference.report(),
        "folds": folds,
        "fitted_on": text_fitted_on(text.sources, text.references[0]),
        "lines_overlong": overlong.count,
        "thresholds": [] if threshold is None else [promise | threshold],
        "share_reaching": float(good.mean()),
    }


def _translate(loaded: LoadedModel, source_ids: list[list[int]], search: dict[str, Any]) -> list[list[int]]:
    """The model's best output for each source."""
    config, engine, found = search_config(loaded.config.decode, **search), TorchEngine(loaded), []
    with progress_bar(len(source_ids), "translate", "line") as bar:
        for first in range(0, len(source_ids), _LINES_AT_A_TIME):
            window = source_ids[first : first + _LINES_AT_A_TIME]
            found += [hypotheses[0].tokens for hypotheses in engine.search(window, config)]
            bar.update(len(window))
    return found


class MapComparison:
    """Every candidate map, and its figures of each token of a text by maps fitted on the other folds.

    `source_ids` and `target_ids` are those of each sentence, end of sentence last; `fold_of_line` (sentences,) counts
    from 0; `labels` (tokens,): whether each token of an output is right, None: the targets are references.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        source_ids: Sequence[list[int]],
        target_ids: Sequence[list[int]],
        fold_of_line: NDArray[np.intp],
        labels: NDArray[np.bool_] | None = None,
    ) -> None:
        self.loaded, self.source_ids, self.target_ids, self.labels = loaded, source_ids, target_ids, labels
        lengths = [len(ids) for ids in target_ids]
        self.starts = np.cumsum([0, *lengths[:-1]])
        self.fold = np.repeat(fold_of_line, lengths)
        self.folds = [*range(int(fold_of_line.max()) + 1), -1]
        """what is left out of the maps' text: each fold, and for the map in use, the last one, nothing"""
        self.maps: dict[str, list[Any]] = {}
        """name: a map for each of `folds`"""
        self._fit()
        self.figures: dict[str, dict[str, Floats]] = {name: {} for name in self.maps}
        """name: confidence, correct, nll and brier of each token"""
        self._pass_over_text("evaluate", self._measure)
        if labels is not None:
            self._add_isotonic(labels)
        self.label_brier = {
            name: float(((found["confidence"] - found["correct"]) ** 2).mean()) for name, found in self.figures.items()
        }
        self.picked = min(self.maps, key=lambda name: self.label_brier[name])
        """the map with the lowest mean Brier score of right or wrong; the first one among equals"""

    def report(self) -> dict[str, Any]:
        """This text's part of calibration.json."""
        protocol = "teacher_forced" if self.labels is None else "inference"
        blocks = {}
        for name, figures in self.figures.items():
            counted = CalibrationBins(**PROTOCOLS[protocol], split=f"{protocol},cross-validated")
            counted.update(**figures)
            block: dict[str, Any] = {**counted.block()}
            blocks[name] = {each: block[each] for each in _SHOWN} | {"label_brier": self.label_brier[name]}
        return {
            "map": self.maps[self.picked][-1].to_json(),
            "before": blocks["identity"],
            "after": blocks[self.picked],
            "picked": self.picked,
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
        fits = [[TemperatureFit(each, tokenizer.end_id) for _, each in candidates] for _ in self.folds[:-1]]

        def count(fold: int, tokens: NDArray[np.intp], log_probs: Tensor, ids: Tensor) -> None:
            correct = None if self.labels is None else self.labels[tokens]
            best = log_probs.argmax(-1)
            for (objective, _), fit in zip(candidates, fits[fold]):
                fit.update(log_probs, *((best, best == ids) if objective else (ids, correct)))

        self._pass_over_text("fit", count)
        self.maps["identity"] = [Temperature()] * len(self.folds)  # first: it wins where no other is better
        if link is not None:
            self.maps["link"] = [link] * len(self.folds)
        for (objective, _), parts in zip(candidates, zip(*fits)):
            sums = [sum(part.sums for fold, part in enumerate(parts) if fold != out) for out in self.folds]
            for end_apart in (False, True):
                maps = [replace(parts[0], sums=each).map(end_apart=end_apart) for each in sums]
                self.maps[objective + maps[0].name] = maps

    def _measure(self, fold: int, tokens: NDArray[np.intp], log_probs: Tensor, ids: Tensor) -> None:
        """The figures of some tokens, under each map that was fitted without them."""
        for name, maps in self.maps.items():
            values = maps[fold].apply(log_probs)
            chosen = values.gather(1, ids[:, None])[:, 0].double()
            if self.labels is None:
                best, best_ids = values.max(-1)
                confidence, right = best.double().exp().clamp(max=1), (best_ids == ids).double()
                brier = ((1 - 2 * chosen.exp() + (2 * values).exp().sum(-1).double()) / 2).clamp(min=0)
                found = zip(("confidence", "correct", "nll", "brier"), (confidence, right, -chosen, brier))
                figures = {each: value.numpy(force=True) for each, value in found}
            else:
                figures = _label_figures(chosen.exp().clamp(max=1).numpy(force=True), self.labels[tokens])
            for each, of_tokens in figures.items():
                self.figures[name].setdefault(each, np.zeros(len(self.fold)))[tokens] = of_tokens

    def _add_isotonic(self, labels: NDArray[np.bool_]) -> None:
        """The map that acts on confidences alone."""
        confidence = self.figures["identity"]["confidence"]
        values, maps = np.zeros_like(confidence), []
        for fold in self.folds:
            inside = self.fold == fold
            maps.append(Isotonic.fit(confidence[~inside], labels[~inside]))
            values[inside] = maps[-1].apply(confidence[inside])
        self.maps["isotonic"], self.figures["isotonic"] = maps, _label_figures(values, labels)

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


def _label_figures(confidence: Floats, correct: NDArray[np.bool_]) -> dict[str, Floats]:
    """Figures of right-or-wrong labels."""
    return {"confidence": confidence, "correct": correct.astype(np.float64), **label_scores(confidence, correct)}
