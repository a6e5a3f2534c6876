"""Marian models in Hugging Face's format (OPUS-MT among them) as model directories of ours.

Marian is post-norm, with sines before cosines in its position table, a bias on the output and decoding that begins
with padding; its vocabulary is a JSON file apart from its SentencePiece models.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
import torch
from torch import Tensor

from mt.config import Config, CorpusConfig, DataConfig, DecodeConfig, ModelConfig, TokenizerConfig, TrainConfig
from mt.corpus.tokenizer import Tokenizer
from mt.errors import UserError
from mt.files.json_file import check_no_lfs_pointer, read_bytes, read_json
from mt.model.attention import sinusoids_in_halves
from mt.model.directory import build_model, check_finite, load_weights, read_tensors
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
RATES = ("dropout", "attention_dropout", "activation_dropout")
"""names that are the same"""
STOPS: dict[Any, bool | str] = {"first_beam": True, "no_gain": False, "exact": "never"}
"""our stopping rules to their `early_stopping`"""
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
# Weights that may be there beside those of the layers; tied ones under each of their names.
_BESIDE = ("final_logits_bias", "embed_positions.weight", "embed_tokens.weight", "shared.weight", "lm_head.weight")

_Size: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]
_Id: TypeAlias = Annotated[int, msgspec.Meta(ge=0)]
_Rate: TypeAlias = Annotated[float, msgspec.Meta(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class _Choices:
    """What is read of `generation_config.json` and `tokenizer_config.json`; `config.json` may hold it too."""

    num_beams: Annotated[int, msgspec.Meta(ge=1, le=1024)] | None = None
    length_penalty: Annotated[float, msgspec.Meta(ge=0, le=100)] | None = None
    early_stopping: bool | Literal["never"] | None = None
    source_lang: str | None = None
    target_lang: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Theirs(_Choices):
    """What is read of `config.json`."""

    model_type: Literal["marian"]
    vocab_size: _Size
    decoder_vocab_size: _Size | None = None
    d_model: _Size
    encoder_layers: _Size
    decoder_layers: _Size
    encoder_attention_heads: _Size
    decoder_attention_heads: _Size
    encoder_ffn_dim: _Size
    decoder_ffn_dim: _Size
    activation_function: Literal["gelu", "relu", "silu", "swish"] = "gelu"
    max_position_embeddings: _Size = _POSITIONS
    scale_embedding: bool = False
    tie_word_embeddings: bool = True
    share_encoder_decoder_embeddings: bool = True
    dropout: _Rate = 0.1
    attention_dropout: _Rate = 0.0
    activation_dropout: _Rate = 0.0
    pad_token_id: _Id
    eos_token_id: _Id
    decoder_start_token_id: _Id

    @property
    def target_size(self) -> int:
        """Classes of the output."""
        return self.vocab_size if self.share_encoder_decoder_embeddings else self.decoder_vocab_size or self.vocab_size

    @property
    def tie(self) -> Literal["none", "target", "all"]:
        """Where embeddings are not scaled on input, they cannot be the output's matrix: ours always scales."""
        if not self.tie_word_embeddings or not self.scale_embedding:
            return "none"
        return "all" if self.share_encoder_decoder_embeddings else "target"


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
        UserError: a file is missing, broken or does not go with the others, or the model has a form that ours cannot
            express.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give one with a Marian model in Hugging Face's format")
    path = folder / "config.json"
    theirs = read_json(path, _Theirs, "give the whole folder of a Marian model, as it was published")
    everything = read_json(path, dict[str, Any])
    for name in _ABSENT:
        if everything.get(name):
            raise UserError(f"{path}: {name} is true; such a model cannot be imported")
    tensors = _read_weights(folder)
    _check_sizes(folder, tensors, theirs)  # before anything is made as large as they say
    config = _config(folder, theirs)
    tokenizer = _tokenizer(folder, theirs)
    model = build_model(config, tokenizer)
    load_weights(model, _our_tensors(folder, tensors, theirs, config.model), folder)
    return model.eval(), tokenizer, config


