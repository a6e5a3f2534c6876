"""What the decoder remembers between two steps of a search."""

from __future__ import annotations

import torch
from torch import Tensor


class DecoderState:
    """Keys and values of the tokens so far (by row) and of the source (by sentence).

    Rows are sentences * beams, the beams of a sentence side by side. The memory of a sentence is held once,
    whatever the beam.
    """

    def __init__(self, memory: list[Tensor], mask: Tensor | None, beams: int, heads: int, capacity: int = 32) -> None:
        """Starts empty.

        Args:
            memory: for each decoder layer (2, sentences, heads, source_length, head_width), keys and values.
            mask: (sentences, 1, 1, source_length) bool, true at real source tokens; None: all real.
            beams: rows of each sentence.
            heads: attention heads of the decoder.
            capacity: positions to make room for at first; grows as needed.
        """
        sentences, head_width = memory[0].size(1), memory[0].size(-1)
        self.memory = memory
        self.mask = mask
        self.beams = beams
        self.length = 0
        shape = (len(memory), 2, sentences * beams, heads, capacity, head_width)
        self.cache = memory[0].new_empty(shape)

    def make_room(self) -> None:
        """Doubles the cache when the next position would not fit."""
        capacity = self.cache.size(4)
        if self.length == capacity:
            self.cache = torch.cat([self.cache, torch.empty_like(self.cache)], dim=4)

    def reorder(self, beam_indices: Tensor) -> None:
        """Row i goes on from what row `beam_indices[i]` was; (rows,) int64, within the same sentence."""
        used = self.cache[:, :, :, :, : self.length]
        used.copy_(used.index_select(2, beam_indices))

    def keep(self, rows: Tensor) -> None:
        """Drops all rows but these, (kept,) int64; always whole sentences, in order."""
        self.cache = self.cache.index_select(2, rows)
        sentences = torch.div(rows[:: self.beams], self.beams, rounding_mode="floor")
        self.memory = [layer.index_select(1, sentences) for layer in self.memory]
        if self.mask is not None:
            self.mask = self.mask.index_select(0, sentences)
