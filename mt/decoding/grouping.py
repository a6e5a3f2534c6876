"""From ids to batches: cut, grouped by length so that little of a batch is padding, padded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mt.corpus.batching import pad_batch


def length_groups(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Splits indices into groups of similar length, the longest first.

    Args:
        lengths: size of each item.
        most: a group's count times its longest item stays within this; a larger item is a group of its own.

    Returns:
        Lists of indices; each index stands in exactly one of them.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    groups: list[list[int]] = []
    for index in order:
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= most:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def cut_source(ids: Sequence[int], longest: int) -> list[int]:
    """The first tokens and the end of sentence, `longest` together, of what has more."""
    return list(ids) if len(ids) <= longest else [*ids[: longest - 1], ids[-1]]


def padded(sequences: Sequence[Sequence[int]], pad_id: int, device: torch.device | str) -> Tensor:
    """Rows filled up with padding on the right: (sequences, longest) int64."""
    rows = [np.asarray(sequence, dtype=np.int64) for sequence in sequences]
    return torch.from_numpy(pad_batch(rows, pad_id)).to(device)
