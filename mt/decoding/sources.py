"""From the ids of lines to batches: truncated or split where they are too long, grouped by length, padded."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from itertools import repeat, zip_longest
from typing import TYPE_CHECKING, Literal

import numpy as np

from mt.corpus.batching import pad_batch
from mt.corpus.tokenizer import Tokenizer
from mt.errors import UserError, UserTypeError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Overlong = Literal["split", "cut"]
"""what becomes of a line of too many tokens"""
MoreWaiting = Callable[[], bool]
_MISSING = object()  # in the place of what a shorter stream does not have

# After a mark that closes a sentence, with the quotes and brackets that belong to it, before space that no further mark
# follows; the marks of scripts that use them for nothing else need no space.
_SENTENCE_END = re.compile(
    r"(?<=[.!?…།])[\"'”“’‘»«›‹)\]}]*(?:\s[»›](?=\s))?\s+(?![\s.!?…])"
    r"|(?<=[。！？｡．؟۔।॥።፧։။។༎])[」』”’»》）)\]\"']*\s*(?![\s。！？｡．؟۔।॥።፧։။។༎])"
)
# What stands before the full stop of an abbreviation or an ordinal: a letter, two digits, a Roman number, letters with
# stops between them ("z.B", "J.-P"), a word without vowels ("Dr", "bzw"), and words that a name or number may follow.
_ABBREVIATION = re.compile(
    r"(?<![\w.])(?:\w|\d\d|[IVXLCDM]+|(?:\w{1,2}\.-?)+\w{1,2}"
    r"|[B-DF-HJ-NP-TV-XZb-df-hj-np-tv-xz][b-df-hj-np-tv-xzß]{1,4}"
    r"|Prof|Mme|Mlle|Ste|Me|Fa|Frl|Dipl|Ing|Inc|Co|Hon|Gen|Gov|Sen|Rep|Rev|Capt|Col|Maj|No|approx|vol|fig|evtl|inkl|sog"
    r"|ca|ehem|ul|im|акад|проф|डॉ)\.$"
)


def fitting_sources(
    line: str, ids: Sequence[int], tokenizer: Tokenizer, longest: int, overlong: Overlong
) -> list[list[int]]:
    """What is translated in the place of a line of more than `longest` tokens, of which `ids` are the ids.

    "cut" keeps the first `longest`; "split" keeps all, sentence by sentence, and a sentence that is itself too long in
    runs of whole words. Each source has at most `longest` tokens, its own end of sentence among them.
    """
    if overlong == "cut":
        return [[*ids[: longest - 1], ids[-1]]]
    encoded = []
    for sentence in split_sentences(line):
        [ids] = tokenizer.encode_source([sentence])
        encoded += [ids] if len(ids) <= longest else tokenizer.encode_source(split_sentences(sentence, careful=False))
    return [run for sentence in encoded for run in _split_before_words(sentence, tokenizer, longest)]


def split_sentences(text: str, *, careful: bool = True) -> list[str]:
    """The sentences of a text, without the space between them; one that is only space has none.

    Nothing ends after an abbreviation or a number of two digits and its stop. `careful`: nor before a digit or, in a
    text with capital letters, before a small one. In doubt two sentences stay together: a piece of one is worse.
    """
    sentences, begin, cased = [], 0, text != text.lower()
    for found in _SENTENCE_END.finditer(text):
        mark, following = found.start(), text[found.end() : found.end() + 1]
        if text[mark - 1] == "." and _ABBREVIATION.search(text, max(begin, mark - 20), mark):
            continue
        if careful and text[mark - 1] in ".!?…" and (following.isdecimal() or (cased and following.islower())):
            continue
        sentences.append(text[begin : found.end()].strip())
        begin = found.end()
    return [sentence for sentence in (*sentences, text[begin:].strip()) if sentence]


def _split_before_words(ids: list[int], tokenizer: Tokenizer, longest: int) -> list[list[int]]:
    """The ids in even runs of at most `longest` with their end of sentence, broken before a word where one begins."""
    *rest, end = ids
    most = max(longest - 1, 1)  # room for the end of sentence; never 0, or the loop would not end
    runs: list[list[int]] = []
    while rest:
        even = size = math.ceil(len(rest) / math.ceil(len(rest) / most))
        if size < len(rest):
            pieces = tokenizer.source_pieces(rest[: most + 1])
            begins = [place for place in range(1, len(pieces)) if pieces[place].startswith("▁")]
            size = min(begins, key=lambda place: abs(place - even), default=even)
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
    import torch  # the rest of this module serves an engine without it, too

    rows = [np.asarray(sequence, dtype=np.int64) for sequence in sequences]
    return torch.from_numpy(pad_batch(rows, pad_id)).to(device)


def check_streams(**streams: object) -> None:
    """Raises UserError, a TypeError, too, for what is no stream of texts, such as a single one."""
    for name, stream in streams.items():
        if isinstance(stream, (str, bytes, bytearray, Mapping, Set)) or not isinstance(stream, Iterable):
            given = type(stream).__name__
            raise UserTypeError(f"{name} is of type {given}; give a list of texts, one a line: [...]")


def read_windows(
    lines: Iterable[str],
    prefixes: Iterable[str] | None,
    size: int,
    first: int,
    more_waiting: MoreWaiting | None,
    beside: str = "prefix",
) -> Iterator[list[tuple[str, str]]]:
    """Windows of lines beside their prefixes, or what else stands `beside` them; `first`: number of the first line."""
    window: list[tuple[str, str]] = []
    pairs = zip(lines, repeat("")) if prefixes is None else zip_longest(lines, prefixes, fillvalue=_MISSING)
    for number, (line, prefix) in enumerate(pairs, first + 1):
        if not (isinstance(line, str) and isinstance(prefix, str)):
            if window:  # what comes before is translated
                yield window
            raise _not_text(number, line, prefix, beside)
        window.append((_clean(line), _clean(prefix)))
        if len(window) == size or (more_waiting is not None and not more_waiting()):
            yield window
            window = []
    if window:
        yield window


def _not_text(number: int, line: object, prefix: object, beside: str) -> UserError:
    if line is _MISSING or prefix is _MISSING:
        several = beside + ("es" if beside.endswith("x") else "s")
        return UserError(f"there are not as many {several} as lines; give one for each, empty where there is none")
    name, value = ("line", line) if not isinstance(line, str) else (f"the {beside} of line", prefix)
    return UserTypeError(f"{name} {number}, counted from 1, is of type {type(value).__name__}; it must be text (str)")


def _clean(line: str) -> str:
    """Without its line feed; lone surrogates, which no UTF-8 file can hold, become U+FFFD."""
    return line.removesuffix("\n").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
