"""A model as a folder that CTranslate2 loads, through that library's own model specification.

Its encoder and decoder specifications are filled by hand, because its ready constructor exposes no rotary positions.
Torch is imported when a model is exported, not for what was exported before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mt.config import ModelConfig
from mt.config_file import search_config
from mt.errors import UserError
from mt.model.directory import LoadedModel

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mt.model.transformer import Transformer

Expressible = Mapping[str, Sequence[Any] | None]
"""for each field of the model's config the values that a format can express; None: every value, or it matters in
training only"""

_SIZES = ("width", "encoder_layers", "decoder_layers", "encoder_heads", "decoder_heads")
_INNER_SIZES = ("encoder_feed_forward", "decoder_feed_forward")
_DROPOUT = ("dropout", "embedding_dropout", "attention_dropout", "activation_dropout")
EXPRESSIBLE: Expressible = {
    **dict.fromkeys((*_SIZES, *_INNER_SIZES, *_DROPOUT, "output_bias")),
    "norm": ("pre", "post"),
    "activation": ("relu", "gelu", "silu", "swiglu"),
    "positions": ("sinusoidal", "sinusoidal_half", "rotary"),
    "tie": ("none", "target", "all"),
}


class CannotHonour(UserError):
    """Another program cannot do what our own can; up to its first semicolon the message says what."""


def check_exportable(config: ModelConfig, expressible: Expressible, format_name: str, remedy: str) -> None:
    """Raises CannotHonour for the first value that the format cannot express, and for a field that its table does not
    name, whatever its value: somebody has to decide how such a model is exported, or it would become another one."""
    for item in fields(config):
        value, values = getattr(config, item.name), expressible.get(item.name, ())
        if values is not None and value not in values:
            train = f"train with {' or '.join(map(str, values))}, or " if values else ""
            raise CannotHonour(f"model.{item.name} is {value}: {format_name} cannot express it; {train}{remedy}")


def longest_output(loaded: LoadedModel) -> int:
    """Tokens of the longest output that the model's config allows."""
    return search_config(loaded.config.decode).longest_output(loaded.config.decode.max_length)


def most_positions(loaded: LoadedModel) -> int:
    """Positions that an exported model shall have: of the longest source and output, and no fewer than usual."""
    return max(512, loaded.config.decode.max_length, longest_output(loaded))


def import_ctranslate2() -> Any:
    """The library. Raises CannotHonour with the command that installs it where it is missing."""
    try:
        import ctranslate2
    except ImportError:
        text = "CTranslate2 is not installed; --engine and --format ctranslate2 need it: pip install ctranslate2"
        raise CannotHonour(text) from None
    return ctranslate2


def export_ctranslate2(loaded: LoadedModel, folder: Path) -> None:
    """Writes `model.bin` (float32), `config.json` and the vocabularies into an existing folder. CTranslate2 turns the
    weights into another type when it loads them (`compute_type`). Raises UserError when the library is missing, or the
    form of the model cannot be exported."""
    specs = import_ctranslate2().specs.transformer_spec
    from mt.model.attention import sinusoids, sinusoids_in_halves

    model, config, tokenizer = loaded.model, loaded.config.model, loaded.tokenizer
    check_exportable(config, EXPRESSIBLE, "CTranslate2", "use --engine torch")
    encoder = specs.TransformerEncoderSpec(config.encoder_layers, **_shape(config, config.encoder_heads))
    decoder = specs.TransformerDecoderSpec(config.decoder_layers, **_shape(config, config.decoder_heads))
    encoder.embeddings[0].weight = _array(model.source_embedding.weight)
    decoder.embeddings.weight = _array(model.target_embedding.weight)
    decoder.projection.weight = _array(model.output_weight)
    if model.output_bias is not None:
        decoder.projection.bias = _array(model.output_bias)
    if config.positions != "rotary":
        table = sinusoids if config.positions == "sinusoidal" else sinusoids_in_halves
        positions = table(most_positions(loaded), config.width).numpy()
        encoder.position_encodings.encodings = decoder.position_encodings.encodings = positions
    _set_layers(encoder, model, "encoder")
    _set_layers(decoder, model, "decoder")
    spec = specs.TransformerSpec(encoder, decoder)
    source, target = map(unique_pieces, tokenizer.vocabularies)
    spec.register_source_vocabulary(source)
    spec.register_target_vocabulary(target)
    spec.config.unk_token = target[tokenizer.unknown_id]
    spec.config.bos_token = spec.config.decoder_start_token = target[tokenizer.begin_id]
    spec.config.eos_token = target[tokenizer.end_id]
    spec.config.add_source_eos = True  # as that library's own converters do: SentencePiece gives pieces without it
    spec.config.layer_norm_epsilon = cast(Any, model.encoder[0]).attention_residual.norm.eps
    spec.validate()
    spec.optimize(quantization=None)
    spec.save(str(folder))


