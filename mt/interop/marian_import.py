"""Marian models in Hugging Face's format (OPUS-MT among them) as model directories of ours.

Marian is post-norm, with sines before cosines in its position table, a bias on the output and decoding that begins
with padding; its vocabulary is a JSON file apart from its SentencePiece models.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mt.config import Config, CorpusConfig, DataConfig, DecodeConfig, ModelConfig, TokenizerConfig, TrainConfig
from mt.corpus.tokenizer import Tokenizer
from mt.errors import UserError
from mt.files.json_file import read_json
from mt.model.attention import sinusoids_in_halves
from mt.model.directory import build_model, load_weights, read_tensors
from mt.model.transformer import Transformer

SIZES = {
    "width": "d_model",
    "encoder_layers": "encoder_layers",
    "decoder_layers": "decoder_layers",
    "encoder_heads": "encoder_attention_heads",
    "decoder_heads": "decoder_attention_heads",
    "encoder_feed_forward": "encoder_ffn_dim",
    "decoder_feed_forward": "decoder_ffn_dim",
}
"""our names of sizes to theirs"""
_ACTIVATIONS: dict[str, Any] = {"relu": "relu", "gelu": "gelu", "silu": "silu", "swish": "silu"}  # theirs to ours
# Our linear layers and norms of a layer, each with theirs, which stand in it in order.
_LAYER: dict[str, tuple[str, ...]] = {
    "attention.input": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.output": ("self_attn.out_proj",),
    "attention_residual.norm": ("self_attn_layer_norm",),
    "feed_forward.input": ("fc1",),
    "feed_forward.output": ("fc2",),
    "feed_forward_residual.norm": ("final_layer_norm",),
}
_CROSS: dict[str, tuple[str, ...]] = {
    "cross.query": ("encoder_attn.q_proj",),
    "cross.memory": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "cross.output": ("encoder_attn.out_proj",),
    "cross_residual.norm": ("encoder_attn_layer_norm",),
}
_POSITIONS = 512  # longest sentence that the models of OPUS-MT were made for
# Forms of other members of that family; older config files spell all of them out.
_ABSENT = ("normalize_before", "normalize_embedding", "add_final_layer_norm", "add_bias_logits")


def all_parts(config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """Our linear layers and norms of all layers, each with theirs, which stand in it in order."""
    sides = {"encoder": (config.encoder_layers, _LAYER), "decoder": (config.decoder_layers, _LAYER | _CROSS)}
    return {
        f"{side}.{number}.{ours}": tuple(f"model.{side}.layers.{number}.{name}" for name in theirs)
        for side, (count, layer) in sides.items()
        for number in range(count)
        for ours, theirs in layer.items()
    }


def read_marian(folder: Path) -> tuple[Transformer, Tokenizer, Config]:
    """Reads `config.json`, the weights (safetensors, or torch's file read without unpickling), `source.spm`,
    `target.spm` and `vocab.json`.

    Raises:
        UserError: a file is missing or broken, or the model has a form that ours cannot express.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give one with a Marian model in Hugging Face's format")
    theirs = read_json(folder / "config.json", dict[str, Any])
    if theirs.get("model_type") != "marian":
        raise UserError(f"{folder / 'config.json'}: model_type is {theirs.get('model_type')!r}, not marian")
    config = _config(folder, theirs)
    tokenizer = _tokenizer(folder, theirs)
    model = build_model(config, tokenizer)
    tensors = {name: tensor.float() for name, tensor in _read_weights(folder).items()}
    load_weights(model, _our_tensors(tensors, theirs, config.model, folder), folder)
    return model.eval(), tokenizer, config


def _config(folder: Path, theirs: dict[str, Any]) -> Config:
    path, activation = folder / "config.json", theirs.get("activation_function", "gelu")
    for name in _ABSENT:
        if theirs.get(name):
            raise UserError(f"{path}: {name} is true; such a model cannot be imported")
    if activation not in _ACTIVATIONS:
        raise UserError(f"{path}: activation_function is {activation!r}; it must be one of {', '.join(_ACTIVATIONS)}")
    names = _optional_json(folder / "tokenizer_config.json")
    generation = {**theirs, **_optional_json(folder / "generation_config.json")}
    unused = CorpusConfig(files=["imported.tsv"])  # a config must name text; this one is never trained with
    dropout = theirs.get("dropout", 0.1)
    try:
        return Config(
            run_dir=folder.name,
            data=DataConfig(
                source_language=names.get("source_lang") or "source",
                target_language=names.get("target_lang") or "target",
                train=[unused],
                valid=[unused],
            ),
            tokenizer=TokenizerConfig(joint=_shared(theirs), vocabulary_size=max(32, theirs["vocab_size"])),
            model=ModelConfig(
                **{ours: theirs[name] for ours, name in SIZES.items()},
                norm="post",
                activation=_ACTIVATIONS[activation],
                positions="sinusoidal_half",
                tie=_tie(theirs),
                output_bias=True,
                dropout=dropout,
                embedding_dropout=dropout,
                attention_dropout=theirs.get("attention_dropout", 0.0),
                activation_dropout=theirs.get("activation_dropout", 0.0),
            ),
            train=TrainConfig(max_steps=1),
            decode=DecodeConfig(
                beam=generation.get("num_beams") or 5,
                length_alpha=generation.get("length_penalty", 1.0),
                max_length=min(_POSITIONS, theirs.get("max_position_embeddings", _POSITIONS)),
            ),
        )
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]} is missing; restore the file") from None


