"""Sources of more tokens than a model takes: cut, or split into sentences that are translated one by one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from mt.corpus.tokenizer import Tokenizer
from mt.decoding.grouping import cut_source

Overlong = Literal["split", "cut"]

# After a mark that closes a sentence, with the quotes and brackets that belong to it, before space; Chinese and
# Japanese marks need no space.
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’»)\]]*\s+|(?<=[。！？])[」』”’]*")


def fitting_sources(
    line: str, ids: Sequence[int], tokenizer: Tokenizer, longest: int, overlong: Overlong
) -> list[list[int]]:
    """What is translated in the place of a line of more than `longest` tokens.

    Args:
        line: its text.
        ids: its ids, end of sentence last.
        tokenizer: made the ids.
        longest: most tokens of a source, end of sentence included.
        overlong: "cut" keeps the first `longest`; "split" keeps all, sentence by sentence, and a sentence that is
            itself too long in runs of whole words.

    Returns:
        Sources of at most `longest` tokens, each with its own end of sentence.
    """
    if overlong == "cut":
        return [cut_source(ids, longest)]
    ends = [0, *(found.end() for found in _SENTENCE_END.finditer(line)), len(line)]
    sentences = [line[start:end].strip() for start, end in pairwise(ends)]
    sources: list[list[int]] = []
    for sentence in tokenizer.encode_source([sentence for sentence in sentences if sentence]):
        sources += _runs(sentence, tokenizer, longest)
    return sources


def _runs(ids: list[int], tokenizer: Tokenizer, longest: int) -> list[list[int]]:
    """The ids in runs of at most `longest` with their end of sentence, broken before a word where one begins."""
    *rest, end = ids
    runs: list[list[int]] = []
    while rest:
        size = len(rest)
        if size >= longest:
            size = max(longest - 1, 1)
            pieces = tokenizer.source_pieces(rest[: size + 1])
            begins = [place for place in range(1, size + 1) if pieces[place].startswith("▁")]
            size = begins[-1] if begins else size
        runs.append([*rest[:size], end])
        rest = rest[size:]
    return runs
