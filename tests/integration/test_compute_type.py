"""Translation in bfloat16: every kind of search works, and its scores are the float32 model's to three digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mt
from mt.cli.translate import main as translate
from mt.config_file import search_config
from mt.decoding.scoring import forced_hypotheses
from mt.errors import UserError

LINES = ["ein Hund", "", "die Katze schläft heute nicht", "Hund Hund"]


@pytest.mark.parametrize(
    "options",
    [
        {"beam": 1},
        {"beam": 3, "nbest": 3},
        {"beam": 12},
        {"beam": 4, "sample": True, "top_p": 0.9},
        {"beam": 3, "alignments": True},
        {"beam": 3, "minimum_bayes_risk": "chrf"},
    ],
    ids=str,
)
def test_outputs_have_the_scores_of_float32(tiny_model: Path, options: dict[str, Any]) -> None:
    exact, rounded = mt.load(tiny_model, "cpu"), mt.load(tiny_model, "cpu", compute_type="bfloat16")
    assert rounded.loaded.model.output_weight.dtype == torch.bfloat16
    tokenizer = exact.loaded.tokenizer
    ids = {piece: number for number, piece in enumerate(tokenizer.target_pieces(range(tokenizer.target_size)))}
    decode = search_config(exact.loaded.config.decode)
    found = []
    for line, record in zip(LINES, rounded.translate(LINES, **options), strict=True):
        if line:
            tokens = [ids[piece] for piece in record["tokens"]]
            ((forced,),) = forced_hypotheses(exact.loaded, tokenizer.encode_source([line]), [[tokens]], decode)
            found += list(zip(record["log_probs"], forced.log_probs))
    ours, theirs = np.array(found).T
    assert len(found) > 10 and np.abs(ours - theirs).max() < 0.03 * np.abs(theirs).max()
    assert not np.array_equal(ours, theirs)


def test_an_ensemble_is_converted_whole(tiny_model: Path) -> None:
    engine: Any = mt.load(tiny_model, "cpu", [tiny_model], "bfloat16").engine
    assert {model.output_weight.dtype for model in engine.models} == {torch.bfloat16}


def test_a_type_that_an_engine_lacks_is_one_clear_error(tiny_model: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.write_text("ein Hund\n", encoding="utf-8")
    for compute_type, engine, words in (
        ("int8", "torch", "add --engine ctranslate2"),
        ("bfloat16", "ctranslate2", "must be one of float32, int8"),
    ):
        if engine == "ctranslate2":
            pytest.importorskip("ctranslate2")
        with pytest.raises(UserError, match=words):
            translate(
                [
                    str(tiny_model),
                    "--input",
                    str(source),
                    "--output",
                    str(tmp_path / "out"),
                    "--compute_type",
                    compute_type,
                    "--engine",
                    engine,
                ]
            )
    with pytest.raises(UserError, match="compute_type is 'float64'; it must be float32 or bfloat16"):
        mt.load(tiny_model, "cpu", compute_type="float64")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == []
