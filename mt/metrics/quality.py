"""Translation quality through sacreBLEU, with signatures and intervals; which differences of systems are real.

Post (2018), "A Call for Clarity in Reporting BLEU Scores": hypotheses and references are raw (detokenised)
text, sacreBLEU tokenises, by the target language, and the signature says how.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypedDict, cast

import numpy as np

from mt.errors import UserError
from mt.metrics.bins import PROTOCOLS, sentence_sums
from mt.metrics.noise import Difference, Floats, paired_bootstrap, resampled_counts
from mt.progress import log_line

Record = dict[str, Any]

RESAMPLES, SEED = 1000, 12345
"""of the differences of systems"""
TOKENIZED_LINES = 100
"""so many lines ending in " ." make sacreBLEU, and us, suspect tokenised text"""
_TOKENIZERS = {
    "zh": "zh zho chi cn cmn yue wuu lzh nan hak gan hsn chinese mandarin cantonese",
    "ja-mecab": "ja jpn jp japanese",
    "ko-mecab": "ko kor korean",
}
"""of BLEU, and the languages that they are for; 13a is for all others"""
_NO_SPACES = re.compile("[\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
"""scripts without spaces between words: Thai to Burmese, Khmer, Japanese, Chinese"""


class QualityBlock(TypedDict, total=False):
    """The quality figures of results.json; the signatures say how scores were computed."""

    bleu: dict[str, Any]
    """score, 0..100 (TER can exceed it), low, high: its 95 % interval, None without resamples, and signature"""
    chrf: dict[str, Any]
    ter: dict[str, Any]
    bleu_tokenized_lowercased: dict[str, Any]
    """score and signature; tokenised as for `bleu`, then lower-cased"""
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


def bleu_tokenizer(language: str | None) -> str:
    """The name of sacreBLEU's tokeniser for a target language, as it chooses itself: zh, ja-mecab, ko-mecab, else 13a.
    Codes may be of two or three letters, with script or region: zh-CN, zho_Hans, cmn. None: not known."""
    code = re.split("[^a-z]", (language or "").lower().strip("<> "))[0]
    return next((name for name, languages in _TOKENIZERS.items() if code in languages.split()), "13a")


def check_bleu(language: str | None, references: Sequence[str] = ()) -> None:
    """Before the work: raises UserError where BLEU's tokeniser is not installed; says so where it finds few words."""
    _bleu(language)
    if bleu_tokenizer(language) == "13a" and 2 * sum(map(bool, map(_NO_SPACES.search, references))) > len(references):
        unfit = f"for target language {language}, but these references have no spaces between words"
        log_line(f"note: BLEU's tokeniser is 13a {unfit}: name the language (zh, ja), or trust chrF")


def _bleu(language: str | None) -> Any:
    from sacrebleu.metrics import BLEU

    name = bleu_tokenizer(language)
    try:
        return BLEU(tokenize=name, force=True)  # force: we warn
    except (RuntimeError, AssertionError):  # no MeCab, or another dictionary
        needed = f"BLEU of target language {language} needs sacreBLEU's tokeniser {name}, which is missing or unfit"
        raise UserError(f'{needed}; pip install "sacrebleu[{name[:2]}]"') from None


def quality_statistics(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, language: str | None = None, ter: bool = True
) -> dict[str, Statistics]:
    """The counts behind `bleu` (mixed case, tokenised for the target language), `chrf` (chrF2) and, the slowest, `ter`,
    of characters in Chinese and Japanese, where a line would be one word.

    Raises ValueError for no lines, no references, or streams of different lengths; UserError as `check_bleu`.
    """
    from sacrebleu.metrics import CHRF, TER

    if not hypotheses or not references or any(len(stream) != len(hypotheses) for stream in references):
        lengths = [len(stream) for stream in references]
        raise ValueError(f"{len(hypotheses)} hypotheses and reference streams of {lengths} lines")
    characters = bleu_tokenizer(language) in ("zh", "ja-mecab")
    metrics = {"bleu": _bleu(language), "chrf": CHRF()}
    metrics |= {"ter": TER(normalized=characters, asian_support=characters)} if ter else {}
    return {name: Statistics(metric, hypotheses, references) for name, metric in metrics.items()}


