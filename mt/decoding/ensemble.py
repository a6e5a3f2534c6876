"""Several models of one target vocabulary as one: the mean of their probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mt.decoding.beam_search import normalised
from mt.decoding.types import SearchState, Step


class EnsembleState:
    """The states of all models, moved together."""

    def __init__(self, states: Sequence[Any]) -> None:
        """states: of the same rows, one for each model."""
        self.states: Sequence[SearchState] = states

    def expand(self, beams: int) -> None:
        """See SearchState."""
        for state in self.states:
            state.expand(beams)

    def reorder(self, beam_indices: Tensor) -> None:
        """See SearchState."""
        for state in self.states:
            state.reorder(beam_indices)

    def select(self, rows: Tensor) -> None:
        """See SearchState."""
        for state in self.states:
            state.select(rows)


def ensemble_step(steps: Sequence[Step[Any]]) -> Step[EnsembleState]:
    """A step on all models: (rows, vocabulary) log of the mean of their probabilities."""

    def step(tokens: Tensor, state: EnsembleState) -> Tensor:
        log_probs = [normalised(one(tokens, its)) for one, its in zip(steps, state.states, strict=True)]
        return torch.stack(log_probs).logsumexp(0) - math.log(len(steps))

    return step
