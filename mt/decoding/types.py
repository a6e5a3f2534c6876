"""What the parts of decoding hand to each other: a model's step and state, hypotheses and their score, engines."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np

from mt.config import SearchConfig

if TYPE_CHECKING:
    from torch import Tensor


class SearchState(Protocol):
    """What the model remembers of each row; a row is one hypothesis of a sentence."""

    def expand(self, beams: int, /) -> None:
        """Each row, one a sentence, becomes `beams` equal rows side by side."""

    def reorder(self, beam_indices: Tensor, /) -> None:
        """Row i goes on from what row `beam_indices[i]` was; (rows,) int64, within the same sentence."""

    def select(self, rows: Tensor, /) -> None:
        """As `reorder`, of whole sentences: those not named leave, others may change places; (rows left,) int64."""


AnyState = TypeVar("AnyState", bound=SearchState)
Step: TypeAlias = "Callable[[Tensor, AnyState], Tensor]"
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
        """Up to `options.nbest` different hypotheses of each sentence (ids, end of sentence last), best first;
        `prefixes`: for each the target ids, without end of sentence, that its outputs begin with; None: none."""


def length_penalty(name: str, length: int, alpha: float) -> float:
    """The divisor of the total: with "average" length ** alpha (alpha 1: the mean log-probability of a token), with
    "gnmt" ((5 + length) / 6) ** alpha (Wu et al. 2016, section 7), else 1. `length`: tokens, end of sentence counted.

    It never falls as the length grows (alpha is 0 or more): the search's stopping rule relies on that.
    """
    if name == "average":
        return float(length**alpha)
    return float(((5 + length) / 6) ** alpha) if name == "gnmt" else 1.0


def length_reward(name: str, length: int, alpha: float) -> float:
    """What is added to the score: with "reward" `alpha` nats a token (He et al. 2016; Murray & Chiang 2018,
    section 3), else 0."""
    return alpha * length if name == "reward" else 0.0


def normalised_score(total: float, name: str, length: int, alpha: float) -> float:
    """The sum of log-probabilities `total` (nats) over the length penalty, plus the reward."""
    return total / length_penalty(name, length, alpha) + length_reward(name, length, alpha)
