"""From the ids of lines to batches: truncated or split where they are too long, grouped by length, padded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mt.corpus.batching import pad_batch
from mt.corpus.tokenizer import Tokenizer

Overlong = Literal["split", "cut"]
"""what becomes of a line of too many tokens"""

# After a mark that closes a sentence, with the quotes and brackets that belong to it, before space; Chinese and
# Japanese marks need no space.
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’»)\]]*\s+|(?<=[。！？])[」』”’]*")


def fitting_sources(
    line: str, ids: Sequence[int], tokenizer: Tokenizer, longest: int, overlong: Overlong
) -> list[list[int]]:
    """What is translated in the place of a line of more than `longest` tokens, of which `ids` are the ids.

    "cut" keeps the first `longest`; "split" keeps all, sentence by sentence, and a sentence that is itself too long in
    runs of whole words. Each source has at most `longest` tokens, its own end of sentence among them.
    """
    if overlong == "cut":
        return [truncate(ids, longest)]
    ends = [0, *(found.end() for found in _SENTENCE_END.finditer(line)), len(line)]
    sentences = [line[start:end].strip() for start, end in pairwise(ends)]
    encoded = tokenizer.encode_source([sentence for sentence in sentences if sentence])
    return [run for sentence in encoded for run in _split_before_words(sentence, tokenizer, longest)]


def truncate(ids: Sequence[int], longest: int) -> list[int]:
    """The first tokens and the end of sentence, `longest` together, of what has more."""
    return list(ids) if len(ids) <= longest else [*ids[: longest - 1], ids[-1]]


def _split_before_words(ids: list[int], tokenizer: Tokenizer, longest: int) -> list[list[int]]:
    """The ids in runs of at most `longest` with their end of sentence, broken before a word where one begins."""
    *rest, end = ids
    runs: list[list[int]] = []
    while rest:
        size = len(rest)
        if size >= longest:
            size = max(longest - 1, 1)  # room for the end of sentence; never 0, or the loop would not end
            pieces = tokenizer.source_pieces(rest[: size + 1])
            begins = [place for place in range(1, size + 1) if pieces[place].startswith("▁")]
            size = begins[-1] if begins else size
        runs.append([*rest[:size], end])
        rest = rest[size:]
    return runs


def length_groups(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Splits the indices of items into groups of similar length, the longest first, so that little of a batch is
    padding. A group's count times its longest item is at most `most`; a larger item is a group of its own."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= most:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def padded(sequences: Sequence[Sequence[int]], pad_id: int, device: torch.device | str) -> Tensor:
    """Rows filled up with padding on the right: (sequences, longest) int64."""
    rows = [np.asarray(sequence, dtype=np.int64) for sequence in sequences]
    return torch.from_numpy(pad_batch(rows, pad_id)).to(device)
