"""What the decoder remembers between two steps of a search."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# Up to so many beams a step looks at the keys of all beams of a sentence and masks those of other hypotheses:
# no dearer than a product per row, and then nothing is ever copied. Beyond, rows move (measured, 14 tokens).
_MOST_SHARED_BEAMS = 8
_FIRST_CAPACITY = 32  # positions; grows as needed


class DecoderState:
    """Keys and values of the tokens so far and of the source.

    A row is one hypothesis of a sentence, the `beams` rows of a sentence side by side; one at first. The memory
    of a sentence is held once, whatever the beam.

    cache: (layers, 2, groups, heads, slots, head_width). The rows of a group share slots, one for each row and
    position: a group is a sentence, or with many beams a row. visible: (groups, 1, rows of a group, slots), 0 at
    the slots that a row's hypothesis went through and -inf at others; None where a group is one row.
    """

    def __init__(self, memory: list[Tensor], mask: Tensor | None) -> None:
        """Starts empty, with one row a sentence.

        Args:
            memory: for each decoder layer (2, sentences, heads, source_length, head_width), keys and values.
            mask: (sentences, 1, 1, source_length) bool, true at real source tokens; None: all real.
        """
        _, sentences, heads, _, head_width = memory[0].shape
        self.memory, self.mask, self.beams, self.length = memory, mask, 1, 0
        self.slots = 1  # of a group that each position takes
        self.visible: Tensor | None = None
        self.cache = memory[0].new_empty((len(memory), 2, sentences, heads, _FIRST_CAPACITY, head_width))

    def expand(self, beams: int) -> None:
        """Each row, one a sentence, becomes `beams` equal rows."""
        assert self.beams == 1
        self.beams = beams
        if beams == 1:
            return
        if beams > _MOST_SHARED_BEAMS:
            self.cache = self.cache.repeat_interleave(beams, dim=2)
            return
        self.slots = beams
        layers, two, sentences, heads, capacity, head_width = self.cache.shape
        expanded = self.cache.new_empty((layers, two, sentences, heads, capacity * beams, head_width))
        used = expanded[:, :, :, :, : self.length * beams].unflatten(4, (self.length, beams))
        used[:, :, :, :, :, 0] = self.cache[:, :, :, :, : self.length]
        # Slots that nobody sees must hold numbers all the same: 0 * nan would be nan.
        used[:, :, :, :, :, 1:] = 0
        self.cache = expanded
        self.visible = self.cache.new_full((sentences, 1, beams, capacity * beams), -torch.inf)
        self.visible[:, :, :, : self.length * beams : beams] = 0

    def make_room(self) -> None:
        """Readies the slots of the next position; doubles the cache when they would not fit."""
        capacity = self.cache.size(4)
        if self.length * self.slots == capacity:
            self.cache = torch.cat([self.cache, torch.empty_like(self.cache)], dim=4)
            if self.visible is not None:
                self.visible = functional.pad(self.visible, (0, capacity), value=-torch.inf)
        if self.visible is not None:
            start = self.length * self.beams
            self.visible[:, 0, :, start : start + self.beams].diagonal(dim1=1, dim2=2).zero_()

    def reorder(self, beam_indices: Tensor) -> None:
        """Row i goes on from what row `beam_indices[i]` was; (rows,) int64, within the same sentence."""
        if self.beams == 1:
            return
        if self.visible is None:
            used = self.cache[:, :, :, :, : self.length]
            used.copy_(used.index_select(2, beam_indices))  # by way of a copy: rows may change places with each other
        else:
            used = self.visible[:, :, :, : self.length * self.beams]
            used.copy_(used.flatten(0, 2).index_select(0, beam_indices).view_as(used))

    def select(self, rows: Tensor) -> None:
        """Drops all rows but these, (rows left,) int64: whole sentences, no more of them than there were."""
        sentences = torch.div(rows[:: self.beams], self.beams, rounding_mode="floor")
        if self.visible is None and self.beams > 1:
            self.cache = self.cache.index_select(2, rows)
        else:
            select_in_place(self.cache[:, :, :, :, : self.length * self.slots], 2, sentences)
            self.cache = self.cache[:, :, : len(sentences)]
        if self.visible is not None:
            self.visible = self.visible.flatten(0, 2).index_select(0, rows).view(-1, *self.visible.shape[1:])
        self.memory = [select_in_place(layer, 1, sentences) for layer in self.memory]
        if self.mask is not None:
            self.mask = self.mask.index_select(0, sentences)


def select_in_place(field: Tensor, dim: int, places: Tensor) -> Tensor:
    """`field.index_select(dim, places)` in place: only what changes its place is copied."""
    here = (places != torch.arange(len(places), device=places.device)).nonzero()[:, 0]
    if len(here):
        field.index_copy_(dim, here, field.index_select(dim, places[here]))
    return field.narrow(dim, 0, len(places))
