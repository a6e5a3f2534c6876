"""Subwords: one joint SentencePiece model, or one for each side (Kudo and Richardson 2018).

Lines of text in, lists of piece ids out; every encoded line ends with the end-of-sentence id. No line makes an
error, whatever characters are in it. What a reader cannot see (`visible`) is left out before SentencePiece's own
normalisation, in training and translation alike, where the tokeniser was learnt so (`tokenizer.invisible`).
"""

from __future__ import annotations

import hashlib
import io
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import sentencepiece

from mt.config import TokenizerConfig
from mt.corpus.sampling import SPACE, SubwordSampler
from mt.errors import UserError
from mt.files.atomic import atomic_file
from mt.files.json_file import parse_json, read_bytes
from mt.processes import available_cores
from mt.progress import log_line
from mt.settings import Section, Whole

_TRAINING_THREADS = 8  # fixed: the sums of the training depend on how many threads share them
_LINES_PER_THREAD = 200  # fewer are not worth a thread
_VOCABULARY = "vocabulary.json"
_REMOVES = b", invisible characters removed"  # ends the name of a model's normalisation, which ends the model's bytes

# What Unicode calls default-ignorable (but for Hangul fillers): what may have a meaning, and the rest.
_BOUND = "\u180b-\u180f\u200c\u200d"
_IGNORABLE = (
    "\u00ad\u034f\u061c\u17b4\u17b5\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_SOME = re.compile(f"[{_BOUND}{_IGNORABLE}]")  # a search for one set of characters is ten times as fast as the others
_INVISIBLE = re.compile(f"(\U0001f3f4[\U000e0020-\U000e007e]+\U000e007f)|[{_IGNORABLE}]")  # the tags of a flag stay
# They have one behind a letter of Arabic, Indian and some other scripts, and one of the joiners has between emoji.
_JOINED = "\u0600-\u0dff\u0f00-\u109f\u1700-\u1cff\ua800-\uabff\ufb50-\ufefc\U00010a00-\U00011fff\U0001e900-\U0001e95f"
_EMOJI = "\u2190-\u21ff\u2300-\u23ff\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff"
_UNBOUND = re.compile(f"(?<![{_JOINED}])(?:[\u180b-\u180f\u200c]|(?<![{_EMOJI}])\u200d|\u200d(?![{_EMOJI}]))")

sentencepiece.set_min_log_level(3)


class Tokenizer:
    """Text to piece ids and back, for one direction.

    Args:
        source_model: a serialised SentencePiece model.
        target_model: the target side's model; None: joint, the source model serves both sides.
        vocabulary: content of `vocabulary.json`: other ids for the pieces, as Marian's models have them.

    Attributes:
        pad_id, unknown_id, begin_id, end_id: special ids, the same on both sides.
        source_size, target_size: pieces of the source and of the target model; equal if joint.
        joint: whether both sides share one model.
        invisible: "remove" or "keep", what is done with invisible characters, as it was when the pieces were learnt.
        models: the serialised SentencePiece models of the source and of the target side.
        fingerprint: hash of the model bytes, 32 hexadecimal digits.
    """

    def __init__(self, source_model: bytes, target_model: bytes | None = None, vocabulary: bytes | None = None) -> None:
        """Raises UserError where a model is none of SentencePiece, or has no padding, begin, end or unknown id."""
        self.joint = target_model is None
        self.models = source_model, source_model if target_model is None else target_model
        self._vocabulary = vocabulary
        self.invisible = "remove" if source_model.endswith(_REMOVES) else "keep"  # "keep" in models of earlier versions
        self._source = _load_processor(source_model)
        self._target = self._source if target_model is None else _load_processor(target_model)
        if vocabulary is not None:
            content = parse_json(vocabulary, _Vocabulary, f"tokeniser: {_VOCABULARY}")
            self._source = _MappedProcessor(self._source, content.source, content)
            self._target = _MappedProcessor(self._target, content.target, content)
        ids = [(side.pad_id(), side.unk_id(), side.bos_id(), side.eos_id()) for side in (self._source, self._target)]
        if min(ids[0]) < 0 or ids[0] != ids[1]:
            raise UserError(
                f"tokeniser: its padding, unknown, begin and end ids are {ids}; all must exist and be the same on both "
                "sides; train one with the command prepare"
            )
        self.pad_id, self.unknown_id, self.begin_id, self.end_id = ids[0]
        self.source_size: int = self._source.get_piece_size()
        self.target_size: int = self._target.get_piece_size()
        digests = b"".join(hashlib.blake2b(model).digest() for model in (source_model, target_model) if model)
        self.fingerprint = hashlib.blake2b(digests + (vocabulary or b""), digest_size=16).hexdigest()
        self._sampler = cache(SubwordSampler)  # one for each model, made when it is needed

    def encode_source(self, lines: Sequence[str], *, threads: int | None = None) -> list[list[int]]:
        """Piece ids of each line, and the end id; there is no begin id. `threads`: at most; None: one a core."""
        return self._encode(self._source, lines, threads)

    def encode_target(self, lines: Sequence[str], *, threads: int | None = None) -> list[list[int]]:
        """As `encode_source`, for the target side."""
        return self._encode(self._target, lines, threads)

    def encode_sampled(self, side: str, lines: Sequence[str], sampling: float, seed: int) -> list[list[int]]:
        """As `encode_source` or `encode_target` (`side`), with a random segmentation: see `mt.corpus.sampling`.

        `sampling` above 0: BPE dropout probability, or the smoothing alpha of a unigram model.
        """
        if self._vocabulary is not None:
            raise UserError("tokenizer.sampling: an imported vocabulary allows no sampling; set it to 0")
        processor = self._source if side == "source" else self._target  # one and the same if joint
        return self._sampler(processor).encode(self._prepared(lines), sampling, seed)

    def _encode(self, processor: Any, lines: Sequence[str], threads: int | None) -> list[list[int]]:
        threads = min(threads or available_cores(), 1 + len(lines) // _LINES_PER_THREAD)
        return list(processor.encode(self._prepared(lines), add_eos=True, num_threads=threads))

    def _prepared(self, lines: Sequence[str]) -> list[str]:
        lines = [_encodable(line) for line in lines]
        return [visible(line) for line in lines] if self.invisible == "remove" else lines

    def decode_target(self, ids: Iterable[int]) -> str:
        """One line of text: special ids are dropped, an unknown piece becomes "⁇", a line feed a space."""
        return _decode(self._target, ids)

    def decode_source(self, ids: Iterable[int]) -> str:
        """As `decode_target`, for the source side."""
        return _decode(self._source, ids)

    def source_pieces(self, ids: Sequence[int]) -> list[str]:
        """The surface of each piece, "</s>" for the end of sentence."""
        return [self.vocabularies[0][piece] for piece in ids]

    def target_pieces(self, ids: Sequence[int]) -> list[str]:
        """As `source_pieces`, for the target side."""
        return [self.vocabularies[1][piece] for piece in ids]

    @cached_property
    def vocabularies(self) -> tuple[list[str], list[str]]:
        """The source pieces and the target pieces by id."""
        source, target = (
            [side.id_to_piece(piece) for piece in range(side.get_piece_size())] for side in (self._source, self._target)
        )
        return source, target

    def save(self, folder: Path) -> None:
        """Writes `tokenizer.model` (joint), or `source.model` and `target.model`; `vocabulary.json` if there is one."""
        files = dict(zip(["tokenizer.model"] if self.joint else ["source.model", "target.model"], self.models))
        for name, content in {**files, _VOCABULARY: self._vocabulary}.items():
            if content is not None:
                with atomic_file(folder / name) as temporary:
                    temporary.write_bytes(content)


def load_tokenizer(folder: Path) -> Tokenizer:
    """What `Tokenizer.save` wrote into the folder; UserError where files are missing or broken."""
    apart = (folder / "source.model").exists() and not (folder / "tokenizer.model").exists()
    names = ["source.model", "target.model"] if apart else ["tokenizer.model"]
    models = [read_bytes(folder / name, "give a whole model directory") for name in names]
    vocabulary = folder / _VOCABULARY
    mapping = read_bytes(vocabulary) if vocabulary.exists() else None
    try:
        return Tokenizer(models[0], models[1] if len(models) > 1 else None, mapping)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None


def train_tokenizer(config: TokenizerConfig, source_lines: Iterable[str], target_lines: Iterable[str]) -> Tokenizer:
    """Learns the pieces from text, each side read once. The same text and settings give the same model.

    A text too small for `vocabulary_size` pieces gives as many as it can, with a message. Raises UserError where there
    is no text, or the vocabulary is smaller than the characters that it must hold.
    """
    if config.joint:
        return Tokenizer(_train(config, chain.from_iterable(zip(source_lines, target_lines)), "both sides"))
    source_model = _train(config, source_lines, "the source side")
    return Tokenizer(source_model, _train(config, target_lines, "the target side"))


def visible(line: str) -> str:
    """The line without the characters that a reader cannot see: soft hyphens, zero-width spaces, direction marks,
    variation selectors, byte order marks and the like. Zero-width joiners stay where they change how a word of Arabic,
    Indian and some other scripts is written, or make one emoji of several."""
    return _UNBOUND.sub("", _INVISIBLE.sub(r"\1", line)) if not line.isascii() and _SOME.search(line) else line


def comparable(lines: Sequence[str], fold_case: bool = False) -> list[str]:
    """Equal for lines that no reader and no tokeniser of this program tells apart: only what is visible, in one form of
    its accents, widths and spaces (SentencePiece's nmt_nfkc, or nmt_nfkc_cf)."""
    texts = [unicodedata.normalize("NFKC", visible(_encodable(line))) for line in lines]
    return list(_normalizer("nmt_nfkc_cf" if fold_case else "nmt_nfkc").normalize(texts))


@cache
def _normalizer(rule: str) -> Any:
    return sentencepiece.SentencePieceNormalizer(
        rule_name=rule, add_dummy_prefix=False, escape_whitespaces=False, remove_extra_whitespaces=True
    )


def _train(config: TokenizerConfig, lines: Iterable[str], what: str) -> bytes:
    model, removes = io.BytesIO(), config.invisible == "remove"
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=((visible if removes else str)(_encodable(line)).replace("\0", " ") for line in lines),
            model_writer=model,
            model_type=config.algorithm,
            vocab_size=config.vocabulary_size,
            hard_vocab_limit=False,  # as many pieces as the text has
            byte_fallback=config.byte_fallback,
            character_coverage=config.character_coverage,
            normalization_rule_name=config.normalization,
            input_sentence_size=config.training_sentences,
            shuffle_input_sentence=True,
            max_sentence_length=16384,  # bytes
            num_threads=_TRAINING_THREADS,
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            unk_surface="⁇",
            minloglevel=3,
        )
    except RuntimeError as error:
        raise _training_error(str(error), config, what) from None
    size, wanted = _load_processor(model.getvalue()).get_piece_size(), config.vocabulary_size
    if size < wanted:
        log_line(f"tokeniser: the text of {what} holds {size} pieces, fewer than tokenizer.vocabulary_size, {wanted}")
    return model.getvalue() + (_renamed(config.normalization.encode() + _REMOVES) if removes else b"")


def _renamed(name: bytes) -> bytes:
    """What, put behind a SentencePiece model, names its normalisation: `normalizer_spec.name` in Protocol Buffers,
    where the last value counts. So the rule travels with the model, and other programs load it as any other."""
    return bytes([0x1A, len(name) + 2, 0x0A, len(name)]) + name


def _training_error(text: str, config: TokenizerConfig, what: str) -> UserError:
    if "required_chars" in text:
        needed = text.partition(" vs ")[2].partition(".")[0]
        return UserError(
            f"tokenizer.vocabulary_size is {config.vocabulary_size}; the characters of {what} alone need "
            f"{needed}: raise it, or lower tokenizer.character_coverage"
        )
    if "sentences_.empty()" in text or "all_chars_count" in text:
        return UserError(f"tokeniser: no text on {what} to learn from; check data.train and data.cleaning")
    return UserError(f"tokeniser: SentencePiece could not learn pieces from {what}: {text}")


def _load_processor(model: bytes) -> Any:
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=model)
    except (RuntimeError, OSError):
        raise UserError("tokeniser: not a SentencePiece model, or damaged; copy the file again") from None


