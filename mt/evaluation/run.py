"""The evaluation run: translations, their quality, and the calibration of their tokens, in files for programs.

Writes `results.json`, `hypotheses.txt` and `records.jsonl`; the page and the figures are made from these files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from mt.decoding.confidence import Recalibration, load_recalibration
from mt.decoding.records import json_line
from mt.decoding.translator import Translator
from mt.errors import UserError
from mt.evaluation.alternatives import add_alternatives
from mt.evaluation.leakage import overlaps
from mt.evaluation.oracle import against_oracle
from mt.evaluation.records import read_records
from mt.evaluation.results import BeamBlock, Results, SweepRow
from mt.evaluation.sentences import sentence_level
from mt.evaluation.test_set import TestSet, fingerprint
from mt.evaluation.tokens import Level, Output, inference, label, label_words, teacher_forced
from mt.files.atomic import write_text
from mt.metrics.bins import CalibrationBlock
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

DEFAULT_BEAM = 5
"""the beam of the top level of results.json"""
SWEEP_ALPHAS = {"none": 1.0, "average": 1.0, "gnmt": 0.6}
"""exponents of a sweep's length penalties where none is given (Wu et al. 2016 for GNMT's)"""


def evaluate(
    loaded: LoadedModel,
    test_set: TestSet,
    output: Path,
    *,
    beams: Sequence[int] = (DEFAULT_BEAM,),
    length_penalty: str | None = None,
    length_alpha: float | None = None,
    length_penalties: Sequence[str] = (),
    nbest: int = 1,
    bootstrap: int = 1000,
    seed: int = 12345,
    truth: bool = False,
    **translation: Any,
) -> Results:
    """Translates a test set with each beam size and measures quality and calibration.

    Args:
        loaded: the model.
        test_set: what to translate.
        output: folder for results.json, hypotheses.txt and records.jsonl, made if need be.
        beams: sizes to evaluate; 5, the default beam, is added because it is the top level of the results.
        length_penalty, length_alpha: of the search; None: as the model's config says.
        length_penalties: where given, every beam is run with each of these, too: the `sweep` of the results.
        nbest: above 1, the default beam lists so many outputs of each line, and their expected quality is measured.
        bootstrap: resamples of sentences for the intervals of quality and calibration; 0: no intervals.
        seed: of the resampling.
        truth: the sources are of the shipped grammar: hold the model against the true distribution, too.
        translation: `batch_tokens` and `processes` of Translator.translate.

    Returns:
        What results.json holds.
    """
    decode = loaded.config.decode
    search: dict[str, Any] = {
        "length_penalty": length_penalty or decode.length_penalty,
        "length_alpha": decode.length_alpha if length_alpha is None else length_alpha,
    }
    recalibration = _usable_recalibration(loaded, test_set)
    run = _Run(loaded, test_set, recalibration, {"resamples": bootstrap, "seed": seed}, translation)
    forced = run.teacher_forced()
    blocks: dict[str, BeamBlock] = {}
    sweep: list[SweepRow] = []
    for beam in sorted({*beams, DEFAULT_BEAM}):
        if beam == DEFAULT_BEAM:
            outputs, block = run.measure(main=True, beam=beam, nbest=min(nbest, beam), **search)
        else:
            block = run.measure(beam=beam, **search)[1]
        blocks[str(beam)] = block
        for name in length_penalties:
            alpha = SWEEP_ALPHAS.get(name, decode.length_alpha) if length_alpha is None else length_alpha
            other: dict[str, Any] = {"length_penalty": name, "length_alpha": alpha}
            measured = block if other == search else run.measure(beam=beam, **other)[1]
            sweep.append(_sweep_row(beam, other, measured, forced))
    add_alternatives(loaded, [each.record for each in outputs])
    top = blocks[str(DEFAULT_BEAM)]
    results: dict[str, Any] = {
        **top,
        "calibration": {"teacher_forced": forced, **top["calibration"]},
        "beam": DEFAULT_BEAM,
        "beams": blocks,
        "decode": {**search, "max_length": decode.max_length, "lines_cut": len(run.cut)},
        "model": _describe(loaded),
        "data": test_set.description,
    }
    if sweep:
        results["sweep"] = sweep
    if recalibration is not None:
        results["recalibrated"] = run.recalibrated(recalibration, outputs)
    if truth:
        results["truth"] = against_oracle(loaded, test_set, forced)
    return _write(output, cast(Results, results), outputs, test_set.references)


class _Run:
    """Translates and measures a test set with one setting after another."""

    def __init__(
        self,
        loaded: LoadedModel,
        test_set: TestSet,
        recalibration: Recalibration | None,
        resampling: dict[str, Any],
        translation: dict[str, Any],
    ) -> None:
        self.loaded, self.test_set = loaded, test_set
        self.resampling, self.translation = resampling, translation
        self.translator = Translator(loaded, recalibrate=recalibration is not None)
        self.cut: set[int] = set()
        """numbers of lines that are too long for the model"""
        tokenizer = loaded.tokenizer
        self.reference_tokens = [
            tokenizer.target_pieces(ids) for ids in tokenizer.encode_target(test_set.references[0])
        ]
        self.source_lengths = [len(ids) for ids in tokenizer.encode_source(test_set.sources)]

    def teacher_forced(self, transform: Any = None) -> CalibrationBlock:
        """The calibration with the references as prefix, of distributions after `transform` if given."""
        text = self.test_set.sources, self.test_set.references[0]
        return teacher_forced(self.loaded, *text, transform=transform, breakdown=True, **self.resampling).result()

    def measure(self, *, main: bool = False, **search: Any) -> tuple[list[Output], BeamBlock]:
        """The labelled outputs and the block of results of one setting; `main`: with everything that there is."""
        outputs = []
        sources = self.test_set.sources
        with progress_bar(len(sources), f"beam {search['beam']}", "line") as bar:
            found = self.translator.translate(sources, on_cut=self.cut.add, **self.translation, **search)
            for record, length, pieces in zip(found, self.source_lengths, self.reference_tokens):
                outputs.append(Output(record | {"reference_tokens": pieces}, length))
                label(outputs[-1], pieces)
                bar.update(1)
        if main:
            for each, reference in zip(outputs, self.test_set.references[0]):
                label_words(each, reference)
        return outputs, _measure(outputs, self.test_set, self.resampling, main=main)

    def recalibrated(self, recalibration: Recalibration, outputs: list[Output]) -> dict[str, Any]:
        """Both calibrations after recalibration, and what the maps are."""
        saved = recalibration.saved
        return {
            "teacher_forced": self.teacher_forced(recalibration.teacher_forced.apply),
            "inference": inference(outputs, recalibrated=True, **self.resampling),
            "map": {name: saved[name]["picked"] for name in ("teacher_forced", "inference")},
            "fitted_lines": saved["fitted_on"]["lines"],
            "thresholds": saved.get("thresholds", []),
        }


def evaluate_records(
    records_path: Path, test_set: TestSet, output: Path, *, bootstrap: int = 1000, seed: int = 12345
) -> Results:
    """Measures another system's output, given as translation records (see `read_records`).

    Without token probabilities there is quality only; teacher-forced figures are never known (None).

    Raises:
        UserError: a line that is no record, or another number of records than of references.
    """
    outputs = [Output(record) for record in read_records(records_path)]
    records = [each.record for each in outputs]
    lines = test_set.description["lines"]
    if len(records) != lines:
        names = ", ".join(test_set.description["references"])
        raise UserError(f"{records_path} has {len(records)} lines, {names} has {lines}; give one record per line")
    sources = test_set.sources or [record.get("source", "") for record in records]
    for record, source in zip(records, sources):
        record["source"] = source
    level: Level = "subword-labelled-by-word"
    if all("reference_tokens" in record for record in records if record.get("tokens")):
        level = "subword"
        for each in outputs:
            label(each, each.record.get("reference_tokens", []))
    for each, reference in zip(outputs, test_set.references[0]):
        label_words(each, reference)
    resampling = {"resamples": bootstrap, "seed": seed}
    text = TestSet(sources if any(sources) else test_set.sources, test_set.references, test_set.description)
    block = _measure(outputs, text, resampling, level, main=True)
    results: dict[str, Any] = {
        **block,
        "calibration": {"teacher_forced": None, **block["calibration"]},
        "beam": None,
        "beams": {},
        "model": {"name": records_path.name, "fingerprint": fingerprint([record["translation"] for record in records])},
        "data": test_set.description,
    }
    if any(each.is_recalibrated for each in outputs):
        own = inference(outputs, level=level, recalibrated=True, **resampling)
        results["recalibrated"] = {"teacher_forced": None, "inference": own, "map": None}
    return _write(output, cast(Results, results), outputs, test_set.references)


def _usable_recalibration(loaded: LoadedModel, test_set: TestSet) -> Recalibration | None:
    """The stored recalibration, unless it was fitted on this very text: then it shall not be reported on it."""
    recalibration = load_recalibration(loaded)
    if recalibration is not None and overlaps(recalibration.saved["fitted_on"], test_set):
        log_line("note: the stored recalibration was fitted on this text and is left out; figures are the model's own")
        return None
    return recalibration


def _measure(
    outputs: list[Output],
    test_set: TestSet,
    resampling: dict[str, Any],
    level: Level = "subword",
    *,
    main: bool = False,
) -> BeamBlock:
    """One block of results: quality, length ratio, empties, calibration of the output's tokens by the system's own
    probabilities; `main`: also of its words, and of whole sentences."""
    records = [each.record for each in outputs]
    hypotheses = [record["translation"] for record in records]
    statistics = quality_statistics(hypotheses, test_set.references)
    quality = corpus_quality(
        hypotheses,
        test_set.references,
        sources=test_set.sources or None,
        bootstrap=resampling["resamples"],
        seed=resampling["seed"],
        statistics=statistics,
    )
    scores = [float(record["score"]) for record in records if record.get("score") is not None]
    block: dict[str, Any] = {
        **quality,
        "repetitions": sum(_repeats(hypothesis) for hypothesis in hypotheses),
        "mean_score": float(np.mean(scores)) if scores and len(scores) == len(records) else None,
        "calibration": {"inference": inference(outputs, level=level, **resampling)},
    }
    if main:
        if block["calibration"]["inference"] is not None:
            words = inference(outputs, level="word-product", **resampling)
            block["calibration"]["inference_word_product"] = words
        _add_sentence_scores(outputs, test_set.references, statistics)
        block["sequence"] = sentence_level(records, statistics, seed=resampling["seed"])
    return cast(BeamBlock, block)


def _add_sentence_scores(outputs: list[Output], references: list[list[str]], statistics: dict[str, Statistics]) -> None:
    """chrF, sentence BLEU and TER of each record, and chrF of each further output."""
    for name, values in sentence_scores(statistics).items():
        for output, value in zip(outputs, values):
            output.record[name] = round(value, 2)
    others = [
        (other, line)
        for line, output in enumerate(outputs)
        for other in output.record.get("nbest") or ()
        if isinstance(other, dict) and isinstance(other.get("translation"), str) and other.get("log_probs")
    ]
    streams = [[stream[line] for _, line in others] for stream in references]
    for (other, _), value in zip(others, sentence_chrf([each["translation"] for each, _ in others], streams)):
        other["chrf"] = round(value, 2)


def _sweep_row(beam: int, search: dict[str, Any], block: BeamBlock, forced: CalibrationBlock) -> SweepRow:
    own = block["calibration"]["inference"]
    return {
        "beam": beam,
        "length_penalty": search["length_penalty"],
        "length_alpha": search["length_alpha"],
        "bleu": block["bleu"]["score"],
        "bleu_low": block["bleu"]["low"],
        "bleu_high": block["bleu"]["high"],
        "length_ratio": block["length_ratio"],
        "empties": block["empties"],
        "repetitions": block["repetitions"],
        "mean_score": block["mean_score"],
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


def _write(output: Path, results: Results, outputs: list[Output], references: list[list[str]]) -> Results:
    """Writes the files of an evaluation, results.json last, and returns the results."""
    output.mkdir(parents=True, exist_ok=True)
    records = [each.record for each in outputs]
    hypotheses = [record["translation"] for record in records]
    if looks_tokenized(hypotheses):
        log_line('note: many translations end in " .": BLEU wants detokenised text on both sides')
    for record, *lines in zip(records, *references):
        record["reference"] = lines[0]
        if len(lines) > 1:
            record["references"] = lines
    files = {
        "hypotheses.txt": "".join(line + "\n" for line in hypotheses),
        "records.jsonl": "".join(json_line(record) + "\n" for record in records),
        "results.json": json.dumps(results, ensure_ascii=False, indent=2, allow_nan=False) + "\n",
    }
    for name, text in files.items():
        # lone surrogates, which JSON can spell but UTF-8 cannot, become U+FFFD
        write_text(output / name, text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    return results


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
