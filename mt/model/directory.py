"""The model directory: config, tokeniser, weights and where they come from, in files without pickle."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mt.config import Config
from mt.config_file import dump_config, read_config
from mt.corpus.tokenizer import Tokenizer, load_tokenizer
from mt.errors import UserError
from mt.files.atomic import write_text
from mt.model.transformer import Transformer

FORMAT_VERSION = 1


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to translate."""

    model: Transformer
    """in evaluation mode, on the device asked for"""
    tokenizer: Tokenizer
    config: Config
    meta: dict[str, Any]
    """`meta.json`: format version, step, loss and score signatures, versions, data fingerprints"""
    folder: Path
    """the model directory itself, also when a run directory was asked for"""


def choose_device(name: str) -> torch.device:
    """ "auto" is a GPU where there is one. Raises UserError when "cuda" is asked for and there is none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"device {name}: no CUDA GPU is available here; use device cpu or auto")
    try:
        return torch.device(name)
    except RuntimeError:
        raise UserError(f"device {name}: no such device; use cpu, cuda or auto") from None


def build_model(config: Config, tokenizer: Tokenizer) -> Transformer:
    """A freshly initialised model for this tokeniser."""
    return Transformer(config.model, tokenizer.source_size, tokenizer.target_size, tokenizer.pad_id)


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    """The parameters by name, tied ones once, on the CPU."""
    return {name: parameter.detach().cpu().contiguous() for name, parameter in model.named_parameters()}


def load_weights(model: torch.nn.Module, tensors: dict[str, Tensor], origin: Path) -> None:
    """Copies `tensors` into the model's parameters. Raises UserError when names or shapes differ."""
    parameters = dict(model.named_parameters())
    if parameters.keys() != tensors.keys():
        name = sorted(parameters.keys() ^ tensors.keys())[0]
        raise UserError(f"{origin}: weights do not fit the model of its config.yaml ({name}); restore the folder")
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.shape != tensors[name].shape:
                raise UserError(
                    f"{origin}: {name} has shape {tuple(tensors[name].shape)}, the model of its config.yaml needs "
                    f"{tuple(parameter.shape)}; restore the folder"
                )
            parameter.copy_(tensors[name])


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file. Raises UserError when it is missing, cut short or not of that format."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a model directory or a run directory that holds one")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: broken weights ({error}); restore the file or use another checkpoint") from None


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Writes a safetensors file. Raises UserError when that fails, for instance on a full disk."""
    try:
        save_file(tensors, path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path.parent}: cannot be written ({error}); free space or choose another place") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises UserError when the file is missing or broken."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; the folder is not whole, restore it") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); restore the file") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object; restore the file")
    return content


def save_model(folder: Path, model: Transformer, tokenizer: Tokenizer, config: Config, meta: dict[str, Any]) -> None:
    """Writes a model directory into an existing folder. The caller makes the folder appear at once (`atomic_folder`).
    `meta`: step, signatures, scores, data fingerprints; versions, size and hash of the weights are added here."""
    tensors = weights(model)
    write_tensors(tensors, folder / "model.safetensors")
    tokenizer.save(folder)
    write_text(folder / "config.yaml", dump_config(config))
    facts = {
        "format_version": FORMAT_VERSION,
        **meta,
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "weights_blake2b": fingerprint(tensors),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
    }
    write_text(folder / "meta.json", json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


def fingerprint(tensors: dict[str, Tensor]) -> str:
    """Hash of names, shapes and values: equal for equal weights, bit for bit."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        digest.update(f"{name}{tuple(tensors[name].shape)}{tensors[name].dtype}".encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


def model_directory(path: Path) -> Path:
    """The model directory of `path`: itself, or the best checkpoint of a run directory. Raises UserError where there
    is neither."""
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; give a model directory or a run directory")
    if (path / "model.safetensors").exists():
        return path
    for pointer in (path / "best", path / "last"):
        if pointer.is_file():
            folder = path / "checkpoints" / pointer.read_text(encoding="utf-8").strip()
            if not folder.is_dir():
                raise UserError(f"{pointer}: names {folder}, which is not there; restore it or give another folder")
            return folder
    raise UserError(f"{path}: holds neither model.safetensors nor a checkpoint; give a model or run directory")


def load_model(path: str | Path, device: str = "auto") -> LoadedModel:
    """Loads a model directory, or the best checkpoint of a run directory, onto a device: "auto", "cpu" or "cuda".

    Raises:
        UserError: the folder or a file of it is missing, cut short or of another format.
    """
    folder = model_directory(Path(path))
    meta = read_json(folder / "meta.json")
    if meta.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{folder / 'meta.json'}: format version {meta.get('format_version')!r}, this program reads "
            f"{FORMAT_VERSION}; use the version of mt that wrote it"
        )
    target, config, tokenizer = choose_device(device), read_config(folder / "config.yaml"), load_tokenizer(folder)
    model = build_model(config, tokenizer)
    load_weights(model, read_tensors(folder / "model.safetensors"), folder / "model.safetensors")
    return LoadedModel(model.to(target).eval(), tokenizer, config, meta, folder)
