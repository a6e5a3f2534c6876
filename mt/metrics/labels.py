"""Which tokens and words of a translation are right, by alignment with a reference: labels of inference calibration.

Tokens are aligned by TER, edit distance with shifts of blocks (Snover et al. 2006), with the search and limits of
Tercom and sacreBLEU, so that the number of edits is theirs. Labels (Wang, Tu, Shi and Liu 2020): C correct, S
substituted, I inserted, D correct by itself but directly behind a token that the reference has and the translation
left out; only C is right. Blocks are followed through their shifts, so that every token gets its label.

Where these differ from the published labels (github.com/shuo-git/InfECE: Tercom in Java, its shifts undone by a
script): that script drops tokens which it cannot bring back to their place, here each has its label; Tercom looks 20
tokens to both sides of the diagonal and tries any number of shifts, sacreBLEU, and so we, 25 and 1,000, which may
matter in long sentences; and the end of sentence is a token of both sides here, which is left to the user there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple, TypeVar

END = "</s>"
SPACE = "\u2581"
"""what SentencePiece puts in front of a token that follows a space"""

_BYTE = re.compile("<0x[0-9A-F]{2}>")
_SPELLED = {END: "", "<s>": "", "<pad>": "", "<unk>": "\u2047"}

_MAX_SHIFT_SIZE = 10  # tokens of the largest block that is shifted
_MAX_SHIFT_DISTANCE = 50  # furthest shift
_MAX_CANDIDATES = 1000  # shifts tried in one sentence
_BEAM = 25  # the edit distance looks so far to both sides of the diagonal
_INFINITE = 1 << 40

_Item = TypeVar("_Item", int, str)
_Shift = tuple[int, int, int]  # first token and length of a block, and the token it is put before


class _Alignment(NamedTuple):
    distance: int
    positions: list[int]
    """for each reference token the hypothesis token beside it, or before it if it has none (-1: before all)"""
    reference_wrong: list[bool]
    labels: list[str]
    """for each hypothesis token"""


def token_labels(hypothesis_tokens: Sequence[str], reference_tokens: Sequence[str]) -> list[bool]:
    """For each hypothesis token whether it is right: label C. An end of sentence counts if both sides have it."""
    return [label == "C" for label in align(hypothesis_tokens, reference_tokens)[1]]


def words_of_tokens(tokens: Sequence[str]) -> tuple[list[str], list[int]]:
    """Words, and for each token the index of its word.

    Tokens form words by SentencePiece's mark of a space, or by a trailing "@@" of subword-nmt; else each is a word.
    The end of sentence is a word of its own.
    """
    marked = any(token.startswith(SPACE) for token in tokens)
    words: list[str] = []
    word_of_token, joined = [], False
    for token in tokens:
        starts = token == END or (token.startswith(SPACE) if marked else not joined)
        if starts or not words or words[-1] == END:
            words.append("")
        joined = not marked and token.endswith("@@")
        words[-1] += token.removesuffix("@@") if joined else token.removeprefix(SPACE)
        word_of_token.append(len(words) - 1)
    return words, word_of_token


def characters_of_tokens(tokens: Sequence[str], text: str) -> list[list[int]] | None:
    """For each token the places of its characters in the text that the tokens spell, None where they do not spell it.

    Spaces belong to no token; a token without characters of its own, a lone mark of a space, stands for the next
    character; the end of sentence for none. Pieces that are single bytes stand for the character that they are part of.
    """
    marked, spelled, own = any(SPACE in token for token in tokens), "", []
    for count, part in _spelled(tokens):
        part = "".join((part if marked else part.removesuffix("@@")).split())
        own += [(len(spelled), len(spelled) + len(part))] * count
        spelled += part
    places = [place for place, character in enumerate(text) if not character.isspace()]
    if spelled != "".join(text[place] for place in places):
        return None
    silent = [_SPELLED.get(token) == "" for token in tokens]
    return [places[start : max(end, start + (not none))] for (start, end), none in zip(own, silent, strict=True)]


def _spelled(tokens: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Numbers of tokens and what they spell: one each, but for bytes, several of which may spell one character; those
    that spell none come out as U+FFFD each, as SentencePiece has them."""
    for bytewise, run in groupby(tokens, lambda token: bool(_BYTE.fullmatch(token))):
        if not bytewise:
            yield from ((1, _SPELLED.get(token, token.replace(SPACE, " "))) for token in run)
            continue
        data = bytes(int(token[3:5], 16) for token in run).decode(errors="surrogateescape")
        for character in data:
            known = not "\udc80" <= character <= "\udcff"  # what that puts for a byte of no character
            yield (len(character.encode()), character) if known else (1, "\ufffd")


