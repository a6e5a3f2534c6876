"""mt: trains Transformer translation models whose token probabilities can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from mt.decoding.translator import Translator

__version__ = "0.1.0"


def load(path: str | Path, device: str = "auto") -> Translator:
    """Loads a model directory, or the best checkpoint of a run directory, for translation.

    Args:
        path: the folder.
        device: "auto" (a GPU where there is one), "cpu" or "cuda".

    Returns:
        A translator: `load("runs/demo").translate(lines)` yields one record a line, in order.

    Raises:
        UserError: the folder or a file of it is missing or broken.
    """
    from mt.decoding.translator import Translator
    from mt.model.directory import load_model

    return Translator(load_model(path, device))
