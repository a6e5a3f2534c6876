"""Translation quality through sacreBLEU, with signatures and intervals; which differences of systems are real.

Post (2018), "A Call for Clarity in Reporting BLEU Scores": hypotheses and references are raw (detokenised)
text, sacreBLEU tokenises, and the signature says how.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict, cast

import numpy as np

from mt.metrics.bins import PROTOCOLS, CalibrationBins
from mt.metrics.noise import Difference, SentenceBootstrap, paired_bootstrap, resampled_counts

Record = dict[str, Any]

RESAMPLES, SEED = 1000, 12345
"""of the differences of systems"""
TOKENIZED_LINES = 100
"""so many lines ending in " ." make sacreBLEU, and us, suspect tokenised text"""


class QualityBlock(TypedDict, total=False):
    """The quality figures of results.json; the signatures say how scores were computed."""

    bleu: dict[str, Any]
    """score, 0..100 (TER can exceed it), low, high: its 95 % interval, None without resamples, and signature"""
    chrf: dict[str, Any]
    ter: dict[str, Any]
    bleu_tokenized_lowercased: dict[str, Any]
    """score and signature, see `tokenized_lowercased`"""
    length_ratio: float
    """hypothesis words over words of the closest references, as BLEU counts both"""
    empties: int


class Statistics:
    """What one metric counts in each sentence; the sum over sentences determines the score of any selection.

    sacreBLEU's own bootstrap rests on the same two methods of its metrics.
    """

    def __init__(self, metric: Any, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
        self.metric = metric
        streams = [list(stream) for stream in references]
        self.counts = np.array(metric._extract_corpus_statistics(list(hypotheses), streams), dtype=np.float64)
        """(sentences, figures) float64"""

    def score(self, lines: Any = ...) -> float:
        """Corpus score of the lines with these numbers, of all by default."""
        return self.score_of_sums(self.counts[lines].sum(axis=0))

    def score_of_sums(self, sums: np.ndarray) -> float:
        """Score of summed counts (figures,)."""
        return float(self.metric._compute_score_from_stats(sums.tolist()).score)

    def sentence_scores(self, metric: Any = None) -> list[float]:
        """Score of each line on its own, by another metric of the same counts if given."""
        score = (metric or self.metric)._compute_score_from_stats
        return [float(score(row.tolist()).score) for row in self.counts]

    def block(self, resamples: int = 0, seed: int = 0) -> dict[str, Any]:
        """The metric's part of results.json, with the interval of so many resamples of sentences."""
        low = high = None
        if resamples > 0:
            drawn = resampled_counts(len(self.counts), resamples, seed)
            resampled, cut = sorted(self.score_of_sums(each @ self.counts) for each in drawn), resamples // 40
            low, high = resampled[cut], resampled[-cut - 1]
            self.metric.n_bootstrap, self.metric.seed = resamples, str(seed)  # the signature names them
        return {"score": self.score(), "low": low, "high": high, "signature": str(self.metric.get_signature())}


def quality_statistics(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, ter: bool = True
) -> dict[str, Statistics]:
    """The counts behind `bleu` (13a tokenisation, mixed case), `chrf` (chrF2) and, the slowest, `ter`.

    Raises ValueError for no lines, no references, or streams of different lengths.
    """
    from sacrebleu.metrics import BLEU, CHRF, TER

    if not hypotheses or not references or any(len(stream) != len(hypotheses) for stream in references):
        lengths = [len(stream) for stream in references]
        raise ValueError(f"{len(hypotheses)} hypotheses and reference streams of {lengths} lines")
    metrics = {"bleu": BLEU(force=True), "chrf": CHRF(), **({"ter": TER()} if ter else {})}  # force: we warn
    return {name: Statistics(metric, hypotheses, references) for name, metric in metrics.items()}


