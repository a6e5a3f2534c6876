"""Minimum Bayes risk: the output that the other candidates agree with most (Kumar and Byrne 2004; Eikema and Aziz
2020): the largest mean of utility(candidate, other) over all candidates, each as often as it was drawn.

Utilities are sacreBLEU's sentence scores (chrF2 and BLEU with its defaults, 0 to 100), of all pairs at once: the
n-grams that two texts share are counted by one product of 0/1 matrices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from mt.decoding.beam_search import Hypothesis

Floats = NDArray[np.float64]
_CHRF_ORDER, _CHRF_BETA, _BLEU_ORDER = 6, 2, 4


def by_expected_utility(hypotheses: Sequence[Hypothesis], texts: Sequence[str], utility: str) -> list[Hypothesis]:
    """The hypotheses of one sentence by falling expected utility, which becomes their score.

    Args:
        hypotheses: samples or an n-best list; of equal texts the first one stays, and counts for all.
        texts: of each of them.
        utility: chrf or bleu.
    """
    weights = Counter(texts)
    first = dict(zip(reversed(texts), reversed(hypotheses)))
    distinct = list(weights)
    shares = np.array([weights[text] for text in distinct]) / max(len(texts), 1)
    expected = utilities(distinct, utility) @ shares
    order = np.argsort(-expected, kind="stable")
    return [first[distinct[place]]._replace(score=float(expected[place])) for place in order]


def utilities(texts: Sequence[str], utility: str) -> Floats:
    """(texts, texts): sentence score of each text as the hypothesis against each other as the reference."""
    if not texts:
        return np.zeros((0, 0))
    return _chrf(texts) if utility == "chrf" else _bleu(texts)


def _matches(texts: Sequence[Sequence[str]], size: int) -> tuple[Floats, Floats]:
    """How many n-grams of this size each text has, (texts,), and how many two share, (texts, texts)."""
    places: dict[Hashable, int] = {}
    rows, columns = [], []
    for row, text in enumerate(texts):
        seen: Counter[Hashable] = Counter()
        for start in range(len(text) - size + 1):
            ngram = text[start : start + size]
            key = ngram if isinstance(ngram, str) else tuple(ngram)
            # The second occurrence of an n-gram matches a second occurrence only.
            columns.append(places.setdefault((key, seen[key]), len(places)))
            rows.append(row)
            seen[key] += 1
    present = np.zeros((len(texts), len(places)), dtype=np.float32)
    present[rows, columns] = 1
    return present.sum(1, dtype=np.float64), (present @ present.T).astype(np.float64)


def _chrf(texts: Sequence[str]) -> Floats:
    characters = ["".join(text.split()) for text in texts]
    precision, recall, orders = (np.zeros((len(texts), len(texts))) for _ in range(3))
    for size in range(1, _CHRF_ORDER + 1):
        counts, shared = _matches(characters, size)
        both = (counts[:, None] > 0) & (counts[None] > 0)
        precision += np.where(both, shared / np.maximum(counts[:, None], 1), 0)
        recall += np.where(both, shared / np.maximum(counts[None], 1), 0)
        orders += both
    precision, recall = precision / np.maximum(orders, 1), recall / np.maximum(orders, 1)
    factor = _CHRF_BETA**2
    below = factor * precision + recall
    return 100 * (1 + factor) * precision * recall / np.where(below > 0, below, 1)


def _bleu(texts: Sequence[str]) -> Floats:
    """BLEU with effective order and exponential smoothing (Chen and Cherry 2014, method 3)."""
    tokenise = _bleu_tokeniser()
    words = [tokenise(text.rstrip()).split() for text in texts]
    lengths = np.array([len(each) for each in words], dtype=np.float64)
    pairs = (len(texts), len(texts))
    logs, orders, halvings, any_match = np.zeros(pairs), np.zeros(pairs), np.zeros(pairs), np.zeros(pairs, bool)
    for size in range(1, _BLEU_ORDER + 1):
        counts, shared = _matches(words, size)
        total = np.broadcast_to(counts[:, None], pairs)
        has, missed = total > 0, (total > 0) & (shared == 0)
        halvings += missed
        precision = np.where(missed, 0.5**halvings, shared) / np.maximum(total, 1)
        logs += np.where(has, np.log(np.where(has, precision, 1)), 0)
        orders += has
        any_match |= shared > 0
    short = np.minimum(1 - lengths[None] / np.maximum(lengths[:, None], 1), 0)
    scores = 100 * np.exp(short + logs / np.maximum(orders, 1))
    return np.where(any_match, scores, 0.0)


def _bleu_tokeniser() -> Callable[[str], str]:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a  # not needed at start-up

    return Tokenizer13a()
