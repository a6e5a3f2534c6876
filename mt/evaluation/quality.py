"""Translation quality of a corpus through sacreBLEU, with signatures and bootstrap intervals.

Post (2018), "A Call for Clarity in Reporting BLEU Scores": hypotheses and references are raw (detokenised)
text, sacreBLEU tokenises, and the signature says how.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

TOKENIZED_LINES = 100
"""so many lines ending in " ." make sacreBLEU, and us, suspect tokenised text"""


def corpus_quality(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    sources: Sequence[str] | None = None,
    bootstrap: int = 1000,
    seed: int = 12345,
    ter: bool = True,
) -> dict[str, Any]:
    """Scores a corpus against one or several references.

    Args:
        hypotheses: one detokenised translation per line.
        references: reference streams, each as long as `hypotheses`.
        sources: source lines; with them a hypothesis counts as empty only where its source is not blank.
        bootstrap: resamples of sentences (Koehn 2004) for the 95 % percentile intervals; 0: none.
        seed: of the resampling; the same seed gives the same intervals.
        ter: whether to compute TER, the slowest of the three.

    Returns:
        `bleu` (13a tokenisation, mixed case), `chrf` (chrF2) and `ter`, each
        `{"score", "low", "high", "signature"}` in 0..100 (TER can exceed it), `low` and `high` None without
        bootstrap; `bleu_tokenized_lowercased`: `{"score", "signature"}`, see `tokenized_lowercased`;
        `length_ratio`: hypothesis words over words of the closest references, as BLEU counts both;
        `empties`: number of empty hypotheses.

    Raises:
        ValueError: no lines, no references, or streams of different lengths.
    """
    from sacrebleu.metrics import BLEU, CHRF, TER

    if not hypotheses or not references or any(len(stream) != len(hypotheses) for stream in references):
        raise ValueError(
            f"{len(hypotheses)} hypotheses and reference streams of {[len(stream) for stream in references]} lines"
        )
    streams = [list(stream) for stream in references]
    bleu, bleu_score = _measure(BLEU(force=True), hypotheses, streams, bootstrap, seed)
    result: dict[str, Any] = {"bleu": bleu, "chrf": _measure(CHRF(), hypotheses, streams, bootstrap, seed)[0]}
    if ter:
        result["ter"] = _measure(TER(), hypotheses, streams, bootstrap, seed)[0]
    result["bleu_tokenized_lowercased"] = _tokenized_lowercased_bleu(hypotheses, streams)
    result["length_ratio"] = bleu_score.sys_len / bleu_score.ref_len if bleu_score.ref_len else 0.0
    result["empties"] = sum(
        not hypothesis.strip() and (sources is None or bool(sources[line].strip()))
        for line, hypothesis in enumerate(hypotheses)
    )
    return result


def sentence_chrf(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """chrF2 of each line on its own, 0..100, against all its references: which translations to look at first."""
    from sacrebleu.metrics import CHRF

    metric = CHRF()
    return [
        float(metric.sentence_score(hypothesis, list(lines)).score)
        for hypothesis, *lines in zip(hypotheses, *references)
    ]


def tokenized_lowercased(text: str) -> str:
    """Text as papers on IWSLT14 score it: tokenised, then lower-cased.

    The tokeniser is sacreBLEU's 13a, so that everyone can repeat the figure; the papers used Moses' tokeniser,
    which also splits apostrophes from English words, so their figures are near but not equal.
    """
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    return str(Tokenizer13a()(text.rstrip())).lower()


def looks_tokenized(hypotheses: Sequence[str]) -> bool:
    """Whether many lines end in a full stop of its own, which detokenised text rarely does."""
    return sum(hypothesis.endswith(" .") for hypothesis in hypotheses) >= TOKENIZED_LINES


def _measure(
    metric: Any, hypotheses: Sequence[str], references: list[list[str]], bootstrap: int, seed: int
) -> tuple[dict[str, Any], Any]:
    """One metric's block of results, and sacreBLEU's own score object.

    The statistics of each sentence are kept, so that a resample costs one sum (and no second look at the text).
    """
    # The sum over sentences of these statistics determines the corpus score: sacreBLEU's own bootstrap rests on
    # the same two methods.
    statistics = np.array(metric._extract_corpus_statistics(hypotheses, references), dtype=np.float64)
    score = metric._compute_score_from_stats(statistics.sum(axis=0).tolist())
    low = high = None
    if bootstrap > 0:
        resampled = sorted(
            metric._compute_score_from_stats(sums.tolist()).score
            for sums in _resampled_sums(statistics, bootstrap, seed)
        )
        cut = bootstrap // 40
        low, high = resampled[cut], resampled[bootstrap - cut - 1]
        metric.n_bootstrap, metric.seed = bootstrap, str(seed)  # the signature names them
    return {"score": score.score, "low": low, "high": high, "signature": str(metric.get_signature())}, score


def _resampled_sums(statistics: np.ndarray, bootstrap: int, seed: int) -> list[np.ndarray]:
    """Sums of `statistics` (sentences, figures) float64 over `bootstrap` resamples of the sentences."""
    generator = np.random.default_rng(seed)
    sentences = len(statistics)
    sums = []
    for _ in range(bootstrap):
        counts = np.bincount(generator.choice(sentences, size=sentences, replace=True), minlength=sentences)
        sums.append(counts @ statistics)
    return sums


def _tokenized_lowercased_bleu(hypotheses: Sequence[str], references: list[list[str]]) -> dict[str, Any]:
    from sacrebleu.metrics import BLEU

    metric = BLEU(tokenize="none", force=True)
    score = metric.corpus_score(
        [tokenized_lowercased(hypothesis) for hypothesis in hypotheses],
        [[tokenized_lowercased(line) for line in stream] for stream in references],
    )
    return {"score": score.score, "signature": f"text:13a-tokenized,lowercased|{metric.get_signature()}"}