def corpus_quality(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    statistics: dict[str, Statistics] | None = None,
    *,
    sources: Sequence[str] | None = None,
    resamples: int = 0,
    seed: int = 12345,
    ter: bool = True,
) -> QualityBlock:
    """Scores a corpus of detokenised lines against one or several references.

    Args:
        hypotheses, references, ter: as of `quality_statistics`.
        statistics: `quality_statistics` of the same lines, if they are there already.
        sources: source lines; with them a hypothesis counts as empty only where its source is not blank.
        resamples, seed: of sentences (Koehn 2004) for the 95 % percentile intervals; 0: none.
    """
    from sacrebleu.metrics import BLEU

    statistics = statistics or quality_statistics(hypotheses, references, ter=ter)
    translations, *streams = ([*map(tokenized_lowercased, stream)] for stream in (hypotheses, *references))
    lowercased = Statistics(BLEU(tokenize="none", force=True), translations, streams).block()
    hypothesis_words, reference_words = statistics["bleu"].counts[:, :2].sum(axis=0).tolist()
    empty = [line for line, hypothesis in enumerate(hypotheses) if not hypothesis.strip()]
    scores: dict[str, Any] = {
        **{name: each.block(resamples, seed) for name, each in statistics.items()},
        "bleu_tokenized_lowercased": {
            "score": lowercased["score"],
            "signature": f"text:13a-tokenized,lowercased|{lowercased['signature']}",
        },
        "length_ratio": hypothesis_words / reference_words if reference_words else 0.0,
        "empties": sum(sources is None or bool(sources[line].strip()) for line in empty),
    }
    return cast(QualityBlock, scores)


def sentence_chrf(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """chrF2 of each line on its own, 0..100, against all its references: which translations to look at first."""
    from sacrebleu.metrics import CHRF

    return Statistics(CHRF(), hypotheses, references).sentence_scores() if hypotheses else []


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


def quality_differences(systems: Sequence[Sequence[Record]]) -> dict[str, list[Difference]]:
    """`bleu`, `chrf` and `ter`: the differences of every system but the first, from the texts of the records."""
    references = [list(stream) for stream in zip(*(references_of(record) for record in systems[0]))]
    counted = [quality_statistics([record["translation"] for record in records], references) for records in systems]
    return {
        name: paired_bootstrap(
            [each[name].counts for each in counted], first.score_of_sums, resamples=RESAMPLES, seed=SEED
        )
        for name, first in counted[0].items()
    }


def calibration_differences(
    systems: Sequence[Sequence[Record]], *, recalibrated: bool = False
) -> list[Difference | None]:
    """Differences of the inference ECE (20 bins [l, r), 0..1) of every system but the first, on the same test set: of
    `token_confidence` if `recalibrated`, else of the system's own `exp(log_probs)`, where it tells them. None where
    the tokens of either system are not known for the same lines."""
    (first, first_error, first_lines), *others = [_measured(records, recalibrated) for records in systems]
    return [
        other.difference(first, error - first_error) if lines and lines == first_lines else None
        for other, error, lines in others
    ]


def references_of(record: Record) -> list[str]:
    """The references of a record, first one first."""
    return list(record.get("references") or [record.get("reference", "")])


def _measured(records: Sequence[Record], recalibrated: bool) -> tuple[SentenceBootstrap, float, list[int]]:
    """Resamples of the output, its ECE, and which lines have tokens."""
    counted = CalibrationBins(**PROTOCOLS["inference"], resamples=RESAMPLES, seed=SEED)
    lines = []
    for number, record in enumerate(records):
        confidence = record.get("token_confidence")
        if not confidence or not record.get("correct"):
            continue
        if record.get("log_probs") and not recalibrated:
            confidence = np.exp(np.minimum(record["log_probs"], 0.0))  # rounding may lift one above 0
        counted.update(confidence, record["correct"], lines=number)
        lines.append(number)
    assert counted.bootstrap is not None
    return counted.bootstrap, counted.ece(), lines