def _config(folder: Path, theirs: _Theirs) -> Config:
    usual = _Choices(num_beams=5, length_penalty=1.0, early_stopping=True, source_lang="source", target_lang="target")
    paths = [folder / "generation_config.json", folder / "tokenizer_config.json"]
    given = [*(read_json(path, _Choices) for path in paths if path.exists()), theirs, usual]
    chosen: dict[str, Any] = {
        name: next(value for each in given if (value := getattr(each, name)) not in (None, "")) for name in vars(usual)
    }
    unused = CorpusConfig(files=["imported.tsv"])  # a config must name text; this one is never trained with
    try:
        return Config(
            run_dir=folder.resolve().name,
            data=DataConfig(
                source_language=chosen["source_lang"],
                target_language=chosen["target_lang"],
                train=[unused],
                valid=[unused],
            ),
            tokenizer=TokenizerConfig(
                joint=theirs.share_encoder_decoder_embeddings,
                vocabulary_size=max(32, theirs.vocab_size),
                invisible="keep",
            ),
            model=ModelConfig(
                **{ours: getattr(theirs, name) for ours, name in SIZES.items()},
                norm="post",
                activation=_ACTIVATIONS[theirs.activation_function],
                positions="sinusoidal_half",
                tie=theirs.tie,
                output_bias=True,
                embedding_dropout=theirs.dropout,
                **{name: getattr(theirs, name) for name in RATES},
            ),
            train=TrainConfig(max_steps=1),
            decode=DecodeConfig(
                beam=chosen["num_beams"],
                length_alpha=chosen["length_penalty"],
                stop=next(ours for ours, name in STOPS.items() if name == chosen["early_stopping"]),
                max_length=min(_POSITIONS, theirs.max_position_embeddings),
            ),
        )
    except ValueError as error:
        raise UserError(f"{folder / 'config.json'}: {error}; restore the file") from None


def _tokenizer(folder: Path, theirs: _Theirs) -> Tokenizer:
    source, target = folder / "vocab.json", folder / "target_vocab.json"
    if theirs.share_encoder_decoder_embeddings or not target.exists():
        target = source
    pieces = {
        path: _pieces(path, size, theirs) for path, size in ((source, theirs.vocab_size), (target, theirs.target_size))
    }
    unknown = {listed.index("<unk>") for listed in pieces.values()}
    if len(unknown) > 1:
        raise UserError(f"{folder}: <unk> has ids {sorted(unknown)} in vocab.json and target_vocab.json; restore them")
    special = {"pad": theirs.pad_token_id, "begin": theirs.decoder_start_token_id, "end": theirs.eos_token_id}
    content = {**special, "unknown": unknown.pop(), "source": pieces[source], "target": pieces[target]}
    models = [read_bytes(folder / name) for name in ("source.spm", "target.spm")]
    if not all(models):
        raise UserError(f"{folder}: source.spm or target.spm is empty; restore the file")
    try:
        return Tokenizer(models[0], models[1], json.dumps(content, ensure_ascii=False).encode())
    except UserError as error:
        raise UserError(f"{folder}: source.spm, target.spm, vocab.json or config.json: {error}") from None


