"""Reliability diagrams: what they say, that they repeat, that they can stand in a page."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from mt.report.figures import reliability_diagram, reliability_image, reliability_overlay
from mt.report.svg import label_text, svg_document


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


def test_the_band_of_a_bin_is_drawn_where_it_is_known() -> None:
    known = {**BLOCK, "bins": [each | {"band_low": 0.1, "band_high": 0.9} for each in BLOCK["bins"]]}
    plain, banded = (ElementTree.fromstring(reliability_diagram(each, "t")) for each in (BLOCK, known))

    def heights(svg: ElementTree.Element) -> list[float]:
        """Of the vertical lines, the longest first."""
        paths = [path.get("d", "").replace("\n", " ").split() for path in svg.iter("{http://www.w3.org/2000/svg}path")]
        lines = [path for path in paths if len(path) == 6 and path[0] == "M" and path[3] == "L" and path[1] == path[4]]
        return sorted((abs(float(path[2]) - float(path[5])) for path in lines), reverse=True)

    bands = [height for height in heights(banded) if height not in heights(plain)]
    assert len(bands) == 4 and len(set(bands)) == 1  # one of each bin that has tokens, from 0.1 to 0.9


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
    assert f"ECE {BLOCK['ece']:.4f}" in words
    assert "currentColor" in svg and "#010203" not in svg


def test_noise_floor_stands_beside_the_error_where_it_is_known() -> None:
    assert "noise floor" not in reliability_diagram(BLOCK, "t")
    assert "noise floor 0.0125" in reliability_diagram(BLOCK | {"noise_floor": 0.0125}, "t")


def test_overlay_tells_its_systems_apart_without_colour() -> None:
    systems = [("first", BLOCK), ("second", block([50, 0, 0, 0, 950], [0.1, 0, 0, 0, 0.9]))]
    svg = reliability_overlay(systems, "both")
    root = ElementTree.fromstring(svg)
    words = " ".join(root.itertext())
    for label, result in systems:
        assert f"{label}  ECE {result['ece']:.4f}" in words
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


@pytest.mark.parametrize(
    "name", ["cost_$5_and_$10", "$x$", r"$\undefined{", r"a\$b$c^2_", "100 $", r"模型 $\alpha$", "שלום $1$"]
)
def test_a_label_is_drawn_letter_by_letter(name: str, recwarn: pytest.WarningsRecorder) -> None:
    svg = ElementTree.fromstring(reliability_overlay([(name, BLOCK), ("B", BLOCK)], "t"))
    assert any(text.startswith(f"{name}  ECE") for text in svg.itertext())
    assert f"{name}: 1000 tokens" in svg.get("aria-label", "")
    assert not recwarn.list


def test_a_label_hides_and_turns_nothing_round() -> None:
    assert label_text("a\nb\x1b[31m\u202ec\ud800") == "a b [31m c "
    assert label_text("x" * 31) == "x" * 29 + "…"


def heights_of(svg: str, *starts: str) -> list[float]:
    """How far below the top each text that starts like this stands."""
    texts = re.findall(r'<text [^>]*?(?:y="|translate\([-0-9.]+ )([0-9.]+)[^>]*>([^<]*)<', svg)
    return [float(height) for height, text in texts if text.startswith(starts)]


def test_legends_stand_below_the_data() -> None:
    diagram = reliability_diagram(BLOCK | {"noise_floor": 0.01}, "t")
    overlay = reliability_overlay([("first", BLOCK), ("second", BLOCK)], "both")
    named = ("over-confident gap", "under-confident gap", "overall accuracy", "mean confidence", "first", "second")
    for svg, entries in ((diagram, 4), (overlay, 2)):
        (axis,) = heights_of(svg, "confidence")  # the name of the lowest axis
        assert len(heights_of(svg, *named)) == entries and min(heights_of(svg, *named)) > axis
    assert max(heights_of(diagram, "ECE")) < min(heights_of(diagram, "1.0"))  # the summary is above


def test_a_figure_as_a_file_has_a_white_ground_and_needs_no_page() -> None:
    figure = reliability_overlay([("A", BLOCK), ("B", BLOCK)], "t")
    document = svg_document(figure)
    first = next(iter(ElementTree.fromstring(document)))
    assert first.tag.endswith("rect") and first.attrib == {"width": "100%", "height": "100%", "fill": "#fff"}
    assert "var(" in figure and "currentColor" in figure
    assert "var(" not in document and "currentColor" not in document
