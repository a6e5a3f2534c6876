"""SentencePiece models whose pieces have ids of another vocabulary, as in Marian's models.

`vocabulary.json` in a model directory: {"pad", "unknown", "begin", "end": ids, "source", "target": pieces by id}.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from mt.errors import UserError

FILE_NAME = "vocabulary.json"


class MappedProcessor:
    """Offers what `mt.corpus.tokenizer` asks a SentencePiece processor for, in ids of the other vocabulary.

    A line may begin with a code such as ">>fra<<", which Marian's multilingual models read as one piece.
    """

    def __init__(self, processor: Any, pieces: Sequence[str], *, pad: int, unknown: int, begin: int, end: int) -> None:
        """
        Args:
            processor: a SentencePiece processor.
            pieces: of the other vocabulary, by id, all different.
            pad, unknown, begin, end: ids of the special pieces; decoding begins with `begin`.
        """
        self._processor = processor
        self._pieces = list(pieces)
        self._ids = {piece: number for number, piece in enumerate(pieces)}
        self._pad, self._unknown, self._begin, self._end = pad, unknown, begin, end

    def encode(self, lines: Sequence[str], *, add_eos: bool, num_threads: int) -> list[list[int]]:
        """Ids of each line; pieces that the vocabulary does not hold are unknown."""
        codes = [self._code(line) for line in lines]
        texts = [line[len(code) :] for line, code in zip(lines, codes)]
        end = [self._end] if add_eos else []
        return [
            [*([self._ids[code]] if code else []), *(self._ids.get(piece, self._unknown) for piece in pieces), *end]
            for code, pieces in zip(codes, self._processor.encode(texts, out_type=str, num_threads=num_threads))
        ]

    def _code(self, line: str) -> str:
        code, mark, _ = line.partition("<<") if line.startswith(">>") else ("", "", "")
        return code + mark if mark and code + mark in self._ids else ""

    def decode(self, ids: Sequence[int]) -> str:
        """The text; special pieces but the unknown one are dropped."""
        dropped = (self._pad, self._begin, self._end)
        pieces = [self._pieces[number] for number in ids if number not in dropped]
        return str(self._processor.decode_pieces(pieces))

    def id_to_piece(self, number: int) -> str:
        """The surface of a piece."""
        return self._pieces[number]

    def get_piece_size(self) -> int:
        """How many pieces there are."""
        return len(self._pieces)

    def pad_id(self) -> int:
        """Padding."""
        return self._pad

    def bos_id(self) -> int:
        """What the decoder begins with."""
        return self._begin

    def unk_id(self) -> int:
        """The unknown piece."""
        return self._unknown

    def eos_id(self) -> int:
        """End of sentence."""
        return self._end


def mapped(processors: Sequence[Any], vocabulary: bytes) -> list[MappedProcessor]:
    """The source side's and the target side's processor under a vocabulary in the form of `vocabulary.json`.

    Raises:
        UserError: the vocabulary has another form.
    """
    try:
        content = json.loads(vocabulary)
        special = {name: int(content[name]) for name in ("pad", "unknown", "begin", "end")}
        sides = [content["source"], content["target"]]
        for pieces in sides:
            if len(set(pieces)) < len(pieces) or not all(0 <= number < len(pieces) for number in special.values()):
                raise ValueError("pieces stand there twice, or special ids lie outside")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"tokeniser: {FILE_NAME} is damaged ({error}); restore the file") from None
    return [MappedProcessor(processor, pieces, **special) for processor, pieces in zip(processors, sides)]
