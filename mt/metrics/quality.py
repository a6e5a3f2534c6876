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


class Statistics:
    """What one metric counts in each sentence; the sum over sentences determines the score of any selection.

    sacreBLEU's own bootstrap rests on the same two methods of its metrics.
    """

    def __init__(self, metric: Any, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        self.metric = metric
        streams = [list(stream) for stream in references]
        self.counts = np.array(metric._extract_corpus_statistics(list(hypotheses), streams), dtype=np.float64)
        """(sentences, figures) float64"""

    def score(self, lines: Any = None) -> float:
        """Corpus score of the lines with these numbers; None: of all."""
        chosen = self.counts if lines is None else self.counts[lines]
        return self.score_of_sums(chosen.sum(axis=0))

    def score_of_sums(self, sums: np.ndarray) -> float:
        """Score of summed counts (figures,)."""
        return float(self.metric._compute_score_from_stats(sums.tolist()).score)

    def block(self, bootstrap: int, seed: int) -> dict[str, Any]:
        """The metric's block of results: {"score", "low", "high", "signature"}."""
        low = high = None
        if bootstrap > 0:
            sums = _resampled_sums(self.counts, bootstrap, seed)
            resampled = sorted(self.score_of_sums(each) for each in sums)
            cut = bootstrap // 40
            low, high = resampled[cut], resampled[bootstrap - cut - 1]
            self.metric.n_bootstrap, self.metric.seed = bootstrap, str(seed)  # the signature names them
        return {"score": self.score(), "low": low, "high": high, "signature": str(self.metric.get_signature())}


def quality_statistics(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, ter: bool = True
) -> dict[str, Statistics]:
    """The counts behind `bleu` (13a tokenisation, mixed case), `chrf` (chrF2) and, the slowest, `ter`.

    Raises:
        ValueError: no lines, no references, or streams of different lengths.
    """
    from sacrebleu.metrics import BLEU, CHRF, TER

    if not hypotheses or not references or any(len(stream) != len(hypotheses) for stream in references):
        raise ValueError(
            f"{len(hypotheses)} hypotheses and reference streams of {[len(stream) for stream in references]} lines"
        )
    metrics = {"bleu": BLEU(force=True), "chrf": CHRF(), **({"ter": TER()} if ter else {})}
    return {name: Statistics(metric, hypotheses, references) for name, metric in metrics.items()}


def corpus_quality(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    sources: Sequence[str] | None = None,
    bootstrap: int = 1000,
    seed: int = 12345,
    ter: bool = True,
    statistics: dict[str, Statistics] | None = None,
) -> dict[str, Any]:
    """Scores a corpus against one or several references.

    Args:
        hypotheses: one detokenised translation per line.
        references: reference streams, each as long as `hypotheses`.
        sources: source lines; with them a hypothesis counts as empty only where its source is not blank.
        bootstrap: resamples of sentences (Koehn 2004) for the 95 % percentile intervals; 0: none.
        seed: of the resampling; the same seed gives the same intervals.
        ter: whether to compute TER, the slowest of the three.
        statistics: `quality_statistics` of the same lines, if they are there already.

    Returns:
        `bleu`, `chrf` and `ter`, each `{"score", "low", "high", "signature"}` in 0..100 (TER can exceed it), `low`
        and `high` None without bootstrap; `bleu_tokenized_lowercased`: `{"score", "signature"}`, see
        `tokenized_lowercased`; `length_ratio`: hypothesis words over words of the closest references, as BLEU
        counts both; `empties`: number of empty hypotheses.

    Raises:
        ValueError: no lines, no references, or streams of different lengths.
    """
    statistics = statistics or quality_statistics(hypotheses, references, ter=ter)
    result: dict[str, Any] = {name: each.block(bootstrap, seed) for name, each in statistics.items()}
    result["bleu_tokenized_lowercased"] = _tokenized_lowercased_bleu(hypotheses, [list(each) for each in references])
    hypothesis_words, reference_words = statistics["bleu"].counts[:, :2].sum(axis=0)
    result["length_ratio"] = hypothesis_words / reference_words if reference_words else 0.0
    result["empties"] = sum(
        not hypothesis.strip() and (sources is None or bool(sources[line].strip()))
        for line, hypothesis in enumerate(hypotheses)
    )
    return result


def sentence_scores(statistics: dict[str, Statistics]) -> dict[str, list[float]]:
    """Score of each line on its own against all its references: `chrf` (chrF2), `bleu` (sacreBLEU's sentence BLEU:
    smoothed, of the orders that the line has) and, where it is among the statistics, `ter`; 0..100."""
    from sacrebleu.metrics import BLEU

    sentence_bleu = BLEU(effective_order=True)
    metrics = {"chrf": statistics["chrf"].metric, "bleu": sentence_bleu}
    if "ter" in statistics:
        metrics["ter"] = statistics["ter"].metric
    return {
        name: [float(metric._compute_score_from_stats(row.tolist()).score) for row in statistics[name].counts]
        for name, metric in metrics.items()
    }


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
