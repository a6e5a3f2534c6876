"""Curves of an evaluation: what is drawn, in which order, and that ticks keep their digits."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from mt.report.figures import penalty_name, search_grid_plots, selective_plot


def entry(beam: int, penalty: str, **figures: float) -> dict[str, Any]:
    return {"beam": beam, "length_penalty": penalty, "length_alpha": 0.6, **figures}


def label_of(svg: str) -> str:
    return ElementTree.fromstring(svg).get("aria-label", "")


def test_sweep_draws_what_is_known_at_two_beams_with_a_line_for_each_penalty() -> None:
    sweep = [
        entry(20, "gnmt", bleu=31.0, ece_eos=0.02),
        entry(1, "gnmt", bleu=30.0, ece_eos=0.01),
        entry(1, "none", bleu=29.0),
        entry(20, "none", bleu=20.0, mean_score=-1.0),
    ]
    plots = search_grid_plots(sweep)
    assert [label_of(svg) for svg in plots] == [
        "BLEU: gnmt 0.6: 30 at 1, 31 at 20; none: 29 at 1, 20 at 20",
        "end-of-sentence ECE, %: gnmt 0.6: 1 at 1, 2 at 20",
    ]
    assert ">gnmt 0.6<" in plots[0] and ">20<" in plots[0]


def test_ticks_keep_their_digits_while_coordinates_are_cut() -> None:
    svg = search_grid_plots([entry(1, "none", length_ratio=0.9751), entry(5, "none", length_ratio=0.9753)])[0]
    assert ">0.9751<" in svg or ">0.97510<" in svg
    path = svg.split('<path d="M ')[1].split('"')[0].split()
    assert all(len(number.partition(".")[2]) <= 2 for number in path if number.replace(".", "").isdigit())


def test_penalty_without_exponent_has_a_plain_name() -> None:
    assert penalty_name({"beam": 1}) == "none"
    assert penalty_name({"length_penalty": "average", "length_alpha": 1.0}) == "average 1"
    assert penalty_name({"length_penalty": "none", "length_alpha": 1.0}) == "none"


def test_selection_says_what_it_shows() -> None:
    entries = [{"coverage": 0.5, "chrf": 70.0}, {"coverage": 1.0, "chrf": 60.0}]
    assert label_of(selective_plot([("ours", entries)], "chrf", "chrF")) == "chrF: ours: 70 at 0.5, 60 at 1"
