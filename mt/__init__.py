"""mt: trains Transformer translation models whose token probabilities can be trusted."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mt.decoding.translator import Translator

__version__ = "0.1.0"


def load(
    path: str | Path, device: str = "auto", ensemble: Sequence[str | Path] = (), compute_type: str = "float32"
) -> Translator:
    """Loads a model directory, the best checkpoint of a run directory, or a model of the Hugging Face hub.

    Args:
        path: the folder, or a name of the hub: "organisation/model" or "organisation/model@revision".
        device: "auto" (a GPU where there is one), "cpu" or "cuda".
        ensemble: folders of further models of the same vocabulary: the mean of all models' probabilities translates.
            The recalibration stored with the first is of that model alone, and not applied.
        compute_type: "float32", or "bfloat16": on a GPU half the memory and, where it is made for it, the faster; on a
            processor the products of the layers take it. Scores then have two or three digits, and may depend on the
            lines of the same batch.

    Returns:
        A translator: `load("runs/demo").translate(lines)` yields one record a line, in order.

    Raises:
        UserError: a folder or a file of it is missing or broken, vocabularies differ, or another compute_type; a
            TypeError, too, where an argument is of the wrong type.
    """
    from mt.decoding.torch_engine import TorchEngine
    from mt.decoding.translator import Translator
    from mt.errors import UserError, UserTypeError
    from mt.model.directory import load_model

    folders = [path, *ensemble] if isinstance(ensemble, (list, tuple)) else [None]
    if not isinstance(device, str) or not all(isinstance(folder, (str, os.PathLike)) for folder in folders):
        given = f"load({path!r}, {device!r}, {ensemble!r})"
        raise UserTypeError(f"{given}: give a path, the name of a device and a list of paths")
    if compute_type not in ("float32", "bfloat16"):
        raise UserError(f"compute_type is {compute_type!r}; it must be float32 or bfloat16")
    first, *others = (load_model(each, device) for each in (path, *ensemble))
    if compute_type == "bfloat16":
        for loaded in (first, *others):
            if loaded.model.output_weight.is_cuda:
                loaded.model.bfloat16()
            else:
                loaded.model.use_bfloat16_products(True)
    return Translator(first, TorchEngine(first, *others), recalibrate=not others)
