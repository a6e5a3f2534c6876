"""What the exporters share: which forms a format can express, the longest output, the pieces of both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from mt.config import ModelConfig
from mt.config_file import search_config
from mt.corpus.tokenizer import Tokenizer
from mt.errors import UserError
from mt.model.directory import LoadedModel

Expressible = Mapping[str, Sequence[Any] | None]
"""for each field of the model's config the values that a format can express; None: every value, or it matters in
training only"""

_SIZES = ("width", "encoder_layers", "decoder_layers", "encoder_heads", "decoder_heads")
_INNER_SIZES = ("encoder_feed_forward", "decoder_feed_forward")
_DROPOUT = ("dropout", "embedding_dropout", "attention_dropout", "activation_dropout")
ANY_VALUE: Expressible = dict.fromkeys((*_SIZES, *_INNER_SIZES, *_DROPOUT, "output_bias"))
"""what every format can express"""


def check_exportable(config: ModelConfig, expressible: Expressible, format_name: str, remedy: str) -> None:
    """Raises UserError for the first value that the format cannot express.

    A field that its table does not name is refused as well, whatever its value: somebody has to decide how such a
    model is exported, or it would be exported as another one.
    """
    for item in fields(config):
        value, values = getattr(config, item.name), expressible.get(item.name, ())
        if values is not None and value not in values:
            train = f"train with {' or '.join(map(str, values))}, or " if values else ""
            raise UserError(f"model.{item.name} is {value}: {format_name} cannot express it; {train}{remedy}")


def longest_output(loaded: LoadedModel) -> int:
    """Tokens of the longest output that the model's config allows."""
    return search_config(loaded.config.decode).longest_output(loaded.config.decode.max_length)


def most_positions(loaded: LoadedModel) -> int:
    """Positions that an exported model shall have: of the longest source and output, and no fewer than usual."""
    return max(512, loaded.config.decode.max_length, longest_output(loaded))


def pieces_of(tokenizer: Tokenizer) -> tuple[list[str], list[str]]:
    """The source pieces and the target pieces by id."""
    return tokenizer.source_pieces(range(tokenizer.source_size)), tokenizer.target_pieces(range(tokenizer.target_size))
