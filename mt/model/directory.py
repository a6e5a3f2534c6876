"""The model directory: config, tokeniser, weights and where they come from, in files without pickle.

Torch is imported by the functions that need it: another engine translates without it.
"""

from __future__ import annotations

import hashlib
import platform
import re
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import msgspec
import numpy as np
from safetensors import SafetensorError

from mt.config import Config
from mt.config_file import dump_config, read_config
from mt.corpus.tokenizer import Tokenizer, load_tokenizer
from mt.errors import UserError
from mt.files.atomic import write_text
from mt.files.json_file import check_listed, check_no_lfs_pointer, list_files, read_json, write_json
from mt.model.hub import fetch, is_hub_name

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mt.model.transformer import Transformer

FORMAT_VERSION = 1
AVERAGE = "average"
"""name of the checkpoint with averaged weights; the others are named after their update"""

_CHECKPOINT = re.compile(rf"step_\d{{8,}}|{AVERAGE}")
_REMEDY = "restore it or use another checkpoint"
_COUNTS, _WEIGHTS = "piece_counts.json", "model.safetensors"


class _PieceCounts(TypedDict):
    source: list[Annotated[int, msgspec.Meta(ge=0)]]
    target: list[Annotated[int, msgspec.Meta(ge=0)]]


class _Facts(TypedDict, total=False):
    step: Annotated[int, msgspec.Meta(ge=0)]
    weights_blake2b: str
    best: str


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to translate."""

    origin: Transformer | partial[Transformer]
    """the model in evaluation mode, or what loads it when it is first asked for"""
    tokenizer: Tokenizer
    config: Config
    meta: dict[str, Any]
    """`meta.json`: format version, step, loss and score signatures, versions, data fingerprints"""
    folder: Path
    """the model directory itself, also when a run directory was asked for"""
    piece_counts: tuple[list[int], list[int]] | None = None
    """how often the training text holds each piece, by id, source and target side; None: not known (imported models,
    and those of earlier versions)"""

    @cached_property
    def model(self) -> Transformer:
        """In evaluation mode, on the device asked for. Raises UserError where it cannot be loaded."""
        return self.origin() if isinstance(self.origin, partial) else self.origin

    @property
    def weights_digest(self) -> str:
        """Equal for equal weights: as meta.json lists it, or else of the weights themselves."""
        return self.meta.get("files", {}).get(_WEIGHTS) or fingerprint(weights(self.model))


def choose_device(name: str) -> torch.device:
    """ "auto" is a GPU where there is one. Raises UserError when "cuda" is asked for and there is none."""
    import torch

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
    from mt.model.transformer import Transformer

    return Transformer(config.model, tokenizer.source_size, tokenizer.target_size, tokenizer.pad_id)


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    """The parameters by name, tied ones once, on the CPU."""
    return {name: parameter.detach().cpu().contiguous() for name, parameter in model.named_parameters()}


def load_weights(model: torch.nn.Module, tensors: dict[str, Tensor], origin: Path) -> None:
    """Copies `tensors` into the model's parameters. Raises UserError when names or shapes differ, or not all values are
    finite."""
    parameters = dict(model.named_parameters())
    for name in sorted(parameters.keys() | tensors.keys()):
        has, needs = (tuple(each[name].shape) if name in each else "none" for each in (tensors, parameters))
        if has != needs:
            where = "the model of its config.yaml needs"
            raise UserError(f"{origin}: {name} has shape {has}, {where} {needs}; restore the folder")
        check_finite(name, tensors[name], origin)
    for name, parameter in parameters.items():
        parameter.detach().copy_(tensors[name])


def check_finite(name: str, tensor: Tensor, origin: Path) -> None:
    """Raises UserError, which names the file `origin`, unless a tensor holds finite numbers with a fraction."""
    # The extremes tell of NaN as well, and are found many times faster than all values are looked at.
    if not tensor.is_floating_point() or not all(each.isfinite() for each in tensor.aminmax()):
        raise UserError(f"{origin}: {name} holds values that are no finite numbers; {_REMEDY}")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A safetensors file. Raises UserError when it is missing, cut short or not of that format."""
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"{path}: no such file; give a model directory or a run directory that holds one")
    try:
        check_no_lfs_pointer(path)
        return load_file(path)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:  # torch's, which opens the file, too
        raise UserError(f"{path}: broken weights ({error}); {_REMEDY}") from None


def read_weights(folder: Path, listed: bool | None = None) -> dict[str, Tensor]:
    """The weights of a model directory, by name. Raises UserError when a file of it is missing or is not as
    `save_model` wrote it; `listed`: what `check_listed` has said of them already."""
    listed, path = check_listed(folder / "meta.json", _REMEDY) if listed is None else listed, folder / _WEIGHTS
    tensors = read_tensors(path)
    before = read_json(folder / "meta.json", _Facts).get("weights_blake2b")
    if not listed and before is not None and fingerprint(tensors) != before:
        raise UserError(f"{path}: was changed or damaged, its weights are not those of its meta.json; {_REMEDY}")
    return tensors


def write_tensors(tensors: dict[str, Tensor], path: Path, **facts: str) -> None:
    """Writes a safetensors file; `facts` go into its header. Raises UserError when that fails (a full disk)."""
    from safetensors.torch import save_file

    try:
        path.touch()
        mode = path.stat().st_mode  # as the user wants new files to be; save_file allows the owner alone
        save_file(tensors, path, {"format": "pt", **facts})
        path.chmod(mode)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path.parent}: cannot be written ({error}); free space or choose another place") from None