def _pieces(path: Path, size: int, theirs: _Theirs) -> list[str]:
    """Pieces by id; an id without a piece gets a name of its own."""
    vocabulary = read_json(path, dict[str, _Id])
    for piece, number in (("</s>", theirs.eos_token_id), ("<pad>", theirs.pad_token_id)):
        if vocabulary.get(piece, number) != number:
            raise UserError(f"{path}: {piece} has id {vocabulary[piece]}, in config.json {number}; restore the files")
    pieces: dict[int, str] = {}
    for piece, number in vocabulary.items():
        if number >= size:
            raise UserError(f"{path}: piece {piece!r} has id {number}, the model has {size} classes; restore the file")
        if number in pieces:
            raise UserError(f"{path}: {pieces[number]!r} and {piece!r} both have id {number}; restore the file")
        pieces[number] = piece
    if (begin := pieces.get(theirs.decoder_start_token_id, "<s>")) not in ("<pad>", "<s>", "</s>"):
        raise UserError(f"{path}: decoder_start_token_id of config.json is that of {begin!r} here; restore the files")
    if "<unk>" not in vocabulary:
        raise UserError(f"{path}: has no piece <unk>; restore the file")
    return [pieces.get(number, f"<id {number}>") for number in range(size)]


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """Their tensors, float32."""
    path = folder / "model.safetensors"
    if path.exists():
        tensors = read_tensors(path)
    elif (folder / "model.safetensors.index.json").exists():
        raise UserError(f"{folder}: its weights are in several files; save them as one, with max_shard_size='100GB'")
    else:
        path = folder / "pytorch_model.bin"
        if not path.exists():
            raise UserError(f"{folder}: holds neither model.safetensors nor pytorch_model.bin; give the whole folder")
        check_no_lfs_pointer(path)
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            tensors = {str(name): tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
        except Exception:  # whatever an unknown file makes of the reader, whose advice is to switch its safety off
            what = "is damaged, or holds more than tensors, which is not unpickled"
            raise UserError(f"{path}: {what}; ask its makers for model.safetensors") from None
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or not tensor.is_floating_point() or not tensor.dim() or not tensor.numel():
            raise UserError(f"{path}: {name} is no vector or matrix of fractions; restore the file")
        tensors[name] = tensor.float()
        check_finite(name, tensors[name], path)
    return tensors


def _first(folder: Path, tensors: dict[str, Tensor], *names: str) -> Tensor:
    for name in names:
        if name in tensors:
            return tensors[name]
    raise UserError(f"{folder}: the weights lack {names[0]}, which config.json asks for; restore the files")


def _embeddings(folder: Path, tensors: dict[str, Tensor], theirs: _Theirs) -> tuple[Tensor, Tensor]:
    """Of the source and the target; they may be shared, and the target's stand for the output's matrix as well."""
    shared = ("model.shared.weight", "lm_head.weight") if theirs.share_encoder_decoder_embeddings else ()
    source = _first(folder, tensors, "model.encoder.embed_tokens.weight", *shared)
    return source, _first(folder, tensors, "model.decoder.embed_tokens.weight", *shared, "lm_head.weight")


def _check_sizes(folder: Path, tensors: dict[str, Tensor], theirs: _Theirs) -> None:
    source, target = _embeddings(folder, tensors, theirs)
    found = {"vocab_size": len(source), "decoder_vocab_size": len(target), "d_model": target.shape[-1]}
    for side in ("encoder", "decoder"):
        numbers = [re.match(rf"model\.{side}\.layers\.(\d{{1,6}})\.", name) for name in tensors]
        found[f"{side}_layers"] = 1 + max((int(number[1]) for number in numbers if number), default=-1)
        found[f"{side}_ffn_dim"] = len(_first(folder, tensors, f"model.{side}.layers.0.fc1.weight"))
    for name, size in found.items():
        said = theirs.target_size if name == "decoder_vocab_size" else getattr(theirs, name)
        if said != size:
            raise UserError(f"{folder / 'config.json'}: {name} is {said}, the weights have {size}; restore the files")


def _our_tensors(folder: Path, tensors: dict[str, Tensor], theirs: _Theirs, config: ModelConfig) -> dict[str, Tensor]:
    parts = all_parts(config)
    known = {f"{name}.{kind}" for names in parts.values() for name in names for kind in ("weight", "bias")}
    for name, tensor in tensors.items():
        if name not in known and not name.endswith(_BESIDE):
            raise UserError(f"{folder}: the weights hold {name}, which is no part of a Marian model")
        if name.endswith("embed_positions.weight"):  # must be those that ours computes, as far as 16 bits tell
            positions = sinusoids_in_halves(len(tensor), config.width)
            if tensor.shape != positions.shape or not torch.allclose(tensor, positions, rtol=0, atol=2e-3):
                raise UserError(f"{folder}: {name} holds other positions than sinusoids; it cannot be imported")
    source, target = _embeddings(folder, tensors, theirs)
    scale = 1.0 if theirs.scale_embedding else math.sqrt(config.width)
    found = {"output_weight": target if theirs.tie_word_embeddings else _first(folder, tensors, "lm_head.weight")}
    if config.tie == "none":
        found["target_embedding.weight"] = target / scale
    if config.tie != "all":
        found["source_embedding.weight"] = source / scale
    found["output_bias"] = tensors.get("final_logits_bias", torch.zeros(len(target))).flatten()
    for ours, names in parts.items():
        for kind in ("weight", "bias"):
            pieces = [_first(folder, tensors, f"{name}.{kind}") for name in names]
            if len({piece.shape for piece in pieces}) > 1:
                raise UserError(f"{folder}: {', '.join(names)} have different shapes; restore the file")
            found[f"{ours}.{kind}"] = torch.cat(pieces)
    return found
