"""What the parts of decoding hand to each other: the step of a model, its state, hypotheses, engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
from torch import Tensor

from mt.config import SearchConfig


class SearchState(Protocol):
    """What the model remembers of each row; a row is one hypothesis of a sentence."""

    def expand(self, beams: int, /) -> None:
        """Each row, one a sentence, becomes `beams` equal rows side by side."""

    def reorder(self, beam_indices: Tensor, /) -> None:
        """Row i goes on from what row `beam_indices[i]` was; (rows,) int64, within the same sentence."""

    def select(self, rows: Tensor, /) -> None:
        """As `reorder`, but sentences of which no row is named leave, and others may change places; (rows left,)
        int64, whole sentences."""


AnyState = TypeVar("AnyState", bound=SearchState)
Step = Callable[[Tensor, AnyState], Tensor]
"""(rows,) int64 tokens and the state -> (rows, vocabulary) logits or log-probabilities, which the search overwrites"""


class Hypothesis(NamedTuple):
    """A finished output."""

    tokens: list[int]
    """end of sentence included"""
    log_probs: np.ndarray
    """(tokens,) float32, natural log of the model's probability of each token"""
    total: float
    """sum of the log-probabilities that were searched: those of the model, or at a temperature"""
    score: float
    """total over the length penalty, plus the reward: what the search ranked by"""
    confidence: np.ndarray | None = None
    """(tokens,) float64, recalibrated confidence in each token; None: its probability"""


class Engine(Protocol):
    """Turns ids of sources into outputs."""

    def search(
        self, source_ids: list[list[int]], options: SearchConfig, prefixes: list[list[int]] | None, /
    ) -> list[list[Hypothesis]]:
        """Up to `options.nbest` different hypotheses of each sentence, best first.

        Args:
            source_ids: of each sentence, end of sentence last; a sentence without ids has no hypothesis.
            options: how to search.
            prefixes: for each sentence the target ids, without end of sentence, that its outputs begin with; None:
                the search is free everywhere.
        """
