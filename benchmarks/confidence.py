"""How far confidence holds on text that nothing was fitted on, and how well it ranks translations.

    python -m benchmarks.confidence MODEL --development valid.de valid.en \
        --text test test.de test.en 0:1000 --text ted ted.de ted.en 0:600 [--checkpoints MODEL2 MODEL3]

Nothing of a text's references is used but to judge. Figures are calibration errors: of the model's own probability, of
an isotonic map fitted to the development set (what mt stored before), and of what `tools/calibrate.py` stored in MODEL;
and the latter after 25 to 200 lines of the text itself, the mean over draws, on its other lines. Then prediction
rejection ratios for chrF (1: perfect, 0: chance) of the expected quality and of what else ranks translations (Fomicheva
et al. 2020; Malinin and Gales 2021): sum and mean of log-probabilities, mean entropy, ten passes with dropout, the mean
of three checkpoints' log-probabilities.
"""

from __future__ import annotations

import json
import time
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mt.config_file import search_config
from mt.decoding.confidence import Confidence, load_recalibration, unlike
from mt.decoding.inputs import TOKEN_INPUTS
from mt.decoding.scoring import score_pairs
from mt.decoding.torch_engine import TorchEngine
from mt.evaluation.sentences import rejection_ratio, spearman
from mt.evaluation.tokens import encoded_pairs, teacher_forced
from mt.files.lines import read_lines
from mt.metrics.bins import PROTOCOLS, CalibrationBins, expected_calibration_error
from mt.metrics.estimator import Logistic
from mt.metrics.labels import token_labels
from mt.metrics.maps import Isotonic
from mt.metrics.quality import sentence_chrf
from mt.model.directory import LoadedModel, load_model

Floats = np.ndarray[Any, np.dtype[np.float64]]
FEW = (25, 50, 100, 200)
_DRAWS = 10
_BINS: dict[str, Any] = PROTOCOLS["inference"]


@dataclass
class Outputs:
    """A text translated with beam 5, and judged."""

    source_ids: list[list[int]]
    ids: list[list[int]]
    log_probs: list[Any]
    correct: list[list[bool]]
    chrf: Floats
    sources: list[str]
    reference: list[str]
    seconds: float
    """of the search"""

    @property
    def own(self) -> Floats:
        """The model's probability of each token."""
        return np.exp(np.minimum(np.concatenate(self.log_probs), 0), dtype=np.float64)

    @property
    def right(self) -> Floats:
        """1 for a right token, else 0."""
        return np.concatenate(self.correct).astype(np.float64)

    @property
    def line(self) -> Any:
        """The line of each token."""
        return np.repeat(np.arange(len(self.ids)), [len(ids) for ids in self.ids])


def translated(loaded: LoadedModel, sources: list[str], reference: list[str]) -> Outputs:
    """Lines that are too long for the model, or blank, are left out."""
    source_ids, target_ids, lines = encoded_pairs(loaded, sources, reference)
    kept = [place for place, ids in enumerate(source_ids) if len(ids) <= loaded.config.decode.max_length]
    source_ids, target_ids = ([side[place] for place in kept] for side in (source_ids, target_ids))
    lines = [lines[place] for place in kept]
    begun = time.perf_counter()
    engine, options = TorchEngine(loaded), search_config(loaded.config.decode, beam=5)
    found = [
        each[0]
        for first in range(0, len(lines), 500)
        for each in engine.search(source_ids[first : first + 500], options)
    ]
    seconds, pieces = time.perf_counter() - begun, loaded.tokenizer.target_pieces
    ids = [each.tokens for each in found]
    correct = [token_labels(pieces(own), pieces(target)) for own, target in zip(ids, target_ids)]
    text, references = [sources[line] for line in lines], [reference[line] for line in lines]
    chrf = np.array(sentence_chrf([loaded.tokenizer.decode_target(own) for own in ids], [references]))
    return Outputs(source_ids, ids, [each.log_probs for each in found], correct, chrf, text, references, seconds)


