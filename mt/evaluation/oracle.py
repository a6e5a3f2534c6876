"""A model against the oracle distribution: on text of the shipped grammar the true next-token distribution is known.

So calibration needs no estimate there: the probability that the model's likeliest token is right is a number, not a
draw. That shows how close the usual estimates come, and what recalibration is worth in nats.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mt.decoding.scoring import Distributions, Transform, score_pairs
from mt.evaluation.test_set import TestSet
from mt.evaluation.tokens import encoded_pairs
from mt.grammar.grammar import sample_pairs
from mt.grammar.oracle import Row, oracle_of
from mt.metrics.bins import bin_of
from mt.metrics.maps import InverseLink, Temperature, TemperatureFit
from mt.metrics.quality import Statistics, quality_statistics
from mt.model.directory import LoadedModel

_FIT_PAIRS, _FIT_SEED = 1000, 271828  # of the grammar's `valid` split, for temperatures
_WEIGHED = 64  # translations of a source, each against each


def against_oracle(loaded: LoadedModel, test_set: TestSet, forced: Mapping[str, Any]) -> dict[str, Any]:
    """Holds a model against the exact distribution of translations, in the languages of its config. `forced` is its
    teacher-forced calibration block on the test set: sources of the grammar with sampled references.

    Returns `bleu_of_likeliest`, `bleu_of_minimum_risk`: BLEU against the first references of each source's most
    probable translation, and of the one that `minimum_risk` chooses; `entropy` and `truth_nll`: of the Oracle; `nll`:
    the model's; what `OracleComparison.result` gives, of the model, and under `maps` after the inverse link of its loss
    and after temperatures; `estimates`: what right-or-wrong labels say of the error, to hold against `exact_ece`.
    Raises UserError for a source that the grammar cannot have produced.
    """
    languages = loaded.config.data.source_language, loaded.config.data.target_language
    references = test_set.references[0]
    oracle = oracle_of(languages, test_set.sources, references, loaded.tokenizer.encode_target)
    source_ids, target_ids, lines = encoded_pairs(loaded, test_set.sources, references)

    def compared(transform: Transform | None) -> dict[str, float]:
        comparison = OracleComparison([oracle.rows[line] for line in lines])
        deque(score_pairs(loaded, source_ids, target_ids, transform=transform, observe=comparison.update), maxlen=0)
        return comparison.result()

    likeliest = [next(iter(each)) for each in oracle.translations]
    chosen = {"bleu_of_likeliest": likeliest, "bleu_of_minimum_risk": minimum_risk(oracle.translations)}
    return {
        **{name: quality_statistics(each, [references], ter=False)["bleu"].score() for name, each in chosen.items()},
        "entropy": oracle.entropy,
        "truth_nll": oracle.nll,
        "nll": forced["nll"],
        **compared(None),
        "estimates": {name: forced[name] for name in ("ece", "noise_floor")},
        "maps": {
            name: compared(each.apply) | ({"temperature": each.temperature} if isinstance(each, Temperature) else {})
            for name, each in _maps(loaded, languages).items()
        },
    }


def minimum_risk(translations: Sequence[Mapping[str, float]]) -> list[str]:
    """The Bayes decision for corpus BLEU (Kumar and Byrne 2004): of each source's translations, given with their true
    probabilities and the most probable first, one, such that the BLEU of all expected counts is highest; no other
    choice for a single source would raise it. What lies beyond the _WEIGHED most probable ones, which few sources have,
    is left out."""
    from sacrebleu.metrics import BLEU

    metric, counted = BLEU(), []
    for each in translations:
        texts, true = list(each)[:_WEIGHED], np.array(list(each.values()))[:_WEIGHED]
        pairs = Statistics(metric, [text for text in texts for _ in texts], [texts * len(texts)])
        counted.append(np.tensordot(pairs.counts.reshape(len(texts), len(texts), -1), true / true.sum(), (1, 0)))
    chosen, total = [0] * len(counted), np.sum([counts[0] for counts in counted], axis=0)
    for _ in range(3):  # it settles in two
        for line, counts in enumerate(counted):
            total -= counts[chosen[line]]
            chosen[line] = int(np.argmax([pairs.score_of_sums(total + own) for own in counts]))
            total += counts[chosen[line]]
    return [list(each)[index] for each, index in zip(translations, chosen)]


class OracleComparison:
    """Sums over tokens of what the model believes and what is true: `rows`, for each pair the true distribution at each
    position. A stream of distributions, in any order."""

    def __init__(self, rows: Sequence[Sequence[Row]]) -> None:
        self.rows, self.tokens, self.kl, self.gap, self.signed = rows, 0, 0.0, 0.0, np.zeros(15)

    def update(self, chunk: Distributions) -> None:
        """Counts the tokens of a chunk; those that no translation begins with add to none of the sums."""
        found = [self.rows[pair][position] for pair, position in zip(chunk.pairs, chunk.positions)]
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
        self.signed += np.bincount(bin_of(confidence[known], 15, "(l,r]"), weights=gap, minlength=15)

    def result(self) -> dict[str, float]:
        """`kl`: Kullback-Leibler divergence of the model from the truth, nats per token; `exact_ece`: expected
        calibration error with true probabilities in place of labels, in the same 15 bins; `exact_error`: mean
        |confidence - true probability of the likeliest token|, which no averaging in bins makes smaller."""
        exact_ece = float(np.abs(self.signed).sum()) / self.tokens
        return {"kl": self.kl / self.tokens, "exact_ece": exact_ece, "exact_error": self.gap / self.tokens}


def _maps(loaded: LoadedModel, languages: tuple[str, str]) -> dict[str, InverseLink | Temperature]:
    """The inverse link of the loss, where it has one, and temperatures fitted on a sample of their own."""
    tokenizer, counts = loaded.tokenizer, loaded.piece_counts
    classes = tokenizer.target_size, tokenizer.pad_id, tokenizer.begin_id
    taught, of_loss = loaded.config.train.teacher, InverseLink.of_loss  # a student learns another one's, too
    link = None if taught else of_loss(loaded.config.loss, *classes, unigram=counts and counts[1])
    fits = {"temperature": TemperatureFit()} | ({"link_temperature": TemperatureFit(link=link)} if link else {})

    def observe(chunk: Distributions) -> None:
        for fit in fits.values():
            fit.update(chunk.log_probs, chunk.target_ids)

    sample = list(sample_pairs(languages, _FIT_PAIRS, _FIT_SEED, split="valid"))
    source_ids, target_ids, _ = encoded_pairs(loaded, *map(list, zip(*sample)))
    deque(score_pairs(loaded, source_ids, target_ids, observe=observe), maxlen=0)
    return ({"link": link} if link else {}) | {name: fit.map() for name, fit in fits.items()}
