"""Penultimate-layer projection: the final decoder states of three classes, in the plane of their templates.

Müller, Kornblith and Hinton 2019, "When Does Label Smoothing Help?", section 3: a class's template is its row of the
output matrix; label smoothing draws the states of a class into tight, evenly spaced clusters.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mt.metrics.noise import Floats


def template_plane(templates: Any) -> tuple[Floats, Floats]:
    """Origin (width,) and orthonormal basis (2, width) of the plane through the tips of three templates (3, width).

    The origin is the first template, the first axis leads to the second, the second axis is what the third has
    at right angles to it. Raises ValueError for templates on one line.
    """
    first, second, third = np.asarray(templates, dtype=np.float64)
    along, aside = second - first, third - first
    length = np.linalg.norm(along)
    if length:
        along = along / length
        aside = aside - (aside @ along) * along
    height = np.linalg.norm(aside)
    if not length or height <= 1e-9 * np.linalg.norm(third - first):
        raise ValueError("the three templates lie on one line; choose other classes")
    return first, np.stack([along, aside / height])


def projected(states: Any, origin: Floats, basis: Floats) -> Floats:
    """Coordinates (n, 2) in the plane of states (n, width)."""
    return (np.asarray(states, dtype=np.float64) - origin) @ basis.T