def unique_pieces(pieces: Sequence[str]) -> list[str]:
    """The pieces of a vocabulary; one that stands there twice (padding, where it has gaps) gets its number the second
    time."""
    seen: set[str] = set()
    found = []
    for number, piece in enumerate(pieces):
        found.append(piece if piece not in seen else f"{piece}#{number}")
        seen.add(found[-1])
    return found


def _shape(config: ModelConfig, heads: int) -> dict[str, Any]:
    """What the encoder's and the decoder's specification are both told."""
    activation = import_ctranslate2().specs.common_spec.Activation
    kinds = {"relu": activation.RELU, "gelu": activation.GELU, "silu": activation.SWISH, "swiglu": activation.SWISH}
    options = {
        "num_heads": heads,
        "pre_norm": config.norm == "pre",
        "activation": kinds[config.activation],
        "ffn_glu": config.activation == "swiglu",
    }
    if config.positions == "rotary":
        # Dimension 0: all of each head. Halves are faster there than neighbours: `_for_halves` makes them.
        options |= {"rotary_dim": 0, "rotary_interleave": False}
    return options


def _set_layers(spec: Any, model: Transformer, side: str) -> None:
    """Fills the layers of the encoder or the decoder, and the norm behind them where there is one."""
    if model.config.norm == "pre":
        _set_norm(spec.layer_norm, getattr(model, f"{side}_norm"))
    for layer_spec, layer in zip(spec.layer, getattr(model, side)):
        first, last = layer_spec.self_attention.linear
        _set_linear(first, layer.attention.input)  # queries, keys and values in one matrix, as ours
        if model.config.positions == "rotary":
            order = _for_halves(model.config.width, layer.attention.heads)
            first.weight, first.bias = first.weight[order], first.bias[order]
        _set_linear(last, layer.attention.output)
        _set_norm(layer_spec.self_attention.layer_norm, layer.attention_residual.norm)
        if side == "decoder":
            cross = layer.cross
            for part, linear in zip(layer_spec.attention.linear, (cross.query, cross.memory, cross.output)):
                _set_linear(part, linear)
            _set_norm(layer_spec.attention.layer_norm, layer.cross_residual.norm)
        first = layer_spec.ffn.linear_0
        _set_linear(first, layer.feed_forward.input)
        if layer.feed_forward.gated:
            first.weight, layer_spec.ffn.linear_0_noact.weight = np.split(first.weight, 2)
            first.bias, layer_spec.ffn.linear_0_noact.bias = np.split(first.bias, 2)
        _set_linear(layer_spec.ffn.linear_1, layer.feed_forward.output)
        _set_norm(layer_spec.ffn.layer_norm, layer.feed_forward_residual.norm)


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().contiguous().numpy()


def _set_linear(spec: Any, linear: nn.Linear) -> None:
    spec.weight, spec.bias = _array(linear.weight), _array(linear.bias)


def _set_norm(spec: Any, norm: nn.LayerNorm) -> None:
    spec.gamma, spec.beta = _array(norm.weight), _array(norm.bias)


def _for_halves(width: int, heads: int) -> np.ndarray:
    """Rows of the matrix of queries, keys and values, such that the pairs which are rotated together stand in the
    two halves of a head instead of next to each other; products of queries and keys do not change."""
    rows = np.arange(width).reshape(heads, width // heads // 2, 2).swapaxes(1, 2).reshape(width)
    return np.concatenate([rows, width + rows, 2 * width + np.arange(width)])
