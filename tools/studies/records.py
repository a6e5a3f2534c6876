"""What is kept of a model: a row for each token and each line of a text, so that a new estimator needs no new run.

Numpy arrays in one `.npz` for the tokens of a text's references, and one for each search's output.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mt.config import DataConfig
from mt.corpus.text import read_pairs
from mt.decoding.scoring import Distributions, score_pairs
from mt.decoding.translator import Translator
from mt.errors import UserError
from mt.evaluation.tokens import encoded_pairs, label
from mt.files.atomic import atomic_file
from mt.files.lines import read_lines
from mt.grammar.grammar import sample_pairs
from mt.grammar.oracle import Oracle, oracle_of
from mt.metrics.labels import END
from mt.metrics.maps import Temperature, TemperatureFit
from mt.metrics.quality import quality_statistics
from mt.model.directory import LoadedModel
from tools.studies.plan import TestText

Arrays = dict[str, np.ndarray]

_VALID_PAIRS = 1000


def read_test(test: TestText, data: DataConfig) -> tuple[list[str], list[str]]:
    """Sources and references of a text, in the languages and from the root of a corpus."""
    if not test.pairs:
        sides = [
            list(read_lines([Path(data.root) / name]))[: test.lines or None] for name in (test.source, test.target)
        ]
        return sides[0], sides[1]
    chosen: list[tuple[str, str]] = []
    drawn = test.pairs
    while len(chosen) < test.pairs:  # a longer draw begins with the shorter one
        pairs = sample_pairs((data.source_language, data.target_language), drawn, test.seed, split="test")
        chosen = [pair for pair in pairs if len(pair[0].split()) >= test.shortest_source]
        drawn *= 2
    sources, references = zip(*chosen[: test.pairs])
    return list(sources), list(references)


def fitted_temperature(loaded: LoadedModel) -> Temperature:
    """The temperature of least NLL on the validation text of the model's config; `test` chooses nothing."""
    data, fit = loaded.config.data, TemperatureFit()
    pairs = [pair for corpus in data.valid for pair in read_pairs(corpus, data)][:_VALID_PAIRS]
    source_ids, target_ids, _ = encoded_pairs(loaded, *map(list, zip(*pairs)))
    for _ in score_pairs(
        loaded, source_ids, target_ids, observe=lambda each: fit.update(each.log_probs, each.target_ids)
    ):
        pass
    return fit.map()


def forced_records(
    loaded: LoadedModel, sources: list[str], references: list[str], temperature: Temperature, oracle: Oracle | None
) -> Arrays:
    """Of each reference token: `line`, `nll`, `confidence` (of the likeliest), `right` (whether it is the token),
    `entropy`, and `tempered_nll`, `tempered_confidence` at the temperature. With an oracle `kl` of the model from the
    truth and `true_best`, the true probability of the likeliest, nan where the reference's prefix is none the grammar
    makes; and of each token that can come next its true and the model's probability, `curve_true`, `curve_model`.
    Of each line `words`, those of its source."""
    source_ids, target_ids, lines = encoded_pairs(loaded, sources, references)
    first = np.concatenate([[0], np.cumsum([len(ids) for ids in target_ids])])
    names = ["nll", "confidence", "right", "entropy", "tempered_nll", "tempered_confidence"]
    names += ["kl", "true_best"] if oracle else []
    found = {name: np.full(first[-1], np.nan, dtype=np.float32) for name in names}
    curve: list[tuple[np.ndarray, np.ndarray]] = []

    def observe(chunk: Distributions) -> None:
        rows = first[chunk.pairs] + chunk.positions
        tempered = temperature.apply(chunk.log_probs)
        best, best_ids = chunk.log_probs.max(-1)
        of_target = [each.gather(1, chunk.target_ids[:, None])[:, 0] for each in (chunk.log_probs, tempered)]
        values = {
            "nll": -of_target[0],
            "confidence": best.exp(),
            "right": best_ids == chunk.target_ids,
            "entropy": -(chunk.log_probs.exp() * chunk.log_probs.clamp(min=-1e4)).sum(-1),
            "tempered_nll": -of_target[1],
            "tempered_confidence": tempered.amax(-1).exp(),
        }
        for name, value in values.items():
            found[name][rows] = value.numpy(force=True)
        for place in range(len(rows)) if oracle else ():
            assert oracle is not None
            ids, true = oracle.rows[lines[chunk.pairs[place]]][chunk.positions[place]]
            if len(ids):
                own = chunk.log_probs[place, torch.from_numpy(ids)].double().numpy(force=True)
                found["kl"][rows[place]] = float(np.sum(true * (np.log(true) - own)))
                found["true_best"][rows[place]] = true[ids == int(best_ids[place])].sum()
                curve.append((true, np.exp(own)))

    for _ in score_pairs(loaded, source_ids, target_ids, observe=observe):
        pass
    found["line"] = np.repeat(np.array(lines, dtype=np.int32), np.diff(first))
    found["words"] = np.array([len(source.split()) for source in sources], dtype=np.int16)
    if oracle:
        found["curve_true"], found["curve_model"] = (np.concatenate(each).astype(np.float32) for each in zip(*curve))
    return found


