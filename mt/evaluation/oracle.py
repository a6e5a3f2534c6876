"""Against the truth: on text of the shipped grammar the true distribution of the next token is known.

So calibration needs no estimate there: the probability that the model's likeliest token is right is a number, not a
draw. That shows how close the usual estimates come, and what recalibration is worth in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from mt.decoding.scoring import Chunk, Transform, score_pairs
from mt.evaluation.test_set import TestSet
from mt.evaluation.tokens import encoded_pairs
from mt.grammar.grammar import Grammar, TokenTruth, sample_pairs
from mt.metrics import CalibrationBins
from mt.metrics.maps import InverseLink, Temperature, TemperatureFit
from mt.metrics.quality import corpus_quality
from mt.model.directory import LoadedModel
from mt.processes import available_cores
from mt.progress import progress_bar

FIT_PAIRS, FIT_SEED = 1000, 271828
"""sample of the grammar's `valid` split that temperatures are fitted on"""
ESTIMATES = ("ece", "ece_mass", "ece_debiased", "ece_sweep", "noise_floor")
"""what a calibration block says of the error from right-or-wrong labels"""

Row = tuple[np.ndarray, np.ndarray]
"""ids that can come next, int64, and their true probabilities, float64"""


def against_truth(loaded: LoadedModel, test_set: TestSet, forced: dict[str, Any]) -> dict[str, Any]:
    """Holds a model against the exact distribution of translations.

    Args:
        loaded: the model; its config names the languages, its tokeniser cuts the translations into tokens.
        test_set: sources of the grammar with sampled references.
        forced: the model's teacher-forced calibration block on it.

    Returns:
        `bleu_bound`: BLEU of each source's most probable translation against the first references; `entropy`: of the
        true distribution, nats per expected token; `truth_nll`: NLL of the references under the truth itself,
        nats per token, which differs from the entropy by the luck of the draw; `nll`: the model's; and what
        `TruthSums.result` gives: of the model, and under `maps` after the inverse link of its loss and after
        temperatures; `estimates`: what the test set's labels say of the error, to hold against `exact_ece`.

    Raises:
        UserError: a source that the grammar cannot have produced, or languages it does not have.
    """
    languages = loaded.config.data.source_language, loaded.config.data.target_language
    tokenizer = loaded.tokenizer
    best: list[str] = []
    rows: list[list[Row]] = []
    entropy = expected_tokens = surprise = tokens = 0.0
    for translations, reference in zip(_translations(languages, test_set.sources), test_set.references[0]):
        best.append(next(iter(translations)))
        ids = dict(zip(translations, tokenizer.encode_target(list(translations))))
        truth = TokenTruth(translations, {text: each[:-1] for text, each in ids.items()}.__getitem__, tokenizer.end_id)
        entropy += truth.entropy()
        expected_tokens += truth.expected_tokens()
        reference_ids = tokenizer.encode_target([reference])[0]
        surprise -= math.log(truth.sequences.get(tuple(reference_ids), 0.0) or 1e-300)
        tokens += len(reference_ids)
        rows.append(_rows(truth, reference_ids))
    bound = corpus_quality(best, [test_set.references[0]], bootstrap=0, ter=False)
    maps = {name: each for name, each in _maps(loaded, languages).items() if each is not None}
    compared = {
        name: {**_compare(loaded, test_set, rows, each.apply), **_temperatures(each)} for name, each in maps.items()
    }
    return {
        "bleu_bound": bound["bleu"]["score"],
        "entropy": entropy / expected_tokens,
        "truth_nll": surprise / tokens,
        "nll": forced["nll"],
        **_compare(loaded, test_set, rows, None),
        "estimates": {name: forced[name] for name in ESTIMATES},
        "maps": compared,
    }