def calibration_row(
    loaded: LoadedModel, confidence: Confidence, isotonic: Isotonic, outputs: Outputs
) -> dict[str, Any]:
    """Calibration errors of a text's tokens, before and after."""
    own, right, line = outputs.own, outputs.right, outputs.line
    values, line_values = confidence.inputs(outputs.source_ids, outputs.ids, outputs.log_probs)
    tokens = confidence.recalibration.tokens
    stored = tokens.apply(values) if isinstance(tokens, Logistic) else own
    counted = {name: CalibrationBins(**_BINS) for name in ("own", "isotonic", "stored")}
    for name, each in zip(counted, (own, isotonic.apply(own), stored)):
        counted[name].update(each, right, lines=line)
    blocks: dict[str, Any] = {name: each.block() for name, each in counted.items()}
    row = {name: block["ece"] for name, block in blocks.items()}
    row |= {"floor": blocks["stored"]["noise_floor"], "floor_high": blocks["stored"]["noise_floor_high"]}
    row |= {f"auroc_{name}": blocks[name]["auroc"] for name in ("own", "stored")}
    generator = np.random.default_rng(1)
    for few in FEW if len(outputs.ids) >= 2 * FEW[-1] else ():
        assert isinstance(tokens, Logistic)
        errors = []
        for _ in range(_DRAWS):
            chosen = np.isin(line, generator.permutation(len(outputs.ids))[:few])
            fitted = Logistic.fit(TOKEN_INPUTS, values[chosen], right[chosen] > 0, towards=tokens)
            errors.append(expected_calibration_error(fitted.apply(values[~chosen]), right[~chosen], **_BINS))
        row[f"after_{few}"] = float(np.mean(errors))
    ends = np.concatenate([[False] * (len(ids) - 1) + [True] for ids in outputs.ids])
    for name, each in (("own", own), ("isotonic", isotonic.apply(own)), ("stored", stored)):
        row[f"end_{name}"] = expected_calibration_error(each[ends], right[ends], **_BINS)
    forced = {"own": None, "stored": confidence.recalibration.teacher_forced.apply}
    for name, transform in forced.items():
        found = teacher_forced(loaded, outputs.sources, outputs.reference, transform=transform).result()
        row[f"forced_{name}"] = found["ece"]
    quality = confidence.recalibration.quality.apply(line_values)
    row["interval"] = float(((quality[:, 1] <= outputs.chrf) & (outputs.chrf <= quality[:, 2])).mean())
    mean = np.bincount(line, weights=own) / np.bincount(line)
    row |= {"spearman_own": spearman(mean, outputs.chrf), "spearman_quality": spearman(quality[:, 0], outputs.chrf)}
    return row | {"unlike": unlike(confidence.recalibration.quality, line_values.mean(0), len(line_values))["text"]}


def ranking_row(
    loaded: LoadedModel, confidence: Confidence, others: list[LoadedModel], outputs: Outputs
) -> tuple[dict[str, Any], dict[str, float]]:
    """Prediction rejection ratios for chrF, and the seconds that each took beside the search."""
    lengths = np.array([len(ids) for ids in outputs.ids])
    total = np.array([float(np.sum(each)) for each in outputs.log_probs])
    scores, seconds = {"log_prob": total, "mean_log_prob": total / lengths}, {}

    def timed(name: str, work: Any) -> None:
        begun = time.perf_counter()
        scores[name] = work()
        seconds[name] = time.perf_counter() - begun

    def forced(model: LoadedModel) -> Floats:
        return np.array([each.total for each in score_pairs(model, outputs.source_ids, outputs.ids)]) / lengths

    def entropy() -> Floats:
        sums = np.zeros(len(lengths))

        def observe(chunk: Any) -> None:
            of_token = -(chunk.log_probs.exp() * chunk.log_probs).sum(-1).numpy()
            np.add.at(sums, chunk.pairs, of_token)

        for _ in score_pairs(loaded, outputs.source_ids, outputs.ids, observe=observe):
            pass
        return -sums / lengths

    def dropout() -> Floats:
        loaded.model.train()
        try:
            torch.manual_seed(1)
            return np.asarray(np.mean([forced(loaded) for _ in range(10)], axis=0))
        finally:
            loaded.model.eval()

    timed("entropy", entropy)
    timed("dropout_10", dropout)
    if others:
        timed(f"ensemble_{1 + len(others)}", lambda: np.mean([forced(each) for each in (loaded, *others)], axis=0))
    inputs, quality = confidence.inputs, confidence.recalibration.quality
    timed("quality", lambda: quality.apply(inputs(outputs.source_ids, outputs.ids, outputs.log_probs)[1])[:, 0])
    return {name: rejection_ratio(score, outputs.chrf) for name, score in scores.items()}, seconds


def main() -> None:
    """Prints one JSON object for each text."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--development", nargs=2, type=Path, required=True, metavar="F", help="what was fitted on")
    text = ("NAME", "SOURCE", "REFERENCE", "FIRST:LAST")
    parser.add_argument("--text", nargs=4, action="append", required=True, metavar=text)
    parser.add_argument("--checkpoints", nargs="*", type=Path, default=[], metavar="MODEL", help="of the ensemble")
    given = parser.parse_args()
    torch.set_num_threads(1)
    loaded, *others = (load_model(each, "cpu") for each in (given.model, *given.checkpoints))
    recalibration = load_recalibration(loaded)
    assert recalibration is not None, "run tools/calibrate.py first"
    confidence = Confidence(loaded, recalibration)
    development = translated(loaded, *(list(read_lines([path])) for path in given.development))
    isotonic = Isotonic.fit(development.own, development.right)
    for name, source, reference, lines in given.text:
        chosen = slice(*map(int, lines.split(":")))
        outputs = translated(loaded, *(list(read_lines([Path(path)]))[chosen] for path in (source, reference)))
        told: dict[str, Any] = {"text": name, "lines": len(outputs.ids), "tokens": len(outputs.own)}
        told |= {"chrf": float(outputs.chrf.mean()), "search_seconds": outputs.seconds}
        told["calibration"] = calibration_row(loaded, confidence, isotonic, outputs)
        told["prr"], told["seconds"] = ranking_row(loaded, confidence, others, outputs)
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