def align(hypothesis: Sequence[str], reference: Sequence[str]) -> tuple[int, list[str]]:
    """How many edits (substitutions, insertions, deletions, shifts) lead from hypothesis to reference, and a label C,
    S, I or D for each token of the hypothesis."""
    if not reference or not hypothesis:
        return len(hypothesis) + len(reference), ["I"] * len(hypothesis)
    reference, order = list(reference), list(range(len(hypothesis)))
    candidates = shifts = 0
    while True:
        shifted = [hypothesis[index] for index in order]
        alignment = _edit_alignment(shifted, reference)
        if not alignment.distance:
            break
        best, candidates = _best_shift(shifted, reference, alignment, candidates)
        if best is None or candidates >= _MAX_CANDIDATES:
            break
        order = _moved(order, best)
        shifts += 1
    labels = [""] * len(hypothesis)
    for index, label in zip(order, alignment.labels, strict=True):
        labels[index] = label
    return shifts + alignment.distance, labels


def _best_shift(
    hypothesis: list[str], reference: list[str], alignment: _Alignment, candidates: int
) -> tuple[_Shift | None, int]:
    """The shift that reduces the distance most (None: none does), and the candidates counted on from before.

    Among equals the longest block wins, then the first, then the one that goes to the front."""
    distances = _ShiftedDistance(hypothesis, reference)
    tried: set[_Shift] = set()
    best: _Shift | None = None
    rank = 0, 0, 0, 0
    for start, reference_start, length in _common_blocks(hypothesis, reference):
        inside = range(start, start + length)
        if (
            all(alignment.labels[index] in "CD" for index in inside)
            or not any(alignment.reference_wrong[reference_start : reference_start + length])
            or alignment.positions[reference_start] in inside
        ):
            continue
        befores = range(reference_start - 1, reference_start + length)
        for target, _ in groupby(0 if before < 0 else alignment.positions[before] + 1 for before in befores):
            candidates += 1  # sacreBLEU counts repeated ones too
            shift = start, length, target
            if shift in tried:
                continue
            tried.add(shift)
            limit = alignment.distance - max(rank[0], 1)  # a distance above this cannot win
            distance = distances.after(shift, limit)
            gain = (alignment.distance - distance, length, -start, -target)
            if distance <= limit and gain > rank:
                best, rank = shift, gain
        if candidates >= _MAX_CANDIDATES:
            break
    return best, candidates


def _common_blocks(hypothesis: list[str], reference: list[str]) -> Iterator[tuple[int, int, int]]:
    """(start in hypothesis, start in reference, length) of equal blocks, shorter before longer."""
    places: dict[str, list[int]] = {}
    for index, token in enumerate(reference):
        places.setdefault(token, []).append(index)
    for start, token in enumerate(hypothesis):
        for reference_start in places.get(token, ()):
            if abs(reference_start - start) > _MAX_SHIFT_DISTANCE:
                continue
            room = min(_MAX_SHIFT_SIZE, len(hypothesis) - start, len(reference) - reference_start)
            for offset in range(room):
                if hypothesis[start + offset] != reference[reference_start + offset]:
                    break
                yield start, reference_start, offset + 1


def _moved(items: list[_Item], shift: _Shift) -> list[_Item]:
    """items with a block put before what stands at the target; a target inside the block counts from its end."""
    start, length, target = shift
    end = start + length
    others = items[:start] + items[end:]
    place = target - length if target > end else target
    return others[:place] + items[start:end] + others[place:]