class TruthSums:
    """Sums over tokens of what the model believes and what is true; a stream of distributions, in any order."""

    def __init__(self, row_of: Callable[[int, int], Row]) -> None:
        """`row_of`: the true distribution at (pair, position)."""
        self.row_of = row_of
        self.kl = self.gap = 0.0
        self.tokens = 0
        self.rule = CalibrationBins(bins=15)
        self.signed = np.zeros(15)

    def update(self, chunk: Chunk) -> None:
        """Counts the tokens of a chunk that the truth allows."""
        found = [self.row_of(int(pair), int(place)) for pair, place in zip(chunk.pairs, chunk.positions)]
        lengths = [len(ids) for ids, _ in found]
        owner = np.repeat(np.arange(len(found)), lengths)
        ids, true = (np.concatenate([row[side] for row in found]) for side in (0, 1))
        chosen = chunk.log_probs[torch.from_numpy(owner), torch.from_numpy(ids)].double().numpy(force=True)
        self.kl += float(np.sum(true * (np.log(true) - chosen)))
        best, best_ids = (each.numpy(force=True) for each in chunk.log_probs.max(-1))
        confidence = np.exp(best, dtype=np.float64).clip(0, 1)
        right = np.bincount(owner, weights=true * (ids == best_ids[owner]), minlength=len(found))
        known = np.array(lengths) > 0
        gap = (right - confidence)[known]
        self.tokens += int(known.sum())
        self.gap += float(np.abs(gap).sum())
        self.signed += np.bincount(self.rule.bin_of(confidence[known]), weights=gap, minlength=15)

    def result(self) -> dict[str, float]:
        """`kl`: Kullback-Leibler divergence of the model from the truth, nats per token; `exact_ece`: expected
        calibration error with true probabilities in place of labels, in the same 15 bins; `exact_error`: mean
        |confidence - true probability of the likeliest token|, which no averaging in bins makes smaller."""
        return {
            "kl": self.kl / self.tokens,
            "exact_ece": float(np.abs(self.signed).sum()) / self.tokens,
            "exact_error": self.gap / self.tokens,
        }


def _compare(
    loaded: LoadedModel, test_set: TestSet, rows: Sequence[Sequence[Row]], transform: Transform | None
) -> dict[str, float]:
    source_ids, target_ids, lines = encoded_pairs(loaded, test_set.sources, test_set.references[0])
    sums = TruthSums(lambda pair, place: rows[lines[pair]][place])
    for _ in score_pairs(loaded, source_ids, target_ids, transform=transform, observe=sums.update):
        pass
    return sums.result()


def _rows(truth: TokenTruth, ids: Sequence[int]) -> list[Row]:
    """The true distribution before each of the ids; empty where no translation begins like that."""
    found = [truth.next(ids[:place]) or {} for place in range(len(ids))]
    return [(np.array(list(row), dtype=np.int64), np.array(list(row.values()), dtype=np.float64)) for row in found]


def _maps(loaded: LoadedModel, languages: tuple[str, str]) -> dict[str, InverseLink | Temperature | None]:
    """The inverse link of the loss (None: it has none), and temperatures fitted on a sample of their own."""
    link = InverseLink.of_loss(loaded.config.loss, loaded.tokenizer)
    fits = {"temperature": TemperatureFit()}
    if link is not None:
        fits["link_temperature"] = TemperatureFit(link=link)

    def observe(chunk: Chunk) -> None:
        for fit in fits.values():
            fit.update(chunk.log_probs, chunk.target_ids)

    sample = list(sample_pairs(languages, FIT_PAIRS, FIT_SEED, split="valid"))
    source_ids, target_ids, _ = encoded_pairs(loaded, *map(list, zip(*sample)))
    for _ in score_pairs(loaded, source_ids, target_ids, observe=observe):
        pass
    return {"link": link, **{name: fit.map() for name, fit in fits.items()}}


def _temperatures(chosen: InverseLink | Temperature) -> dict[str, float]:
    return {"temperature": chosen.temperature} if isinstance(chosen, Temperature) else {}


def _translations(languages: tuple[str, str], sources: list[str]) -> Iterator[dict[str, float]]:
    """The true translations of each source, in order, worked out on all cores."""
    Grammar.load(*languages)  # an unknown language is refused here, once
    workers = min(available_cores(), max(1, len(sources) // 50))
    with (
        progress_bar(len(sources), "truth", "line") as bar,
        ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool,
    ):
        for translations in pool.map(partial(_translate, languages), sources, chunksize=10):
            bar.update()
            yield translations


_loaded: dict[tuple[str, str], Grammar] = {}
"""one grammar for each worker process: loading takes a second"""


def _translate(languages: tuple[str, str], source: str) -> dict[str, float]:
    if languages not in _loaded:
        _loaded[languages] = Grammar.load(*languages)
    return _loaded[languages].translations(source)
