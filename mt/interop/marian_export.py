"""A model as a folder that Hugging Face's MarianMTModel and MarianTokenizer load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mt.files.atomic import write_text
from mt.interop.ctranslate2_export import EXPRESSIBLE as CTRANSLATE2
from mt.interop.ctranslate2_export import Expressible, check_exportable, longest_output, most_positions
from mt.interop.marian_import import RATES, SIZES, STOPS, all_parts
from mt.model.directory import LoadedModel, write_tensors
from mt.progress import log_line

EXPRESSIBLE: Expressible = {
    **CTRANSLATE2,
    "norm": ("post",),
    "activation": ("relu", "gelu", "silu"),
    "positions": ("sinusoidal", "sinusoidal_half"),
}
# Parameters by the ends of their names: which of their dimensions are the width that all layers share.
_READS_WIDTH = ("embedding.weight", "output_weight", ".input.weight", ".query.weight", ".memory.weight")
_WRITES_WIDTH = (".output.weight", ".output.bias", "norm.weight", "norm.bias")


def export_marian(loaded: LoadedModel, folder: Path) -> None:
    """Writes config, weights, SentencePiece models and vocabularies into an existing folder.

    Raises:
        UserError: the form of the model cannot be expressed.
    """
    check_exportable(loaded.config.model, EXPRESSIBLE, "Marian", "use --format ctranslate2")
    write_tensors(_their_tensors(loaded), folder / "model.safetensors")
    _write_tokenizer(loaded, folder)
    _write_configs(loaded, folder)


def _their_tensors(loaded: LoadedModel) -> dict[str, Tensor]:
    config = loaded.config.model
    parameters = loaded.model.named_parameters(remove_duplicate=False)  # tied ones under each of their names
    ours = {name: parameter.detach().cpu() for name, parameter in parameters}
    if config.positions == "sinusoidal":
        ours = {name: _in_halves(name, tensor) for name, tensor in ours.items()}
    bias = ours.get("output_bias", torch.zeros(loaded.tokenizer.target_size))
    found = {"final_logits_bias": bias[None]}
    if config.tie == "all":
        found["model.shared.weight"] = ours["target_embedding.weight"]
    else:
        found["model.encoder.embed_tokens.weight"] = ours["source_embedding.weight"]
        found["model.decoder.embed_tokens.weight"] = ours["target_embedding.weight"]
    if config.tie == "none":
        found["lm_head.weight"] = ours["output_weight"]
    for name, theirs in all_parts(config).items():
        for kind in ("weight", "bias"):
            for their_name, part in zip(theirs, ours[f"{name}.{kind}"].chunk(len(theirs))):
                found[f"{their_name}.{kind}"] = part.contiguous()
    return found


def _in_halves(name: str, tensor: Tensor) -> Tensor:
    """A parameter with the width's even dimensions before its odd ones, as Marian's sines stand before its cosines."""
    if name.endswith(_READS_WIDTH):
        return torch.cat([tensor[:, 0::2], tensor[:, 1::2]], dim=1)
    if name.endswith(_WRITES_WIDTH):
        return torch.cat([tensor[0::2], tensor[1::2]])
    return tensor


def _write_configs(loaded: LoadedModel, folder: Path) -> None:
    config, decode, tokenizer = loaded.config.model, loaded.config.decode, loaded.tokenizer
    special = {
        "pad_token_id": tokenizer.pad_id,
        "eos_token_id": tokenizer.end_id,
        "forced_eos_token_id": tokenizer.end_id,
        "decoder_start_token_id": tokenizer.begin_id,
    }
    model = {
        "model_type": "marian",
        "architectures": ["MarianMTModel"],
        "vocab_size": tokenizer.source_size,
        "decoder_vocab_size": tokenizer.target_size,
        **{theirs: getattr(config, ours) for ours, theirs in SIZES.items()},
        **{name: getattr(config, name) for name in RATES},
        "activation_function": config.activation,
        "max_position_embeddings": most_positions(loaded),
        "scale_embedding": True,
        "share_encoder_decoder_embeddings": config.tie == "all",
        "tie_word_embeddings": config.tie != "none",
        "is_encoder_decoder": True,
        **special,
        "torch_dtype": "float32",
    }
    if decode.length_penalty in ("gnmt", "reward"):
        log_line(f"decode.length_penalty is {decode.length_penalty}: Marian has none such, its outputs will differ")
    generation = {
        "num_beams": decode.beam,
        "early_stopping": STOPS[decode.stop],
        "length_penalty": decode.length_alpha if decode.length_penalty == "average" else 0.0,
        "min_length": decode.min_length,
        "max_length": longest_output(loaded) + 1,  # theirs counts the token that the decoder starts with
        "no_repeat_ngram_size": decode.no_repeat_ngram,
        "bad_words_ids": [[number] for number in sorted({tokenizer.pad_id, tokenizer.begin_id})],
        **special,
    }
    _write_json(folder / "config.json", model)
    _write_json(folder / "generation_config.json", generation)


def _write_tokenizer(loaded: LoadedModel, folder: Path) -> None:
    tokenizer, data = loaded.tokenizer, loaded.config.data
    for name, model in zip(("source.spm", "target.spm"), tokenizer.models):
        (folder / name).write_bytes(model)
    names = ("vocab.json",) if loaded.config.model.tie == "all" else ("vocab.json", "target_vocab.json")
    for name, pieces in zip(names, tokenizer.vocabularies):
        _write_json(folder / name, {piece: number for number, piece in enumerate(pieces)})
    special = {"unk_token": tokenizer.unknown_id, "eos_token": tokenizer.end_id, "pad_token": tokenizer.pad_id}
    content = {
        "tokenizer_class": "MarianTokenizer",
        "source_lang": data.source_language,
        "target_lang": data.target_language,
        **{name: tokenizer.vocabularies[0][number] for name, number in special.items()},
        "separate_vocabs": len(names) > 1,
        "model_max_length": loaded.config.decode.max_length,
    }
    _write_json(folder / "tokenizer_config.json", content)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
