"""Options of the search beyond beam and length penalty; each is a field of SearchOptions of the same name."""

from __future__ import annotations

import argparse

from mt.cli.options import positive

FIELDS = (
    "shortlist",
    "stop",
    "min_length",
    "max_output",
    "no_repeat_ngram",
    "rectify",
    "temperature",
    "sample",
    "top_k",
    "top_p",
    "seed",
    "minimum_bayes_risk",
    "candidates",
)


def add_search(parser: argparse.ArgumentParser) -> None:
    """Adds them; None where one is not given."""
    add = parser.add_argument_group("search").add_argument
    add(
        "--shortlist",
        action="store_true",
        default=None,
        help="write only what tools/shortlist.py has found for the words of a line: faster; scores, where they are "
        "asked for, are the model's own, from one more pass",
    )
    add(
        "--stop",
        choices=["exact", "first_beam", "no_gain"],
        help="a line is done when nothing better can come; or when as many outputs as the beam are finished (the "
        "default, as in fairseq); or then, but only if the best unfinished one does not beat the worst",
    )
    add("--min_length", type=positive, metavar="N", help="fewest tokens of an output, end of sentence included")
    add("--max_output", type=positive, metavar="N", help="most tokens of an output, end of sentence included")
    add("--no_repeat_ngram", type=positive, metavar="N", help="N tokens in a row never stand twice in an output")
    add(
        "--rectify",
        action="store_true",
        default=None,
        help="search what the inverse link of the training loss makes of the model's probabilities",
    )
    add("--temperature", type=float, metavar="T", help="below 1 the probabilities are sharpened first (default: 1)")
    add(
        "--sample",
        action="store_true",
        default=None,
        help="draw outputs at random; equal lines are drawn alike, whatever stands around them",
    )
    add("--top_k", type=positive, metavar="K", help="draw from the K likeliest tokens")
    add("--top_p", type=float, metavar="P", help="draw from the likeliest tokens that together reach P")
    add("--seed", type=int, metavar="S", help="of the draw (default: 1)")
    add(
        "--minimum_bayes_risk",
        choices=["chrf", "bleu"],
        help="of the candidates, take the one that agrees most with the others",
    )
    add(
        "--candidates",
        type=positive,
        metavar="N",
        help="how many candidates: samples, or the best of a beam of N (default: the beam)",
    )