def _shared(theirs: dict[str, Any]) -> bool:
    return bool(theirs.get("share_encoder_decoder_embeddings", True))


def _tie(theirs: dict[str, Any]) -> Any:
    """Where embeddings are not scaled on input, they cannot be the output's matrix: ours always scales."""
    if not theirs.get("tie_word_embeddings", True) or not theirs.get("scale_embedding", False):
        return "none"
    return "all" if _shared(theirs) else "target"


def _tokenizer(folder: Path, theirs: dict[str, Any]) -> Tokenizer:
    source = read_json(folder / "vocab.json", dict[str, Any])
    separate = folder / "target_vocab.json"
    target = read_json(separate, dict[str, Any]) if not _shared(theirs) and separate.exists() else source
    unknown = {vocabulary.get("<unk>") for vocabulary in (source, target)}
    special = {
        "pad": theirs.get("pad_token_id"),
        "unknown": next(iter(unknown)),
        "begin": theirs.get("decoder_start_token_id"),
        "end": theirs.get("eos_token_id"),
    }
    if len(unknown) > 1 or not all(isinstance(number, int) for number in special.values()):
        raise UserError(f"{folder}: special ids of config.json and vocab.json are {special}; restore the files")
    source_size = theirs["vocab_size"]
    target_size = source_size if _shared(theirs) else theirs.get("decoder_vocab_size") or source_size
    content = {
        **special,
        "source": _pieces(source, source_size, folder / "vocab.json"),
        "target": _pieces(target, target_size, separate if target is not source else folder / "vocab.json"),
    }
    source_model, target_model = (_read_bytes(folder / name) for name in ("source.spm", "target.spm"))
    return Tokenizer(source_model, target_model, json.dumps(content, ensure_ascii=False).encode())


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); restore the file") from None


def _pieces(vocabulary: dict[str, Any], size: int, path: Path) -> list[str]:
    """Pieces by id; an id without a piece gets a name of its own."""
    pieces = [f"<id {number}>" for number in range(size)]
    for piece, number in vocabulary.items():
        if not isinstance(number, int) or not 0 <= number < size:
            raise UserError(f"{path}: piece {piece!r} has id {number}, the model has {size} classes; restore the file")
        pieces[number] = piece
    return pieces


def _read_weights(folder: Path) -> dict[str, Tensor]:
    if (folder / "model.safetensors").exists():
        return read_tensors(folder / "model.safetensors")
    path = folder / "pytorch_model.bin"
    if not path.exists():
        raise UserError(f"{folder}: holds neither model.safetensors nor pytorch_model.bin; give the whole folder")
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever an unknown file makes of the reader
        raise UserError(f"{path}: cannot be read as plain tensors ({error}); convert it to safetensors") from None
    return {name: tensor for name, tensor in tensors.items() if isinstance(tensor, Tensor)}


def _our_tensors(
    tensors: dict[str, Tensor], theirs: dict[str, Any], config: ModelConfig, folder: Path
) -> dict[str, Tensor]:
    def take(*names: str) -> Tensor:
        for name in names:
            if name in tensors:
                return tensors[name]
        raise UserError(f"{folder}: the weights lack {names[0]}; restore the file")

    for name, table in tensors.items():  # position tables, where the file holds them, must be those that ours computes
        if name.endswith("embed_positions.weight"):
            positions = sinusoids_in_halves(len(table), config.width)
            if table.shape != positions.shape or (table - positions).abs().max() > 2e-3:  # what 16 bits leave of them
                raise UserError(f"{folder}: {name} holds other positions than sinusoids; it cannot be imported")
    shared = ("model.shared.weight", "lm_head.weight") if _shared(theirs) else ()
    target = take("model.decoder.embed_tokens.weight", *shared, "lm_head.weight")
    source = take("model.encoder.embed_tokens.weight", *shared)
    scale = 1.0 if theirs.get("scale_embedding", False) else math.sqrt(config.width)
    tied = theirs.get("tie_word_embeddings", True)
    found = {"output_weight": target if tied else take("lm_head.weight")}
    if config.tie == "none":
        found["target_embedding.weight"] = target / scale
    if config.tie != "all":
        found["source_embedding.weight"] = source / scale
    bias = tensors.get("final_logits_bias")
    found["output_bias"] = torch.zeros(len(target)) if bias is None else bias.flatten()
    for ours, names in all_parts(config).items():
        for kind in ("weight", "bias"):
            found[f"{ours}.{kind}"] = torch.cat([take(f"{name}.{kind}") for name in names])
    return found


def _optional_json(path: Path) -> dict[str, Any]:
    return read_json(path, dict[str, Any]) if path.exists() else {}
