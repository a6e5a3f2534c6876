"""Curves of an evaluation: what is drawn, in which order, and that ticks keep their digits."""

from __future__ import annotations

import re
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
        "end-of-sentence ECE: gnmt 0.6: 0.01 at 1, 0.02 at 20",
    ]
    assert ">gnmt 0.6<" in plots[0] and ">20<" in plots[0]


def test_ticks_keep_their_digits_while_coordinates_are_cut() -> None:
    svg = search_grid_plots([entry(1, "none", ece_eos=0.0001), entry(5, "none", ece_eos=0.0002)])[0]
    assert ">0.0001<" in svg or ">0.00010<" in svg
    path = svg.split('<path d="M ')[1].split('"')[0].split()
    assert all(len(number.partition(".")[2]) <= 2 for number in path if number.replace(".", "").isdigit())


def ticks_of(svg: str) -> list[float]:
    """The numbers beside the axes."""
    texts = re.findall(r"<text[^>]*>([^<]*)<", svg)
    return [float(text.replace("\u2212", "-")) for text in texts if re.fullmatch("\u2212?[0-9.]+", text)]


def test_a_small_difference_of_beams_is_not_zoomed_in_on() -> None:
    sweep = [entry(1, "none", bleu=29.9, length_ratio=0.981), entry(5, "none", bleu=30.05, length_ratio=0.982)]
    for svg, span in zip(search_grid_plots(sweep), (3.0, 0.07)):
        heights = [tick for tick in ticks_of(svg) if tick not in (1, 5)]
        assert max(heights) - min(heights) >= span


def test_intervals_of_beams_are_drawn_and_fit_into_the_axes() -> None:
    plain = [entry(beam, "none", bleu=30.0) for beam in (1, 5)]
    known = [each | {"bleu_low": 20.0, "bleu_high": 40.0} for each in plain]
    without, with_bars = (search_grid_plots(sweep)[0] for sweep in (plain, known))
    assert with_bars.count("<path") > without.count("<path")
    assert max(ticks_of(with_bars)) >= 40 > max(ticks_of(without)) and 20 >= min(ticks_of(with_bars)[2:]) > 15


def test_what_is_0_at_every_beam_is_not_drawn() -> None:
    sweep = [entry(beam, "none", bleu=30.0, empties=0, repetitions=beam - 1) for beam in (1, 5)]
    assert [label_of(svg).partition(":")[0] for svg in search_grid_plots(sweep)] == ["BLEU", "repetitions"]


def test_penalty_without_exponent_has_a_plain_name() -> None:
    assert penalty_name({"beam": 1}) == "none"
    assert penalty_name({"length_penalty": "average", "length_alpha": 1.0}) == "average 1"
    assert penalty_name({"length_penalty": "none", "length_alpha": 1.0}) == "none"


def test_selection_says_what_it_shows() -> None:
    entries = [{"coverage": 0.5, "chrf": 70.0}, {"coverage": 1.0, "chrf": 60.0}]
    assert label_of(selective_plot([("ours", entries)], "chrf", "chrF")) == "chrF: ours: 70 at 0.5, 60 at 1"