def output_records(
    loaded: LoadedModel,
    sources: list[str],
    references: list[str],
    oracle: Oracle | None,
    processes: int,
    search: Mapping[str, Any],
) -> tuple[Arrays, list[str]]:
    """Of each output token `line`, `log_prob`, `right` (by alignment) and `end` (of the sentence); of each line `bleu`
    (BLEU's counts), `chrf`, `score`; with an oracle `true_log_prob`, -inf where the output is no translation. And the
    outputs."""
    translator = Translator(loaded, recalibrate=False)
    records = list(translator.translate(sources, processes=processes, **search))
    encoded = loaded.tokenizer.encode_target(references)
    for record, ids in zip(records, encoded):
        record["reference_tokens"] = loaded.tokenizer.target_pieces(ids)
    label(records)
    outputs = [record["translation"] for record in records]
    language = loaded.config.data.target_language
    statistics = quality_statistics(outputs, [references], language=language, ter=False)
    found = {
        "line": np.repeat(np.arange(len(records), dtype=np.int32), [len(each["tokens"]) for each in records]),
        "log_prob": _joined(records, "log_probs").astype(np.float32),
        "right": _joined(records, "correct").astype(np.float32),
        "end": np.array([token == END for each in records for token in each["tokens"]]),
        "bleu": statistics["bleu"].counts.astype(np.int32),
        "chrf": np.array(statistics["chrf"].sentence_scores(), dtype=np.float32),
        "score": np.array([each["score"] for each in records], dtype=np.float32),
    }
    if oracle:
        true = [each.get(output, 0.0) for each, output in zip(oracle.translations, outputs)]
        found["true_log_prob"] = np.array([math.log(each) if each else -math.inf for each in true], dtype=np.float32)
    return found, outputs


def _joined(records: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    return np.array([value for record in records for value in record.get(name) or ()])


_oracles: dict[str, Oracle] = {}


def oracle_for(test: TestText, loaded: LoadedModel, sources: list[str], references: list[str]) -> Oracle | None:
    """The truth of a text of the grammar; worked out once for all models with the same tokeniser."""
    data = loaded.config.data
    languages = (data.source_language, data.target_language)
    key = f"{test} {languages} {loaded.tokenizer.fingerprint}"
    if test.pairs and key not in _oracles:
        _oracles[key] = oracle_of(languages, sources, references, loaded.tokenizer.encode_target)
    return _oracles.get(key)


def save(path: Path, arrays: Arrays) -> None:
    """Writes arrays to a `.npz` file, whole or not at all."""
    with atomic_file(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]  # its stubs take names for its option


def read(path: Path) -> Arrays:
    """The arrays of a file that `save` wrote; nothing in it is unpickled. Raises UserError where it is none."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{path}: is no file of records ({error}); remove it, and run the cell again") from None
