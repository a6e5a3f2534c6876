"""Reliability diagrams: what they say, that they repeat, that they can stand in a page."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from mt.report.reliability import accuracy_band, reliability_diagram, reliability_image, reliability_overlay


def block(counts: list[int], accuracies: list[float]) -> dict[str, Any]:
    """A calibration block whose confidence is each bin's centre."""
    width = 1 / len(counts)
    bins = [
        {
            "low": i * width,
            "high": (i + 1) * width,
            "count": count,
            "confidence": (i + 0.5) * width if count else None,
            "accuracy": accuracy if count else None,
        }
        for i, (count, accuracy) in enumerate(zip(counts, accuracies))
    ]
    total = sum(counts)
    filled = [each for each in bins if each["count"]]
    return {
        "tokens": total,
        "ece": sum(each["count"] * abs(each["accuracy"] - each["confidence"]) for each in filled) / max(total, 1),
        "accuracy": sum(each["count"] * each["accuracy"] for each in filled) / total if total else None,
        "confidence": sum(each["count"] * each["confidence"] for each in filled) / total if total else None,
        "bins": bins,
    }


BLOCK = block([10, 0, 30, 60, 900], [0.3, 0.0, 0.4, 0.8, 0.85])


def test_band_is_the_measured_one_or_wilson_s() -> None:
    # 8 of 10 at 1.96: the textbook interval (0.4902, 0.9433)
    each = {"accuracy": 0.8, "count": 10}
    assert accuracy_band(each) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert accuracy_band(each | {"band_low": 0.6, "band_high": 0.9}) == (0.6, 0.9)


def test_diagram_is_the_same_text_each_time() -> None:
    assert reliability_diagram(BLOCK, "teacher-forced") == reliability_diagram(BLOCK, "teacher-forced")


def test_diagram_is_a_bare_svg_element_that_says_what_it_shows() -> None:
    svg = reliability_diagram(BLOCK, 'a "quoted" <title> & more')
    root = ElementTree.fromstring(svg)  # well-formed
    assert svg.startswith("<svg ") and "<!DOCTYPE" not in svg and "<metadata" not in svg
    assert root.get("role") == "img"
    assert root.get("aria-label", "").startswith('a "quoted" <title> & more: 1000 tokens, accuracy 0.828')
    assert "over-confident by" in root.get("aria-label", "")
    words = " ".join(root.itertext())
    assert f"ECE {100 * BLOCK['ece']:.2f} %" in words
    assert "currentColor" in svg and "#010203" not in svg


def test_noise_floor_stands_beside_the_error_where_it_is_known() -> None:
    assert "noise floor" not in reliability_diagram(BLOCK, "t")
    assert "noise floor 1.25 %" in reliability_diagram(BLOCK | {"noise_floor": 0.0125}, "t")


def test_overlay_tells_its_systems_apart_without_colour() -> None:
    systems = [("first", BLOCK), ("second", block([50, 0, 0, 0, 950], [0.1, 0, 0, 0, 0.9]))]
    svg = reliability_overlay(systems, "both")
    root = ElementTree.fromstring(svg)
    words = " ".join(root.itertext())
    for label, result in systems:
        assert f"{label}  ECE {100 * result['ece']:.2f} %" in words
        assert f"{label}: 1000 tokens" in root.get("aria-label", "")
    assert "stroke-dasharray" in svg.split("--series-2")[1]  # the second line is dashed, the marks differ
    assert len({re.sub(r"[\d. -]", "", path) for path in re.findall(r'<path id="m\w+" d="([^"]+)"', svg)}) >= 2


def test_diagrams_share_no_id_that_means_different_things() -> None:
    first, second = reliability_diagram(BLOCK, "one"), reliability_diagram(block([5, 5], [0.5, 1.0]), "two")
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in (first, second)]
    assert not ids[0] & ids[1]


def test_over_and_under_confidence_differ_by_more_than_colour() -> None:
    over, under = block([0, 100], [0, 0.2]), block([0, 100], [0, 1.0])
    patterns = [re.findall(r"<pattern.*?</pattern>", reliability_diagram(b, "t"), re.DOTALL) for b in (over, under)]
    assert all(patterns) and patterns[0] != patterns[1]


def test_empty_bins_and_no_tokens_at_all_can_be_drawn() -> None:
    assert "no tokens" in reliability_diagram(block([0, 0], [0, 0]) | {"ece": None}, "none")


def test_image_is_rgb_bytes() -> None:
    image = reliability_image(BLOCK, "t")
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    assert image.min() < 60 and image.max() == 255