def _decode(processor: Any, ids: Iterable[int]) -> str:
    return str(processor.decode([int(piece) for piece in ids])).replace("\n", " ")


def _encodable(line: str) -> str:
    """The line, lone surrogates (which Python strings may hold, UTF-8 may not) replaced by "?"."""
    return line if line.isascii() else line.encode(errors="replace").decode()


@dataclass(frozen=True)
class _Vocabulary(Section):
    """Content of vocabulary.json: the special ids, and the pieces of each side by id."""

    pad: Whole
    unknown: Whole
    begin: Whole
    end: Whole
    source: list[str]
    target: list[str]

    def _check(self) -> None:
        for pieces in (self.source, self.target):
            if len(set(pieces)) < len(pieces) or max(self.pad, self.unknown, self.begin, self.end) >= len(pieces):
                raise ValueError("pieces stand there twice, or special ids lie outside")


class _MappedProcessor:
    """A SentencePiece processor whose pieces have ids of another vocabulary; offers what `Tokenizer` asks it for.

    A line may begin with a code such as ">>fra<<", which Marian's multilingual models read as one piece.
    """

    def __init__(self, processor: Any, pieces: list[str], special: _Vocabulary) -> None:
        self._processor, self._pieces = processor, pieces
        self._ids = {piece: number for number, piece in enumerate(pieces)}
        self._unknown, self._end, self._silent = special.unknown, special.end, (special.pad, special.begin, special.end)
        numbers = (special.pad, special.unknown, special.begin, special.end)
        self.pad_id, self.unk_id, self.bos_id, self.eos_id = (partial(int, each) for each in numbers)
        self.id_to_piece, self.get_piece_size = pieces.__getitem__, pieces.__len__

    def encode(self, lines: Sequence[str], *, add_eos: bool, num_threads: int) -> list[list[int]]:
        codes = [self._code(line) for line in lines]
        texts = [line[len(code) :] for line, code in zip(lines, codes)]
        encoded = self._processor.encode(texts, out_type=str, num_threads=num_threads)
        return [
            [self._ids.get(piece, self._unknown) for piece in ([code, *pieces] if code else pieces)]
            + [self._end] * add_eos
            for code, pieces in zip(codes, encoded)
        ]

    def _code(self, line: str) -> str:
        code, mark, _ = line.partition("<<") if line.startswith(">>") else ("", "", "")
        return code + mark if mark and code + mark in self._ids else ""

    def decode(self, ids: Sequence[int]) -> str:
        pieces = [self._pieces[number] for number in ids if number not in self._silent]
        # a piece that the SentencePiece model lacks comes out as it stands, with its sign for a space
        return str(self._processor.decode_pieces(pieces)).replace(SPACE, " ").strip()
