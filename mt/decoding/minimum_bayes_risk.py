"""Minimum Bayes risk: the output that the other candidates agree with most (Kumar and Byrne 2004; Eikema and Aziz
2020): the largest mean of chrF(candidate, other) over all candidates, each as often as it was drawn.

chrF is sacreBLEU's sentence score (chrF2 with its defaults, 0 to 100), of all pairs at once: the n-grams that two
texts share are counted by one product of 0/1 matrices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mt.decoding.types import Hypothesis

Floats = NDArray[np.float64]
_ORDER, _BETA = 6, 2  # of chrF


def by_expected_chrf(hypotheses: Sequence[Hypothesis], texts: Sequence[str]) -> list[Hypothesis]:
    """The hypotheses of one sentence by falling expected chrF, which becomes their score.

    Args:
        hypotheses: samples or an n-best list; of equal texts the first one stays, and counts for all.
        texts: of each of them.
    """
    weights = Counter(texts)
    first = dict(zip(reversed(texts), reversed(hypotheses)))
    distinct = list(weights)
    shares = np.array([weights[text] for text in distinct]) / max(len(texts), 1)
    expected = pairwise_chrf(distinct) @ shares
    order = np.argsort(-expected, kind="stable")
    return [first[distinct[place]]._replace(score=float(expected[place])) for place in order]


def pairwise_chrf(texts: Sequence[str]) -> Floats:
    """(texts, texts): sentence chrF of each text as the hypothesis against each other as the reference."""
    characters = ["".join(text.split()) for text in texts]
    precision, recall, orders = (np.zeros((len(texts), len(texts))) for _ in range(3))
    for size in range(1, _ORDER + 1):
        counts, shared = _matches(characters, size)
        both = (counts[:, None] > 0) & (counts[None] > 0)
        precision += np.where(both, shared / np.maximum(counts[:, None], 1), 0)
        recall += np.where(both, shared / np.maximum(counts[None], 1), 0)
        orders += both
    precision, recall = precision / np.maximum(orders, 1), recall / np.maximum(orders, 1)
    factor = _BETA**2
    below = factor * precision + recall
    return np.asarray(100 * (1 + factor) * precision * recall / np.where(below > 0, below, 1))


def _matches(texts: Sequence[str], size: int) -> tuple[Floats, Floats]:
    """How many n-grams of this size each text has, (texts,), and how many two share, (texts, texts)."""
    places: dict[tuple[str, int], int] = {}
    rows, columns = [], []
    for row, text in enumerate(texts):
        seen: Counter[str] = Counter()
        for start in range(len(text) - size + 1):
            ngram = text[start : start + size]
            # The second occurrence of an n-gram matches a second occurrence only.
            columns.append(places.setdefault((ngram, seen[ngram]), len(places)))
            rows.append(row)
            seen[ngram] += 1
    present = np.zeros((len(texts), len(places)), dtype=np.float32)
    present[rows, columns] = 1
    return present.sum(1, dtype=np.float64), (present @ present.T).astype(np.float64)
