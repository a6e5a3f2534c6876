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
from mt.model.linear import Linear

LINES = ["ein Hund", "", "die Katze schläft heute nicht", "Hund Hund"]


@pytest.mark.parametrize("whole", [False, True], ids=["products", "whole model, as on a GPU"])
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
def test_outputs_have_the_scores_of_float32(tiny_model: Path, options: dict[str, Any], whole: bool) -> None:
    exact, rounded = mt.load(tiny_model, "cpu"), mt.load(tiny_model, "cpu", compute_type="bfloat16")
    assert rounded.loaded.model.output_weight.dtype == torch.float32
    if whole:
        rounded.loaded.model.use_bfloat16_products(False)
        rounded.loaded.model.bfloat16()
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
    linears = [each for model in engine.models for each in model.modules() if isinstance(each, Linear)]
    assert len(linears) == 22 and all(each.bfloat16_products for each in linears)


def test_in_bfloat16_a_line_does_not_depend_on_its_batch_and_forced_scores_are_those_of_the_search(
    tiny_model: Path,
) -> None:
    translator = mt.load(tiny_model, "cpu", compute_type="bfloat16")
    lines = [" ".join(["ein", "Hund", "die", "Katze"][: 1 + number % 4] * (1 + number % 5)) for number in range(40)]
    together = list(translator.translate(lines, beam=4))
    for line, record in zip(lines[::7], together[::7]):
        (alone,) = translator.translate([line], beam=4)
        assert alone["translation"] == record["translation"]
        np.testing.assert_allclose(alone["log_probs"], record["log_probs"], rtol=1e-4, atol=1e-4)
    tokenizer, loaded = translator.loaded.tokenizer, translator.loaded
    ids = {piece: number for number, piece in enumerate(tokenizer.target_pieces(range(tokenizer.target_size)))}
    sources, targets = tokenizer.encode_source(lines), [[[ids[piece] for piece in each["tokens"]]] for each in together]
    forced = forced_hypotheses(loaded, sources, targets, search_config(loaded.config.decode))
    for (hypothesis,), record in zip(forced, together):
        np.testing.assert_allclose(hypothesis.log_probs, record["log_probs"], rtol=2e-2, atol=2e-2)


def test_a_type_that_an_engine_lacks_is_one_clear_error(tiny_model: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.write_text("ein Hund\n", encoding="utf-8")
    for compute_type, engine, words in (
        ("int8", "torch", "add --engine ctranslate2"),
        ("bfloat16", "ctranslate2", "CTranslate2 has float32 and int8"),
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
