"""The plane through three templates (the oracle has the numbers)."""

from __future__ import annotations

import numpy as np
import pytest

from mt.metrics.penultimate import projected, template_plane


def test_distances_within_the_plane_are_kept_and_what_is_off_it_is_dropped() -> None:
    generator = np.random.default_rng(1)
    templates = generator.normal(size=(3, 16))
    origin, basis = template_plane(templates)
    points = projected(templates, origin, basis)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert np.linalg.norm(points[a] - points[b]) == pytest.approx(np.linalg.norm(templates[a] - templates[b]))
    off = generator.normal(size=16)
    off -= basis.T @ (basis @ off)
    assert projected(templates + off, origin, basis) == pytest.approx(points)


@pytest.mark.parametrize("third", [[2.0, 2.0], [0.0, 0.0]])
def test_templates_on_one_line_are_refused(third: list[float]) -> None:
    with pytest.raises(ValueError, match="one line"):
        template_plane([[0.0, 0.0], [1.0, 1.0], third])
    with pytest.raises(ValueError, match="one line"):
        template_plane([[0.0, 0.0], [0.0, 0.0], third])
