"""Against the truth: what a perfect model would score on text of the shipped grammar."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from os import sched_getaffinity

from mt.corpus.grammar import Grammar, TokenTruth
from mt.evaluation.quality import corpus_quality
from mt.evaluation.test_set import TestSet
from mt.model.directory import LoadedModel
from mt.progress import progress_bar


def against_truth(loaded: LoadedModel, test_set: TestSet, nll: float) -> dict[str, float]:
    """Holds a model against the exact distribution of translations.

    Args:
        loaded: the model; its config names the languages, its tokeniser cuts the translations into tokens.
        test_set: sources of the grammar with sampled references.
        nll: the model's teacher-forced NLL on it, nats per token.

    Returns:
        `bleu_bound`: BLEU of each source's most probable translation against the first references; `entropy`: of the
        true distribution, nats per expected token; `truth_nll`: NLL of the references under the truth itself,
        nats per token, which differs from the entropy by the luck of the draw; `nll`: as given.

    Raises:
        UserError: a source that the grammar cannot have produced, or languages it does not have.
    """
    languages = loaded.config.data.source_language, loaded.config.data.target_language
    tokenizer = loaded.tokenizer
    best: list[str] = []
    entropy = expected_tokens = surprise = tokens = 0.0
    for translations, reference in zip(_translations(languages, test_set.sources), test_set.references[0]):
        best.append(next(iter(translations)))
        truth = TokenTruth(translations, lambda text: tokenizer.encode_target([text])[0][:-1], tokenizer.end_id)
        entropy += truth.entropy()
        expected_tokens += truth.expected_tokens()
        reference_ids = tuple(tokenizer.encode_target([reference])[0])
        surprise -= math.log(truth.sequences.get(reference_ids, 0.0) or 1e-300)
        tokens += len(reference_ids)
    bound = corpus_quality(best, [test_set.references[0]], bootstrap=0, ter=False)
    return {
        "bleu_bound": bound["bleu"]["score"],
        "entropy": entropy / expected_tokens,
        "truth_nll": surprise / tokens,
        "nll": nll,
    }


def _translations(languages: tuple[str, str], sources: list[str]) -> Iterator[dict[str, float]]:
    """The true translations of each source, in order, worked out on all cores."""
    Grammar.load(*languages)  # an unknown language is refused here, once
    workers = min(len(sched_getaffinity(0)), max(1, len(sources) // 50))
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
