"""The evaluation run: translations, their quality, and the calibration of their tokens, in files for programs.

Writes `results.json`, `hypotheses.txt` and `records.jsonl`; the page and the figures are made from these files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mt.atomic import write_text
from mt.decoding.records import json_line
from mt.decoding.translator import Translator
from mt.errors import UserError
from mt.evaluation.quality import corpus_quality, looks_tokenized, sentence_chrf
from mt.evaluation.records import Record, read_records
from mt.evaluation.test_set import TestSet, fingerprint
from mt.evaluation.token_calibration import inference, label, label_by_words, teacher_forced
from mt.evaluation.truth import against_truth
from mt.model.directory import LoadedModel
from mt.progress import message, progress_bar

__all__ = ["DEFAULT_BEAM", "evaluate", "evaluate_records", "teacher_forced"]

DEFAULT_BEAM = 5
"""the beam of the top level of results.json"""


def evaluate(
    loaded: LoadedModel,
    test_set: TestSet,
    output: Path,
    *,
    beams: Sequence[int] = (DEFAULT_BEAM,),
    length_penalty: str | None = None,
    length_alpha: float | None = None,
    batch_tokens: int | None = None,
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
        bootstrap: resamples for the intervals of quality; 0: no intervals.
        seed: of the resampling.
        truth: the sources are of the shipped grammar: hold the model against the true distribution, too.

    Returns:
        What results.json holds.
    """
    decode = loaded.config.decode
    options = {
        "length_penalty": decode.length_penalty if length_penalty is None else length_penalty,
        "length_alpha": decode.length_alpha if length_alpha is None else length_alpha,
    }
    first_reference = loaded.tokenizer.encode_target(test_set.references[0])
    reference_tokens = [loaded.tokenizer.target_pieces(ids) for ids in first_reference]
    blocks: dict[str, dict[str, Any]] = {}
    kept: list[Record] = []
    cut: set[int] = set()
    for beam in sorted({*beams, DEFAULT_BEAM}):
        records = _translate(loaded, test_set.sources, cut, beam=beam, batch_tokens=batch_tokens, **options)
        label(records, reference_tokens)
        blocks[str(beam)] = _measure(records, test_set, bootstrap, seed)
        if beam == DEFAULT_BEAM:
            kept = records
    top = blocks[str(DEFAULT_BEAM)]
    forced = teacher_forced(loaded, test_set.sources, test_set.references[0])
    results = {
        **top,
        "calibration": {"teacher_forced": forced, **top["calibration"]},
        "beam": DEFAULT_BEAM,
        "beams": blocks,
        "decode": {**options, "max_length": decode.max_length, "lines_cut": len(cut)},
        "model": _describe(loaded),
        "data": test_set.description,
    }
    if truth:
        results["truth"] = against_truth(loaded, test_set, forced["nll"])
    _write(output, results, kept, test_set.references)
    return results


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
    if all("reference_tokens" in record for record in records if record.get("tokens")):
        label(records, [record.pop("reference_tokens", []) for record in records])
        level = "subword"
    else:
        label_by_words(records, test_set.references[0])
        level = "subword-labelled-by-word"
    known = bool(test_set.sources) or any(sources)
    block = _measure(records, TestSet(sources if known else [], test_set.references, {}), bootstrap, seed, level)
    results = {
        **block,
        "calibration": {"teacher_forced": None, **block["calibration"]},
        "beam": None,
        "beams": {},
        "model": {
            "name": records_path.name,
            "fingerprint": fingerprint([record["translation"] for record in records]),
        },
        "data": test_set.description,
    }
    _write(output, results, records, test_set.references)
    return results


def _translate(loaded: LoadedModel, sources: list[str], cut: set[int], **options: Any) -> list[Record]:
    records = []
    with progress_bar(len(sources), f"beam {options['beam']}", "line") as bar:
        for record in Translator(loaded).translate(sources, on_cut=cut.add, **options):
            records.append(record)
            bar.update(1)
    return records


def _measure(
    records: list[Record], test_set: TestSet, bootstrap: int, seed: int, level: str = "subword"
) -> dict[str, Any]:
    """One block of results: quality, length ratio, empties, and calibration of the output."""
    hypotheses = [record["translation"] for record in records]
    quality = corpus_quality(
        hypotheses, test_set.references, sources=test_set.sources or None, bootstrap=bootstrap, seed=seed
    )
    return {**quality, "calibration": {"inference": inference(records, level=level)}}


def _write(
    output: Path, results: dict[str, Any], records: list[Record], references: list[list[str]]
) -> None:
    """Writes the files of an evaluation, results.json last."""
    output.mkdir(parents=True, exist_ok=True)
    hypotheses = [record["translation"] for record in records]
    if looks_tokenized(hypotheses):
        message('note: many translations end in " .": BLEU wants detokenised text on both sides')
    for record, chrf, *lines in zip(records, sentence_chrf(hypotheses, references), *references):
        record["reference"] = lines[0]
        if len(lines) > 1:
            record["references"] = lines
        record["chrf"] = round(chrf, 2)
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
