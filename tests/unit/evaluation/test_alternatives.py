"""What else was likely at each token: held against forced scores of the very alternatives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow
import pytest

from mt.decoding.scoring import score_pairs
from mt.evaluation.tokens import add_alternatives
from mt.model.directory import load_model


def test_alternatives_are_the_likeliest_tokens_with_their_forced_scores(tiny_model: Path) -> None:
    loaded = load_model(tiny_model, device="cpu")
    tokenizer = loaded.tokenizer
    source_ids = tokenizer.encode_source(["ein Hund läuft"])[0]
    output = tokenizer.encode_target(["the man sings"])[0]
    record: dict[str, Any] = {"source": "ein Hund läuft", "tokens": tokenizer.target_pieces(output)}
    foreign: dict[str, Any] = {"source": "ein Hund läuft", "tokens": ["no such token"]}
    add_alternatives(loaded, [record, foreign, {"source": "", "tokens": []}], most=4)
    assert "alternatives" not in foreign and len(record["alternatives"]) == len(output)
    pieces = tokenizer.target_pieces(range(tokenizer.target_size))
    for place, found in enumerate(record["alternatives"]):
        every = [[*output[:place], number] for number in range(tokenizer.target_size)]
        scored = score_pairs(loaded, [source_ids] * len(every), every)
        scores = {piece: float(each.log_probs[-1]) for piece, each in zip(pieces, scored)}
        best = sorted(scores, key=lambda piece: -scores[piece])[:4]
        assert [each["log_prob"] for each in found] == pytest.approx([scores[piece] for piece in best], abs=1e-4)
        assert all(scores[each["token"]] == pytest.approx(each["log_prob"], abs=1e-4) for each in found)
    table = pyarrow.Table.from_pylist([record])  # as Parquet would have it
    assert table.to_pylist()[0]["alternatives"] == record["alternatives"]


def test_lines_that_were_cut_have_none(tiny_model: Path) -> None:
    loaded = load_model(tiny_model, device="cpu")
    record: dict[str, Any] = {"source": "Hund " * 400, "tokens": ["</s>"]}
    add_alternatives(loaded, [record])
    assert "alternatives" not in record


def test_three_with_four_digits_are_given_of_every_line_that_is_not_cut(tiny_model: Path) -> None:
    loaded = load_model(tiny_model, device="cpu")
    tokenizer = loaded.tokenizer
    longest = loaded.config.decode.max_length
    lines = ["e" * letters for letters in range(longest)]
    source = next(line for line in lines if len(tokenizer.encode_source([line])[0]) == longest)
    every_piece = tokenizer.target_pieces(range(tokenizer.target_size))
    records: list[dict[str, Any]] = [{"source": source, "tokens": ["</s>"]}, {"source": "Hund", "tokens": every_piece}]
    add_alternatives(loaded, records)
    for record in records:
        assert [len(each) for each in record["alternatives"]] == [3] * len(record["tokens"])
    log_probs = [each["log_prob"] for place in records[1]["alternatives"] for each in place]
    assert all(value == round(value, 4) for value in log_probs) and any(value != round(value, 3) for value in log_probs)
