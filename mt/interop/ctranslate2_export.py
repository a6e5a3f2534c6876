"""A model as a folder that CTranslate2 loads, through that library's own model specification.

Its encoder and decoder specifications are filled by hand, because its ready constructor exposes no rotary positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from mt.config import ModelConfig
from mt.errors import UserError
from mt.model.attention import CrossAttention, SelfAttention
from mt.model.directory import LoadedModel
from mt.model.layers import DecoderLayer, EncoderLayer, FeedForward
from mt.model.positions import sinusoids, sinusoids_in_halves
from mt.model.transformer import Transformer

INSTALL = "pip install ctranslate2"
_POSITION_TABLES = {"sinusoidal": sinusoids, "sinusoidal_half": sinusoids_in_halves}
_EXPORTED = {
    "width",
    "encoder_layers",
    "decoder_layers",
    "encoder_heads",
    "decoder_heads",
    "encoder_feed_forward",
    "decoder_feed_forward",
    "norm",
    "activation",
    "positions",
    "tie",
    "output_bias",
    "dropout",
    "embedding_dropout",
    "attention_dropout",
    "activation_dropout",
}
"""fields of the model's config that this module knows how to export, or that matter in training only"""


def import_ctranslate2() -> Any:
    """The library. Raises UserError with the command that installs it where it is missing."""
    try:
        import ctranslate2
    except ImportError:
        raise UserError(f"CTranslate2 is not installed: --engine and --format ctranslate2 need it; {INSTALL}") from None
    return ctranslate2


def check_exportable(config: ModelConfig) -> None:
    """Raises UserError, naming the field, for a form that this module cannot express in CTranslate2's terms."""
    refuse_unknown_forms(config, _EXPORTED, "CTranslate2", "use --engine torch")


def refuse_unknown_forms(config: ModelConfig, known: set[str], format_name: str, remedy: str) -> None:
    """Raises UserError for the first field that is not among the known ones and differs from its default."""
    for item in fields(config):
        value = getattr(config, item.name)
        if item.name not in known and value != item.default:
            raise UserError(f"model.{item.name} is {value}: {format_name} cannot express it; {remedy}")


def export_ctranslate2(loaded: LoadedModel, folder: Path) -> None:
    """Writes `model.bin` (float32), `config.json` and the vocabularies into an existing folder.

    CTranslate2 turns the weights into another type when it loads them (`compute_type`).

    Raises:
        UserError: the library is missing, or the form of the model cannot be exported.
    """
    import_ctranslate2()
    from ctranslate2.specs import transformer_spec

    model, config, tokenizer = loaded.model, loaded.config.model, loaded.tokenizer
    check_exportable(config)
    positions = _position_table(loaded)
    with torch.inference_mode():
        encoder = _encoder_spec(model, config, positions)
        decoder = _decoder_spec(model, config, positions)
    spec = transformer_spec.TransformerSpec(encoder, decoder)
    spec.register_source_vocabulary(unique_pieces(tokenizer.source_pieces(range(tokenizer.source_size))))
    target = unique_pieces(tokenizer.target_pieces(range(tokenizer.target_size)))
    spec.register_target_vocabulary(target)
    spec.config.unk_token = target[tokenizer.unknown_id]
    spec.config.bos_token = spec.config.decoder_start_token = target[tokenizer.begin_id]
    spec.config.eos_token = target[tokenizer.end_id]
    spec.config.layer_norm_epsilon = cast(EncoderLayer, model.encoder[0]).attention_residual.norm.eps
    spec.validate()
    spec.optimize(quantization=None)
    spec.save(str(folder))


def unique_pieces(pieces: Sequence[str]) -> list[str]:
    """The pieces; one that stands there twice (padding in a vocabulary with gaps) gets its number."""
    seen: set[str] = set()
    found = []
    for number, piece in enumerate(pieces):
        found.append(piece if piece not in seen else f"{piece}#{number}")
        seen.add(found[-1])
    return found


def longest_output(loaded: LoadedModel) -> int:
    """Tokens of the longest output that the model's config allows."""
    decode = loaded.config.decode
    return int(decode.max_length_ratio * decode.max_length) + decode.max_length_extra


def _position_table(loaded: LoadedModel) -> np.ndarray | None:
    config = loaded.config
    if config.model.positions == "rotary":
        return None
    length = max(512, config.decode.max_length, longest_output(loaded))
    return _POSITION_TABLES[config.model.positions](length, config.model.width).numpy()


