"""Confidence and correctness of tokens as they come in, array-likes or tensors, as checked float64 arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ROUNDING = 1e-6
"""a float32 softmax may exceed 1 by so much; it is taken as 1"""


def checked(confidence: Any, correct: Any) -> tuple[Floats, Floats]:
    """Both as flat float64 arrays.

    Raises:
        ValueError: a confidence is not in 0..1, something in `correct` is no boolean nor 0 or 1, lengths differ.
    """
    certain, right = as_floats(confidence), as_floats(correct)
    if certain.shape != right.shape:
        raise ValueError(f"{certain.size} confidences and {right.size} labels; they must be equally many")
    valid = (certain >= 0) & (certain <= 1 + ROUNDING)  # false for nan
    if not np.all(valid):
        raise ValueError(f"a confidence is {certain[~valid][0]}; it must be 0 to 1")
    if not np.all((right == 0) | (right == 1)):
        raise ValueError("correct holds something else than booleans, or 0 and 1")
    return np.minimum(certain, 1.0), right


def as_floats(values: Any) -> Floats:
    """A flat float64 array."""
    if hasattr(values, "detach"):  # a tensor, perhaps on a device or in bfloat16
        values = values.detach().double().cpu().numpy()
    return np.asarray(values, dtype=np.float64).reshape(-1)