def corpus_quality(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    statistics: dict[str, Statistics] | None = None,
    *,
    sources: Sequence[str] | None = None,
    resamples: int = 0,
    seed: int = 12345,
    language: str | None = None,
    ter: bool = True,
) -> QualityBlock:
    """Scores a corpus of detokenised lines; arguments as of `quality_statistics`, or its `statistics` of these lines.

    With `sources` a hypothesis counts as empty only where its source is not blank. `resamples`, `seed`: of sentences
    (Koehn 2004) for the 95 % percentile intervals; 0: none.
    """
    from sacrebleu.metrics import BLEU

    statistics = statistics or quality_statistics(hypotheses, references, language=language, ter=ter)
    tokenize = statistics["bleu"].metric.tokenizer
    # Tokenised, then lower-cased, as papers on IWSLT14 score text; by sacreBLEU's tokeniser, which everyone can repeat:
    # the papers used Moses' one, which also splits apostrophes from English words, so figures are near, not equal.
    translations, *streams = ([tokenize(line.rstrip()).lower() for line in each] for each in (hypotheses, *references))
    lowercased = Statistics(BLEU(tokenize="none", force=True), translations, streams).block()
    hypothesis_words, reference_words = statistics["bleu"].counts[:, :2].sum(axis=0).tolist()
    empty = [line for line, hypothesis in enumerate(hypotheses) if not hypothesis.strip()]
    scores: dict[str, Any] = {
        **{name: each.block(resamples, seed) for name, each in statistics.items()},
        "bleu_tokenized_lowercased": {
            "score": lowercased["score"],
            "signature": f"text:{tokenize.signature()}-tokenized,lowercased|{lowercased['signature']}",
        },
        "length_ratio": hypothesis_words / reference_words if reference_words else 0.0,
        "empties": sum(sources is None or bool(sources[line].strip()) for line in empty),
    }
    return cast(QualityBlock, scores)


def sentence_chrf(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """chrF2 of each line on its own, 0..100, against all its references: which translations to look at first."""
    from sacrebleu.metrics import CHRF

    return Statistics(CHRF(), hypotheses, references).sentence_scores() if hypotheses else []


def looks_tokenized(hypotheses: Sequence[str]) -> bool:
    """Whether many lines end in a full stop of its own, which detokenised text rarely does."""
    return sum(hypothesis.endswith(" .") for hypothesis in hypotheses) >= TOKENIZED_LINES


def quality_differences(
    systems: Sequence[Sequence[Record]], language: str | None = None
) -> dict[str, list[Difference]]:
    """`bleu`, `chrf` and `ter`: the differences of every system but the first, from the texts of the records."""
    references = [list(stream) for stream in zip(*(references_of(record) for record in systems[0]))]
    texts = [[record["translation"] for record in records] for records in systems]
    counted = [quality_statistics(each, references, language=language) for each in texts]
    found = {}
    for name, first in counted[0].items():
        counts = [each[name].counts for each in counted]
        found[name] = paired_bootstrap(counts, first.score_of_sums, resamples=RESAMPLES, seed=SEED)
    return found


def calibration_differences(
    systems: Sequence[Sequence[Record]], block: str, measure: str = "ece"
) -> list[Difference | None]:
    """Differences of the `ece`, 0..1, or the `nll`, nats per token, of every system but the first on the same test set,
    from records. `block` names the calibration: teacher_forced or inference, the system's own `exp(log_probs)` where it
    tells them, or one of them as recalibrated_…. None where a system does not tell the sums for the same lines, has
    labels of people for the output and the first has not, or, for the nll, has other tokens."""

    def per_token(sums: Floats) -> float:
        return float(np.abs(sums[1:]).sum() / max(1.0, sums[0]))

    first, *others = [_sums(records, block, measure) for records in systems]
    by_people = [block.endswith("inference") and any("labels" in each for each in records) for records in systems]
    found: list[Difference | None] = []
    for pair, alike in (([first, other], by_people[0] == people) for other, people in zip(others, by_people[1:])):
        tokens, of_other = (each[:, 0] if measure == "nll" else each[:, 0] > 0 for each in pair)
        tested = alike and tokens.any() and np.array_equal(tokens, of_other)
        options: dict[str, Any] = {"resamples": RESAMPLES, "seed": SEED, "biased": measure == "ece"}
        found += paired_bootstrap(pair, per_token, **options) if tested else [None]
    return found


def references_of(record: Record) -> list[str]:
    """The references of a record, first one first."""
    return list(record.get("references") or [record.get("reference", "")])


def _sums(records: Sequence[Record], block: str, measure: str) -> Floats:
    """For each line the number of its tokens, 0 where they are not known, and what the measure sums, (lines, …)."""
    protocol = block.removeprefix("recalibrated_")
    rows = np.zeros((len(records), 2 if measure == "nll" else 1 + PROTOCOLS[protocol]["bins"]))
    for row, record in zip(rows, records):
        sums, confidence = record.get(block), record.get("token_confidence")
        if protocol == "inference":
            if confidence and record.get("log_probs") and block == protocol:
                confidence = np.exp(np.minimum(record["log_probs"], 0.0)).tolist()  # rounding may lift one above 0
            labels = record.get("correct") if record.get("token_confidence") else None
            pairs = [each for each in zip(confidence or (), labels or ()) if each[1] is not None]
            sums = sentence_sums(protocol, *map(np.array, zip(*pairs))) if pairs else None
        if sums:
            row[0], row[1:] = sums["tokens"], sums["nll" if measure == "nll" else "gaps"]
    return rows
