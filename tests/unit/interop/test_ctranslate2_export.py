"""Exported models give CTranslate2 the scores that ours gives, in every form that the config knows."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from mt.config import Config, CorpusConfig, DataConfig, ModelConfig, TokenizerConfig, TrainConfig
from mt.corpus.tokenizer import Tokenizer, train_tokenizer
from mt.decoding.scoring import score_pairs
from mt.errors import UserError
from mt.interop.ctranslate2_export import EXPRESSIBLE, check_exportable, export_ctranslate2, unique_pieces
from mt.model.directory import LoadedModel, build_model

ctranslate2 = pytest.importorskip("ctranslate2")

SMALL = ModelConfig(
    width=32,
    encoder_layers=2,
    decoder_layers=1,
    encoder_heads=2,
    decoder_heads=4,
    encoder_feed_forward=48,
    decoder_feed_forward=40,
)
FORMS = [
    dataclasses.replace(SMALL, norm=norm, activation=activation, positions=positions)
    for norm, (activation, positions) in itertools.product(
        ("pre", "post"), (("relu", "sinusoidal"), ("gelu", "sinusoidal_half"), ("silu", "rotary"), ("swiglu", "rotary"))
    )
] + [dataclasses.replace(SMALL, tie="target"), dataclasses.replace(SMALL, tie="none", output_bias=True)]
LINES = [f"der hund sieht {number} kleine bälle" for number in range(40)]


@pytest.fixture(scope="module")
def tokenizers() -> dict[bool, Tokenizer]:
    return {
        joint: train_tokenizer(TokenizerConfig(vocabulary_size=60, joint=joint), LINES, [*LINES, "und viel mehr"])
        for joint in (True, False)
    }


def model(config: ModelConfig, tokenizer: Tokenizer) -> LoadedModel:
    unused = CorpusConfig(files=["unused.tsv"])
    whole = Config(
        run_dir="unused",
        model=config,
        tokenizer=TokenizerConfig(joint=tokenizer.joint),
        data=DataConfig(source_language="de", target_language="en", train=[unused], valid=[unused]),
        train=TrainConfig(max_steps=1),
    )
    torch.manual_seed(2)
    built = build_model(whole, tokenizer).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return LoadedModel(built, tokenizer, whole, {}, Path("unused"))


@pytest.mark.parametrize("config", FORMS, ids=str)
def test_an_exported_model_gives_our_scores(
    config: ModelConfig, tokenizers: dict[bool, Tokenizer], tmp_path: Path
) -> None:
    tokenizer = tokenizers[config.tie == "all"]
    loaded = model(config, tokenizer)
    export_ctranslate2(loaded, tmp_path)
    generator = np.random.default_rng(1)
    end = tokenizer.end_id
    sources = [[*generator.integers(4, tokenizer.source_size, length).tolist(), end] for length in (1, 4, 9, 30)]
    targets = [[*generator.integers(4, tokenizer.target_size, length).tolist(), end] for length in (2, 3, 12, 25)]
    ours = score_pairs(loaded, sources, targets)
    theirs = ctranslate2.Translator(str(tmp_path), compute_type="float32", intra_threads=1).score_batch(
        [tokenizer.source_pieces(ids[:-1]) for ids in sources], [tokenizer.target_pieces(ids[:-1]) for ids in targets]
    )
    for one, other in zip(ours, theirs):
        np.testing.assert_allclose(other.log_probs, one.log_probs, atol=1e-4, rtol=0)


def check(config: ModelConfig) -> None:
    check_exportable(config, EXPRESSIBLE, "CTranslate2", "use --engine torch")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoreForms(ModelConfig):
    experts: int = 0


def test_every_form_of_the_config_is_known_today() -> None:
    for form in FORMS:
        check(form)
    assert EXPRESSIBLE.keys() == {field.name for field in dataclasses.fields(ModelConfig)}


def test_a_new_field_or_a_new_value_is_refused_by_its_name() -> None:
    with pytest.raises(UserError, match=r"model\.experts is 4: CTranslate2 cannot express it; use --engine torch"):
        check(MoreForms(experts=4))
    with pytest.raises(UserError, match=r"model\.experts is 0"):
        check(MoreForms())
    relative = dataclasses.replace(SMALL)
    object.__setattr__(relative, "positions", "relative")  # a value that the config does not have yet
    words = r"model\.positions is relative: .*; train with sinusoidal or sinusoidal_half or rotary, or use"
    with pytest.raises(UserError, match=words):
        check(relative)


def test_pieces_become_unique() -> None:
    assert unique_pieces(["a", "b", "a", "a"]) == ["a", "b", "a#2", "a#3"]
