"""The evaluation run: translations, their quality, and the calibration of their tokens, in files for programs.

Writes `hypotheses.txt`, `records.jsonl` and `results.json`, which names the digests of the others: wherever the writing
ends, files of two evaluations are never taken for one. The page and the figures are made from these files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import numpy as np

from mt.decoding.confidence import load_recalibration
from mt.decoding.records import Remarks, json_line
from mt.decoding.translator import Translator
from mt.evaluation.judges import Judges
from mt.evaluation.oracle import against_oracle
from mt.evaluation.records import Record, read_records, well_formed
from mt.evaluation.results import BeamBlock, Results, made_with, sweep_row
from mt.evaluation.sentences import expected_against_reached, kept_promise, sentence_level
from mt.evaluation.test_set import TestSet, fingerprint, overlaps
from mt.evaluation.tokens import add_alternatives, inference, label, label_words, teacher_forced, token_confidence
from mt.files.atomic import atomic_file
from mt.files.json_file import file_digest, write_json
from mt.files.lines import check_equally_many
from mt.metrics.bins import CalibrationBlock
from mt.metrics.maps import Temperature
from mt.metrics.quality import check_bleu, corpus_quality, looks_tokenized, quality_statistics
from mt.model.directory import LoadedModel
from mt.progress import busy, log_line, progress_bar

DEFAULT_BEAM = 5
"""the beam of the top level of results.json"""
_OF_RESULTS = "results.json report.html figures/reliability_* figures/sweep_* figures/risk_* figures/selective_*"
"""what an earlier evaluation left that does not go with new records"""
_SWEEP_ALPHAS = {"none": 1.0, "average": 1.0, "gnmt": 0.6}  # where none is given (GNMT's: Wu et al. 2016)


@busy("evaluating")
def evaluate(
    loaded: LoadedModel,
    test_set: TestSet,
    output: Path,
    *,
    beams: Sequence[int] = (DEFAULT_BEAM,),
    length_penalty: str | None = None,
    length_alpha: float | None = None,
    length_penalties: Sequence[str] = (),
    bootstrap: int = 1000,
    seed: int = 12345,
    truth: bool = False,
    command: str = "",
    judges: Judges | None = None,
    **translation: Any,
) -> Results:
    """Translates a test set with each beam size, measures quality and calibration, and writes the files.

    The default beam, 5, is always among the `beams`: it is the top level of the results. `length_penalty` and
    `length_alpha`, None: as the model's config says. Every beam is run with each of `length_penalties`, too: `sweep` in
    the results. `bootstrap`, `seed`: resamples of sentences for the intervals; 0: none. `truth`: the sources are of the
    shipped grammar, so the model is held against the true distribution, too. `judges`: of the default beam's output.
    `command`: for the results. `translation`: `batch_tokens` and `processes` of Translator.translate.
    """
    language = test_set.description.get("target_language") or loaded.config.data.target_language
    check_bleu(language, test_set.references[0])
    test_set = replace(test_set, description=test_set.description | {"target_language": language})
    decode = loaded.config.decode
    alpha = decode.length_alpha if length_alpha is None else length_alpha
    search = {"length_penalty": length_penalty or decode.length_penalty, "length_alpha": alpha}
    resampling = {"resamples": bootstrap, "seed": seed}
    run = _Run(loaded, test_set, resampling, translation, judges or Judges())
    blocks: dict[str, BeamBlock] = {}
    sweep = []
    for beam in sorted({*beams, DEFAULT_BEAM}):
        main = beam == DEFAULT_BEAM
        blocks[str(beam)] = run.measure(search, main=main, beam=beam)
        for name in length_penalties:
            usual = _SWEEP_ALPHAS.get(name, alpha) if length_alpha is None else alpha
            other = {"length_penalty": name, "length_alpha": usual}
            block = blocks[str(beam)] if other == search else run.measure(other, beam=beam)
            sweep.append(sweep_row(beam, other, block, run.forced))
    add_alternatives(loaded, run.records)
    block = blocks[str(DEFAULT_BEAM)]
    results = {
        **block,
        "calibration": {"teacher_forced": run.forced, **block["calibration"]},
        "beam": DEFAULT_BEAM,
        "beams": blocks,
        "decode": {**search, "max_length": decode.max_length, **run.told()},
        "model": _describe(loaded),
        "data": test_set.description,
        "config": _config(loaded),
        "evaluation": made_with(command, **run.speed),
        **({"sweep": sweep} if sweep else {}),
        **({"recalibrated": run.recalibrated(), "fit": run.fit} if run.recalibration else {}),
        **({"truth": against_oracle(loaded, test_set, run.forced)} if truth else {}),
        **run.judges.results(run.records, **resampling),
    }
    return _written(output, results, run.with_sums(), test_set.references)


class _Run:
    """Translates and measures a test set with one setting after another."""

    def __init__(
        self,
        loaded: LoadedModel,
        test_set: TestSet,
        resampling: dict[str, Any],
        translation: dict[str, Any],
        judges: Judges,
    ) -> None:
        self.loaded, self.test_set, self.resampling, self.translation = loaded, test_set, resampling, translation
        self.judges = judges
        self.recalibration = load_recalibration(loaded)
        self.fit: dict[str, Any] | None = None
        """how unlike the test set is to what confidence was fitted on"""
        if self.recalibration and overlaps(self.recalibration.saved["fitted_on"], test_set):
            left_out = "the stored recalibration was fitted on this text and is left out"
            log_line(f"note: {left_out}; figures are the model's own")
            self.recalibration = None
        self.translator = Translator(loaded, recalibrate=self.recalibration is not None)
        counts = loaded.piece_counts
        self.counts = None if counts is None else np.array(counts[1])
        self.count_of_piece = None if counts is None else dict(zip(loaded.tokenizer.vocabularies[1], counts[1]))
        self.sums: dict[str, dict[int, Any]] = {}
        """for paired tests: by calibration block and line"""
        self.forced = self._teacher_forced("teacher_forced")
        self.records: list[Record] = []
        """labelled ones, of the main setting"""
        self.speed: dict[str, Any] = {}
        """of the main setting: lines a second, and on what"""

    def measure(self, search: dict[str, Any], *, beam: int, main: bool = False) -> BeamBlock:
        """The block of results of one setting; `main`: with everything that there is."""
        sources, references = self.test_set.sources, self.test_set.references[0]
        options = {"beam": beam, "nbest": 1, **search, **self.translation}
        tokenizer, records, start = self.loaded.tokenizer, [], perf_counter()
        with progress_bar(len(sources), f"beam {beam}", "line") as bar:
            translated = self.translator.translate(sources, **options)
            for record, reference in zip(translated, tokenizer.encode_target(references)):
                record["reference_tokens"] = tokenizer.target_pieces(reference)
                records.append(record)
                bar.update(1)
        speed = len(records) / (perf_counter() - start)
        label(records)
        level = self.judges.level("subword") if main else "subword"
        if main:
            device, processes = self.loaded.model.output_weight.device.type, self.translation.get("processes")
            self.speed = {"lines_per_second": round(speed, 1), "device": device, "processes": processes}
            self.judges.mark(records)
            self.records, self.fit = records, self.translator.fit()
        with busy(f"measuring beam {beam}"):
            options = {"main": main, "training_counts": self.count_of_piece}
            return _measure(records, self.test_set, self.resampling, level, **options)

    def with_sums(self) -> list[Record]:
        """The records of the main setting with what paired tests of calibration need."""
        for name, of_line in self.sums.items():
            for line, sums in of_line.items():
                self.records[line][name] = sums
        return self.records

    def told(self) -> dict[str, int]:
        """How many lines were translated in parts, though read whole where the reference is the prefix, and how many
        hold characters that no piece is known for; said, too, if there are any."""
        remarks = Remarks(self.loaded.tokenizer)
        for record in self.records:
            remarks.add(record)
        remarks.warn("translated in parts", self.loaded.config.decode.max_length)
        return {"lines_overlong": remarks.overlong.count, "lines_with_unknown": remarks.unknown.count}

    def recalibrated(self) -> dict[str, Any]:
        """The `recalibrated` block: both calibrations with what is stored, `teacher_forced` None where nothing is for
        it, and what that is."""
        assert self.recalibration is not None
        saved, forced = self.recalibration.saved, self.recalibration.teacher_forced
        mapped = forced != Temperature()
        return {
            "teacher_forced": self._teacher_forced("recalibrated_teacher_forced", forced.apply) if mapped else None,
            "inference": inference(
                self.records, level=self.judges.level("subword"), recalibrated=True, training_counts=self.count_of_piece
            ),
            "map": {name: saved[name]["picked"] for name in ("teacher_forced", "inference")},
            "fitted_lines": saved["fitted_on"]["lines"],
            "promises": [kept_promise(each, self.records) for each in saved["promises"]],
        }

    def _teacher_forced(self, name: str, transform: Any = None) -> CalibrationBlock:
        text, sums = (self.test_set.sources, self.test_set.references[0]), self.sums.setdefault(name, {})
        options: dict[str, Any] = {"transform": transform, "training_counts": self.counts, "sums": sums}
        with busy("scoring the references"):
            return teacher_forced(self.loaded, *text, **options).result()


@busy("evaluating")
def evaluate_records(
    records_path: Path,
    test_set: TestSet,
    output: Path,
    *,
    bootstrap: int = 1000,
    seed: int = 12345,
    command: str = "",
    judges: Judges | None = None,
) -> Results:
    """Measures another system's output, given as translation records, as many as there are references. Without token
    probabilities there is quality only; teacher-forced figures are never known (None). Raises UserError as
    `read_records`."""
    check_bleu(test_set.description.get("target_language"), test_set.references[0])
    judges = judges or Judges()
    records = read_records(records_path)
    described = test_set.description
    check_equally_many(records_path, len(records), ", ".join(described["references"]), described["lines"])
    sources = test_set.sources or [record.get("source", "") for record in records]
    records = [record | {"source": source} for record, source in zip(records, sources)]
    level = "subword-labelled-by-word"
    if all("reference_tokens" in record for record in records if record.get("tokens")):
        level = "subword"
        label(records)
    else:
        label_words(records, test_set.references[0])
    judges.mark(records)
    level = judges.level(level)
    resampling: dict[str, Any] = {"resamples": bootstrap, "seed": seed}
    text = replace(test_set, sources=sources if any(sources) else [])
    block = _measure(records, text, resampling, level, main=True)
    results: dict[str, Any] = {
        **block,
        "calibration": {"teacher_forced": None, **block["calibration"]},
        "beam": None,
        "beams": {},
        "model": {"name": records_path.name, "fingerprint": fingerprint([each["translation"] for each in records])},
        "data": test_set.description,
        "evaluation": made_with(command),
    }
    if any(token_confidence(each, True) != token_confidence(each, False) for each in records):
        own = inference(records, level=level, recalibrated=True)
        results["recalibrated"] = {"teacher_forced": None, "inference": own, "map": None}
    results |= judges.results(records, **resampling)
    return _written(output, results, records, test_set.references)


def _measure(
    records: list[Record],
    text: TestSet,
    resampling: dict[str, Any],
    level: str = "subword",
    *,
    main: bool,
    training_counts: dict[str, int] | None = None,
) -> BeamBlock:
    """One block of results: quality, length ratio, empties, calibration of the output's tokens by the system's own
    probabilities; `main`: also of whole sentences."""
    hypotheses, scores = zip(*((record["translation"], record.get("score")) for record in records))
    statistics = quality_statistics(hypotheses, text.references, language=text.description.get("target_language"))
    block: dict[str, Any] = {
        **corpus_quality(hypotheses, text.references, statistics, sources=text.sources or None, **resampling),
        "repetitions": sum(map(_repeats, hypotheses)),
        "mean_score": None if None in scores else float(np.mean(np.array(scores, dtype=np.float64))),
        "calibration": {"inference": inference(records, level=level, training_counts=training_counts)},
    }
    if main:
        block["sequence"] = sentence_level(records, statistics)
        block["quality"] = expected_against_reached(records)
    return cast(BeamBlock, block)


def _repeats(text: str) -> bool:
    """Whether a piece of one to four words stands there three times in a row."""
    words = text.split()
    return any(
        words[first : first + 2 * size] == words[first + size : first + 3 * size]
        for size in range(1, 5)
        for first in range(len(words) - 3 * size + 1)
    )


def _describe(loaded: LoadedModel) -> dict[str, Any]:
    """The `model` block: what identifies it, without the path it lies at."""
    folder = loaded.folder.resolve()
    return {
        "name": (f"{folder.parent.parent.name}/" if folder.parent.name == "checkpoints" else "") + folder.name,
        **{key: loaded.meta.get(key) for key in ("step", "loss", "parameters", "data")},
        "fingerprint": loaded.meta.get("weights_blake2b"),
        "tokenizer": loaded.tokenizer.fingerprint,
    }


def _config(loaded: LoadedModel) -> dict[str, Any]:
    config = asdict(loaded.config)
    return config | {"run_dir": "", "data": config["data"] | {"root": "", "cache": ""}}


def _written(output: Path, results: dict[str, Any], records: list[Record], references: list[list[str]]) -> Results:
    """The results, after the files of the evaluation are written, results.json last."""
    output.mkdir(parents=True, exist_ok=True)
    hypotheses = [record["translation"] for record in records]
    if looks_tokenized(hypotheses):
        log_line('note: many translations end in " .": BLEU wants detokenised text on both sides')
    for record, *lines in zip(records, *references):
        record |= {"reference": lines[0], **({"references": lines} if len(lines) > 1 else {})}
    texts = {"records.jsonl": map(json_line, records), "hypotheses.txt": hypotheses}
    with ExitStack() as stack:  # all is written before anything is renamed, and results.json is renamed last
        summary = stack.enter_context(atomic_file(output / "results.json"))
        paths = {name: stack.enter_context(atomic_file(output / name)) for name in texts}
        for name, text in texts.items():
            paths[name].write_bytes(well_formed("".join(f"{line}\n" for line in text)).encode())
        named = results | {"files": {name: file_digest(path) for name, path in paths.items()}}
        write_json(summary, json.loads(well_formed(json.dumps(named, ensure_ascii=False, allow_nan=False))))
        for old in (path for pattern in _OF_RESULTS.split() for path in output.glob(pattern) if path.is_file()):
            Path(os.path.realpath(old)).unlink()
    return cast(Results, results)
