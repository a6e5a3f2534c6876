"""The evaluation run: translations, their quality, and the calibration of their tokens, in files for programs.

Writes `results.json`, `hypotheses.txt` and `records.jsonl`; the page and the figures are made from these files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mt.decoding.confidence import Recalibration, load_recalibration
from mt.decoding.records import json_line
from mt.decoding.translator import Translator
from mt.errors import UserError
from mt.evaluation.alternatives import add_alternatives
from mt.evaluation.leakage import fitted_on
from mt.evaluation.oracle import against_truth
from mt.evaluation.records import Record, read_records
from mt.evaluation.sentences import sentence_level
from mt.evaluation.test_set import TestSet, fingerprint
from mt.evaluation.tokens import Level, inference, label, label_words, teacher_forced
from mt.files.atomic import write_text
from mt.metrics.quality import (
    Statistics,
    corpus_quality,
    looks_tokenized,
    quality_statistics,
    sentence_chrf,
    sentence_scores,
)
from mt.model.directory import LoadedModel
from mt.progress import log_line, progress_bar

__all__ = ["DEFAULT_BEAM", "evaluate", "evaluate_records", "teacher_forced"]

DEFAULT_BEAM = 5
"""the beam of the top level of results.json"""
SWEEP_ALPHAS = {"none": 1.0, "average": 1.0, "gnmt": 0.6}
"""exponents of a sweep's length penalties where none is given (Wu et al. 2016 for GNMT's)"""
OWN_FIELDS = ("correct_words", "correct_in_order", "raw_confidence", "source_length")
"""fields of records that only this module needs"""


def evaluate(
    loaded: LoadedModel,
    test_set: TestSet,
    output: Path,
    *,
    beams: Sequence[int] = (DEFAULT_BEAM,),
    length_penalty: str | None = None,
    length_alpha: float | None = None,
    length_penalties: Sequence[str] = (),
    batch_tokens: int | None = None,
    nbest: int = 1,
    processes: int = 1,
    bootstrap: int = 1000,
    seed: int = 12345,
    truth: bool = False,
) -> dict[str, Any]:
    """Translates a test set with each beam size and measures quality and calibration.

    Args:
        loaded: the model.
        test_set: what to translate.
        output: folder for results.json, hypotheses.txt and records.jsonl, made if need be.
        beams: sizes to evaluate; 5, the default beam, is added because it is the top level of the results.
        length_penalty, length_alpha, batch_tokens: of the search; None: as the model's config says.
        length_penalties: where given, every beam is run with each of these, too: the `sweep` of the results.
        nbest: above 1, the default beam lists so many outputs of each line, and their expected quality is measured.
        processes: that translate side by side.
        bootstrap: resamples of sentences for the intervals of quality and calibration; 0: no intervals.
        seed: of the resampling.
        truth: the sources are of the shipped grammar: hold the model against the true distribution, too.

    Returns:
        What results.json holds.
    """
    decode = loaded.config.decode
    options: dict[str, Any] = {
        "length_penalty": decode.length_penalty if length_penalty is None else length_penalty,
        "length_alpha": decode.length_alpha if length_alpha is None else length_alpha,
    }
    recalibration = _usable(loaded, test_set)
    resampling: dict[str, Any] = {"resamples": bootstrap, "seed": seed}
    run = _Run(loaded, test_set, recalibration, bootstrap, seed, batch_tokens, processes)
    forced = teacher_forced(loaded, test_set.sources, test_set.references[0], **resampling)
    blocks: dict[str, dict[str, Any]] = {}
    sweep: list[dict[str, Any]] = []
    kept: list[Record] = []
    for beam in sorted({*beams, DEFAULT_BEAM}):
        main = beam == DEFAULT_BEAM
        records, blocks[str(beam)] = run.measure(main=main, beam=beam, nbest=min(nbest, beam) if main else 1, **options)
        if main:
            kept = records
        for penalty in length_penalties:
            alpha = SWEEP_ALPHAS.get(penalty, options["length_alpha"]) if length_alpha is None else length_alpha
            setting: dict[str, Any] = {"length_penalty": penalty, "length_alpha": alpha}
            block = blocks[str(beam)] if setting == options else run.measure(beam=beam, **setting)[1]
            sweep.append(_sweep_row(beam, setting, block, forced))
    add_alternatives(loaded, kept)
    top = blocks[str(DEFAULT_BEAM)]
    results = {
        **top,
        "calibration": {"teacher_forced": forced, **top["calibration"]},
        "beam": DEFAULT_BEAM,
        "beams": blocks,
        "decode": {**options, "max_length": decode.max_length, "lines_cut": len(run.cut)},
        "model": _describe(loaded),
        "data": test_set.description,
    }
    if sweep:
        results["sweep"] = sweep
    if recalibration is not None:
        results["recalibrated"] = _recalibrated(loaded, test_set, kept, recalibration, **resampling)
    if truth:
        results["truth"] = against_truth(loaded, test_set, forced)
    _write(output, results, kept, test_set.references)
    return results


def _recalibrated(
    loaded: LoadedModel, test_set: TestSet, kept: list[Record], recalibration: Recalibration, **resampling: Any
) -> dict[str, Any]:
    """Both calibrations after recalibration, and what the maps are."""
    transform: Any = recalibration.teacher_forced.apply
    return {
        "teacher_forced": teacher_forced(
            loaded, test_set.sources, test_set.references[0], transform=transform, **resampling
        ),
        "inference": inference(kept, **resampling),
        "map": {name: recalibration.saved[name]["picked"] for name in ("teacher_forced", "inference")},
        "fitted_lines": recalibration.saved["fitted_on"]["lines"],
        "thresholds": recalibration.saved.get("thresholds", []),
    }


class _Run:
    """Translates and measures a test set with one setting after another."""

    def __init__(
        self,
        loaded: LoadedModel,
        test_set: TestSet,
        recalibration: Recalibration | None,
        bootstrap: int,
        seed: int,
        batch_tokens: int | None,
        processes: int,
    ) -> None:
        self.loaded, self.test_set = loaded, test_set
        self.bootstrap, self.seed = bootstrap, seed
        self.common: dict[str, Any] = {"batch_tokens": batch_tokens, "processes": processes}
        self.translator = Translator(loaded, recalibrate=recalibration is not None)
        self.cut: set[int] = set()
        tokenizer = loaded.tokenizer
        self.reference_tokens = [
            tokenizer.target_pieces(ids) for ids in tokenizer.encode_target(test_set.references[0])
        ]
        self.source_lengths = [len(ids) for ids in tokenizer.encode_source(test_set.sources)]

    def measure(self, *, main: bool = False, **options: Any) -> tuple[list[Record], dict[str, Any]]:
        """The labelled records and the block of results of one setting; `main`: with everything that there is."""
        records = []
        sources = self.test_set.sources
        with progress_bar(len(sources), f"beam {options['beam']}", "line") as bar:
            for record in self.translator.translate(sources, on_cut=self.cut.add, **self.common, **options):
                records.append(record)
                bar.update(1)
        for record, length, pieces in zip(records, self.source_lengths, self.reference_tokens):
            record.update(source_length=length, reference_tokens=pieces)
        label(records, self.reference_tokens)
        if main:
            label_words(records, self.test_set.references[0])
        return records, _measure(records, self.test_set, self.bootstrap, self.seed, main=main)


def evaluate_records(
    records_path: Path, test_set: TestSet, output: Path, *, bootstrap: int = 1000, seed: int = 12345
) -> dict[str, Any]:
    """Measures another system's output, given as translation records (see `read_records`).

    Without token probabilities there is quality only; teacher-forced figures are never known (None).

    Raises:
        UserError: a line that is no record, or another number of records than of references.
    """
    records = read_records(records_path)
    lines = test_set.description["lines"]
    if len(records) != lines:
        names = ", ".join(test_set.description["references"])
        raise UserError(f"{records_path} has {len(records)} lines, {names} has {lines}; give one record per line")
    sources = test_set.sources or [record.get("source", "") for record in records]
    for record, source in zip(records, sources):
        record["source"] = source
    level: Level = "subword-labelled-by-word"
    if all("reference_tokens" in record for record in records if record.get("tokens")):
        label(records, [record.get("reference_tokens", []) for record in records])
        level = "subword"
    label_words(records, test_set.references[0])
    known = bool(test_set.sources) or any(sources)
    text = TestSet(sources if known else [], test_set.references, {})
    block = _measure(records, text, bootstrap, seed, level, main=True)
    recalibrated = any("raw_confidence" in record for record in records)
    results = {
        **block,
        "calibration": {"teacher_forced": None, **block["calibration"]},
        "beam": None,
        "beams": {},
        "model": {"name": records_path.name, "fingerprint": fingerprint([record["translation"] for record in records])},
        "data": test_set.description,
    }
    if recalibrated:
        own = inference(records, level=level, resamples=bootstrap, seed=seed)
        results["recalibrated"] = {"teacher_forced": None, "inference": own, "map": None}
    _write(output, results, records, test_set.references)
    return results


def _usable(loaded: LoadedModel, test_set: TestSet) -> Recalibration | None:
    """The stored recalibration, unless it was fitted on this very text: then it shall not be reported on it."""
    recalibration = load_recalibration(loaded)
    if recalibration is not None and fitted_on(recalibration.saved, test_set):
        log_line("note: the stored recalibration was fitted on this text and is left out; figures are the model's own")
        return None
    return recalibration


def _measure(
    records: list[Record], test_set: TestSet, bootstrap: int, seed: int, level: Level = "subword", *, main: bool = False
) -> dict[str, Any]:
    """One block of results: quality, length ratio, empties, calibration of the output's tokens by the system's own
    probabilities; `main`: also of its words, and of whole sentences."""
    for record in records:
        if record.get("log_probs") and record.get("token_confidence"):
            own = [math.exp(min(0.0, value)) for value in record["log_probs"]]
            if any(abs(first - second) > 1e-5 for first, second in zip(own, record["token_confidence"])):
                record["raw_confidence"] = own
    hypotheses = [record["translation"] for record in records]
    statistics = quality_statistics(hypotheses, test_set.references)
    quality = corpus_quality(
        hypotheses,
        test_set.references,
        sources=test_set.sources or None,
        bootstrap=bootstrap,
        seed=seed,
        statistics=statistics,
    )
    own_figures: dict[str, Any] = {"confidence": "raw_confidence", "resamples": bootstrap, "seed": seed}
    calibration = {"inference": inference(records, level=level, **own_figures)}
    block = {
        **quality,
        "repetitions": sum(_repeats(hypothesis) for hypothesis in hypotheses),
        "mean_score": _mean_score(records),
        "calibration": calibration,
    }
    if not main:
        return block
    if calibration["inference"] is not None:
        for name in ("product", "minimum"):
            word: Level = "word-product" if name == "product" else "word-minimum"
            calibration[f"inference_word_{name}"] = inference(records, level=word, **own_figures)
        calibration["inference_edit_distance"] = inference(
            records, level=level, correct="correct_in_order", split="inference-edit-distance", **own_figures
        )
    _add_sentence_scores(records, test_set.references, statistics)
    return {**block, "sequence": sentence_level(records, statistics, seed=seed)}


def _add_sentence_scores(records: list[Record], references: list[list[str]], statistics: dict[str, Statistics]) -> None:
    """chrF, sentence BLEU and TER of each record, and chrF of each further output."""
    for name, values in sentence_scores(statistics).items():
        for record, value in zip(records, values):
            record[name] = round(value, 2)
    others = [
        (output, line)
        for line, record in enumerate(records)
        for output in record.get("nbest") or ()
        if isinstance(output, dict) and isinstance(output.get("translation"), str) and output.get("log_probs")
    ]
    streams = [[stream[line] for _, line in others] for stream in references]
    for (output, _), value in zip(others, sentence_chrf([each["translation"] for each, _ in others], streams)):
        output["chrf"] = round(value, 2)


def _sweep_row(beam: int, options: dict[str, Any], block: dict[str, Any], forced: dict[str, Any]) -> dict[str, Any]:
    own = block["calibration"]["inference"]
    return {
        "beam": beam,
        **options,
        "bleu": block["bleu"]["score"],
        "bleu_low": block["bleu"]["low"],
        "bleu_high": block["bleu"]["high"],
        **{name: block[name] for name in ("length_ratio", "empties", "repetitions", "mean_score")},
        "ece_inference": own["ece"] if own else None,
        "ece_teacher_forced": forced["ece"],
        "ece_eos": own["eos"]["ece"] if own else None,
    }


def _repeats(text: str) -> bool:
    """Whether a piece of one to four words stands there three times in a row."""
    words = text.split()
    return any(
        words[first : first + 2 * size] == words[first + size : first + 3 * size]
        for size in range(1, 5)
        for first in range(len(words) - 3 * size + 1)
    )


def _mean_score(records: list[Record]) -> float | None:
    """Mean of what the search ranked the outputs by; None where a record has none."""
    scores = [float(record["score"]) for record in records if record.get("score") is not None]
    return float(np.mean(scores)) if scores and len(scores) == len(records) else None


def _write(output: Path, results: dict[str, Any], records: list[Record], references: list[list[str]]) -> None:
    """Writes the files of an evaluation, results.json last."""
    output.mkdir(parents=True, exist_ok=True)
    hypotheses = [record["translation"] for record in records]
    if looks_tokenized(hypotheses):
        log_line('note: many translations end in " .": BLEU wants detokenised text on both sides')
    for record, *lines in zip(records, *references):
        record["reference"] = lines[0]
        if len(lines) > 1:
            record["references"] = lines
        for name in OWN_FIELDS:
            record.pop(name, None)
    write_text(output / "hypotheses.txt", _encodable("".join(line + "\n" for line in hypotheses)))
    write_text(output / "records.jsonl", _encodable("".join(json_line(record) + "\n" for record in records)))
    text = json.dumps(results, ensure_ascii=False, indent=2, allow_nan=False)
    write_text(output / "results.json", _encodable(text) + "\n")


def _encodable(text: str) -> str:
    """Lone surrogates, which JSON can spell but UTF-8 cannot, become U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _describe(loaded: LoadedModel) -> dict[str, Any]:
    """The `model` block: what identifies it, without the path it lies at."""
    folder = loaded.folder.resolve()
    run = folder.parent.parent if folder.parent.name == "checkpoints" else None
    meta = loaded.meta
    return {
        "name": f"{run.name}/{folder.name}" if run else folder.name,
        "step": meta.get("step"),
        "loss": meta.get("loss"),
        "parameters": meta.get("parameters"),
        "fingerprint": meta.get("weights_blake2b"),
        "tokenizer": loaded.tokenizer.fingerprint,
    }