class _ShiftedDistance:
    """Edit distances to a reference after shifts of one hypothesis.

    Bits of an integer hold a whole column of the distance matrix (Myers 1999, Hyyrö 2003), and columns in front of
    a shift are computed once. That is the distance without a beam, never more than the one with it; where the two
    might differ, and it matters, the latter is computed.
    """

    def __init__(self, hypothesis: list[str], reference: list[str]) -> None:
        self.hypothesis, self.reference = hypothesis, reference
        self.all_bits, self.last_bit = (1 << len(reference)) - 1, 1 << (len(reference) - 1)
        self.equal: dict[str, int] = {}
        for index, token in enumerate(reference):
            self.equal[token] = self.equal.get(token, 0) | 1 << index
        self.columns = [(self.all_bits, 0, len(reference))]
        for token in hypothesis:
            self.columns.append(self._next(token, *self.columns[-1]))

    def after(self, shift: _Shift, limit: int) -> int:
        """The distance after a shift; above the limit possibly too low, but still above the limit."""
        shifted, unchanged = _moved(self.hypothesis, shift), min(shift[0], shift[2])
        column = self.columns[unchanged]
        for token in shifted[unchanged:]:
            column = self._next(token, *column)
        distance = column[2]
        slack = distance + abs(len(self.reference) - len(self.hypothesis))
        if distance > limit or len(self.reference) < _BEAM or slack < _BEAM - 1:
            return distance
        return _edit_alignment(shifted, self.reference).distance

    def _next(self, token: str, up: int, down: int, distance: int) -> tuple[int, int, int]:
        """The next column: where the distance rises and falls by 1 along the reference, and its last value."""
        equal = self.equal.get(token, 0)
        vertical, horizontal = equal | down, (((equal & up) + up) ^ up) | equal
        rises, falls = down | (self.all_bits & ~(horizontal | up)), up & horizontal
        distance += bool(rises & self.last_bit) - bool(falls & self.last_bit)
        rises, falls = (rises << 1 | 1) & self.all_bits, falls << 1 & self.all_bits
        return falls | (self.all_bits & ~(vertical | rises)), rises & vertical, distance


def _edit_alignment(hypothesis: list[str], reference: list[str]) -> _Alignment:
    """Edit distance near the diagonal; of equal paths the one that, from the end, replaces before it inserts, and
    inserts before it deletes."""
    width = len(reference)
    ratio = width / len(hypothesis)
    beam = _BEAM if ratio / 2 <= _BEAM else math.ceil(ratio / 2 + _BEAM)  # sacreBLEU's, for unequal lengths
    row, choices = list(range(width + 1)), [["D"] * (width + 1)]
    for i, token in enumerate(hypothesis, start=1):
        diagonal = int(i * ratio)
        low = max(0, diagonal - beam)
        high = width + 1 if i == len(hypothesis) else min(width + 1, diagonal + beam)
        new, choice = [_INFINITE] * (width + 1), [""] * (width + 1)
        if low == 0:
            new[0], choice[0] = row[0] + 1, "I"
        for j in range(max(low, 1), high):
            same = token == reference[j - 1]
            cost, label = (row[j - 1], "C") if same else (row[j - 1] + 1, "S")
            if row[j] + 1 < cost:
                cost, label = row[j] + 1, "I"
            if new[j - 1] + 1 < cost:
                cost, label = new[j - 1] + 1, "D"
            new[j], choice[j] = cost, label
        row = new
        choices.append(choice)
    # the alignment is read off the choices from the end; "D" there is a reference token left out
    i, j = len(hypothesis), width
    positions, reference_wrong, labels = [0] * j, [True] * j, [""] * i
    while i or j:
        label = choices[i][j]
        if label != "I":
            j -= 1
            positions[j] = i - 1
            reference_wrong[j] = label != "C"
        if label != "D":
            i -= 1
            behind_gap = label == "C" and j > 0 and choices[i][j] == "D"
            labels[i] = "D" if behind_gap else label
    return _Alignment(row[width], positions, reference_wrong, labels)