def _shape_options(config: ModelConfig, heads: int) -> dict[str, Any]:
    """What the encoder's and the decoder's specification are both told."""
    from ctranslate2.specs import common_spec

    activation = common_spec.Activation
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


def _encoder_spec(model: Transformer, config: ModelConfig, positions: np.ndarray | None) -> Any:
    from ctranslate2.specs import transformer_spec

    options = _shape_options(config, config.encoder_heads)
    spec = transformer_spec.TransformerEncoderSpec(config.encoder_layers, **options)
    spec.embeddings[0].weight = _array(model.source_embedding.weight)
    if positions is not None:
        spec.position_encodings.encodings = positions
    if config.norm == "pre":
        _set_norm(spec.layer_norm, model.encoder_norm)
    for layer_spec, layer in zip(spec.layer, cast(list[EncoderLayer], model.encoder)):
        _set_self_attention(layer_spec.self_attention, layer.attention, config)
        _set_norm(layer_spec.self_attention.layer_norm, layer.attention_residual.norm)
        _set_feed_forward(layer_spec.ffn, layer.feed_forward)
        _set_norm(layer_spec.ffn.layer_norm, layer.feed_forward_residual.norm)
    return spec


def _decoder_spec(model: Transformer, config: ModelConfig, positions: np.ndarray | None) -> Any:
    from ctranslate2.specs import transformer_spec

    options = _shape_options(config, config.decoder_heads)
    spec = transformer_spec.TransformerDecoderSpec(config.decoder_layers, **options)
    spec.embeddings.weight = _array(model.target_embedding.weight)
    spec.projection.weight = _array(model.output_weight)
    if model.output_bias is not None:
        spec.projection.bias = _array(model.output_bias)
    if positions is not None:
        spec.position_encodings.encodings = positions
    if config.norm == "pre":
        _set_norm(spec.layer_norm, model.decoder_norm)
    for layer_spec, layer in zip(spec.layer, cast(list[DecoderLayer], model.decoder)):
        _set_self_attention(layer_spec.self_attention, layer.attention, config)
        _set_norm(layer_spec.self_attention.layer_norm, layer.attention_residual.norm)
        _set_cross_attention(layer_spec.attention, layer.cross)
        _set_norm(layer_spec.attention.layer_norm, layer.cross_residual.norm)
        _set_feed_forward(layer_spec.ffn, layer.feed_forward)
        _set_norm(layer_spec.ffn.layer_norm, layer.feed_forward_residual.norm)
    return spec


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().float().cpu().contiguous().numpy()


def _set_linear(spec: Any, linear: nn.Linear) -> None:
    spec.weight, spec.bias = _array(linear.weight), _array(linear.bias)


def _set_norm(spec: Any, norm: nn.Module) -> None:
    layer_norm = cast(nn.LayerNorm, norm)
    spec.gamma, spec.beta = _array(layer_norm.weight), _array(layer_norm.bias)


def _set_self_attention(spec: Any, attention: SelfAttention, config: ModelConfig) -> None:
    """Queries, keys and values in one matrix, as ours."""
    _set_linear(spec.linear[0], attention.input)
    if config.positions == "rotary":
        order = _for_halves(config.width, attention.heads)
        spec.linear[0].weight, spec.linear[0].bias = spec.linear[0].weight[order], spec.linear[0].bias[order]
    _set_linear(spec.linear[1], attention.output)


def _for_halves(width: int, heads: int) -> np.ndarray:
    """Rows of the matrix of queries, keys and values, such that the pairs which are rotated together stand in the
    two halves of a head instead of next to each other; products of queries and keys do not change.
    """
    rows = np.arange(width).reshape(heads, width // heads // 2, 2).swapaxes(1, 2).reshape(width)
    return np.concatenate([rows, width + rows, 2 * width + np.arange(width)])


def _set_cross_attention(spec: Any, attention: CrossAttention) -> None:
    for part, linear in zip(spec.linear, (attention.query, attention.memory, attention.output)):
        _set_linear(part, linear)


def _set_feed_forward(spec: Any, layer: FeedForward) -> None:
    _set_linear(spec.linear_1, layer.output)
    if not layer.gated:
        _set_linear(spec.linear_0, layer.input)
        return
    gate, value = np.split(_array(layer.input.weight), 2)
    gate_bias, value_bias = np.split(_array(layer.input.bias), 2)
    spec.linear_0.weight, spec.linear_0.bias = gate, gate_bias
    spec.linear_0_noact.weight, spec.linear_0_noact.bias = value, value_bias