def save_model(
    folder: Path,
    model: Transformer,
    tokenizer: Tokenizer,
    config: Config,
    meta: dict[str, Any],
    piece_counts: tuple[np.ndarray, np.ndarray] | None = None,
) -> None:
    """Writes a model directory into an existing folder. The caller makes the folder appear at once (`atomic_folder`).
    `meta`: step, signatures, scores, data fingerprints; versions, size and hash of the weights, and the digest of each
    file are added here. `piece_counts`: how often the training text holds each source and each target piece."""
    tensors = weights(model)
    write_tensors(tensors, folder / _WEIGHTS)
    tokenizer.save(folder)
    write_text(folder / "config.yaml", dump_config(config))
    if piece_counts is not None:
        write_json(folder / _COUNTS, {name: side.tolist() for name, side in zip(("source", "target"), piece_counts)})
    facts = {
        "format_version": FORMAT_VERSION,
        **meta,
        "parameters": sum(tensor.numel() for tensor in tensors.values()),
        "weights_blake2b": fingerprint(tensors),
        "versions": {"torch": version("torch"), "python": platform.python_version()},
        "files": list_files(folder / "meta.json"),
    }
    write_json(folder / "meta.json", facts)


def fingerprint(tensors: dict[str, Tensor]) -> str:
    """Hash of names, shapes and values: equal for equal weights, bit for bit."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        digest.update(f"{name}{tuple(tensors[name].shape)}{tensors[name].dtype}".encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


def read_pointer(path: Path) -> Path | None:
    """The checkpoint that `best` or `last` of a run directory names; None where there is no such file yet. Raises
    UserError when it names none of this run."""
    try:
        name = path.read_bytes().decode(errors="replace").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); restore it") from None
    folder = path.parent / "checkpoints" / name
    if not _CHECKPOINT.fullmatch(name) or not folder.is_dir():
        shown = name if len(name) < 40 else name[:40] + "..."
        raise UserError(
            f"{path}: names {shown!r}, which is not there in {folder.parent}; write the name of one that is there into "
            "it, or give another folder"
        )
    return folder


def model_directory(path: Path) -> Path:
    """The model directory of `path`: itself, the best checkpoint of a run directory, or a model of the hub, which is
    fetched. Raises UserError where there is none, or the run's checkpoints say that another one is the best."""
    if is_hub_name(path):
        path = fetch(str(path))
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; give a model directory or a run directory")
    if (path / _WEIGHTS).exists():
        return path
    # In this order, as a training that goes on beside moves them in the other one.
    last, best = read_pointer(path / "last"), read_pointer(path / "best")
    # Killed in the middle of a save, a run has a newer checkpoint than `last`.
    newest = max((path / "checkpoints").glob("step_*"), default=None)
    told = [folder / "training.json" for folder in (last, newest) if folder is not None]
    names = {read_json(each, _Facts).get("best", "") for each in told if each.is_file()}
    name = best.name if best else ""
    if names and name not in names | {AVERAGE}:
        raise UserError(
            f"{path / 'best'}: {f'names {name}' if best else 'is missing'}, but the best checkpoint is "
            f"{max(names)}, as {told[-1]} says; write that name into it, or give the folder of a checkpoint"
        )
    folder = best or last
    if folder is None:
        raise UserError(f"{path}: holds neither model.safetensors nor a checkpoint; give a model or run directory")
    return folder


def load_model(path: str | Path, device: str = "auto", *, at_once: bool = True) -> LoadedModel:
    """Loads a model directory, or the best checkpoint of a run directory, onto a device: "auto", "cpu" or "cuda".
    Not `at_once`: the weights, whose file is checked, are loaded when they are first asked for. Raises UserError when
    the folder or a file of it is missing, damaged, cut short or of another format."""
    folder = model_directory(Path(path))
    meta = read_json(folder / "meta.json", dict[str, Any], "the folder is not whole, restore it")
    if meta.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{folder / 'meta.json'}: format version {meta.get('format_version')!r}, this program reads "
            f"{FORMAT_VERSION}; use the version of mt that wrote it"
        )
    listed = check_listed(folder / "meta.json", _REMEDY)  # first: it looks at all files
    config, tokenizer = read_config(folder / "config.yaml"), load_tokenizer(folder)
    origin = partial(_read_model, folder, listed, config, tokenizer, device)
    loaded = LoadedModel(origin, tokenizer, config, meta, folder, _piece_counts(folder, tokenizer))
    return replace(loaded, origin=loaded.model) if at_once else loaded


def _read_model(folder: Path, listed: bool, config: Config, tokenizer: Tokenizer, device: str) -> Transformer:
    target, tensors = choose_device(device), read_weights(folder, listed)
    model = build_model(config, tokenizer)
    load_weights(model, tensors, folder / _WEIGHTS)
    return model.to(target).eval()


def _piece_counts(folder: Path, tokenizer: Tokenizer) -> tuple[list[int], list[int]] | None:
    if not (folder / _COUNTS).exists():
        return None
    counts = read_json(folder / _COUNTS, _PieceCounts, _REMEDY)
    if [len(counts["source"]), len(counts["target"])] != [tokenizer.source_size, tokenizer.target_size]:
        raise UserError(f"{folder / _COUNTS}: is not of this tokeniser; {_REMEDY}")
    return counts["source"], counts["target"]
