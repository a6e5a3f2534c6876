"""Ranges of the settings, and the configs that ship."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from mt.config import (
    CleaningConfig,
    CorpusConfig,
    DataConfig,
    DecodeConfig,
    GrammarConfig,
    LossConfig,
    ModelConfig,
    TokenizerConfig,
    TrainConfig,
)
from mt.config_file import read_config

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        (GrammarConfig, {"pairs": 0}, "pairs is 0"),
        (GrammarConfig, {"pairs": 1, "languages": ["de", "de"]}, "two different"),
        (CorpusConfig, {}, "exactly one of"),
        (CorpusConfig, {"source": ["a"], "target": ["b"], "hub": "c"}, "exactly one of"),
        (CorpusConfig, {"source": ["a"], "target": []}, "equally many"),
        (CorpusConfig, {"files": ["a"], "columns": ["one"]}, "two names"),
        (CorpusConfig, {"files": ["a"], "weight": 0.0}, "weight is 0.0"),
        (CleaningConfig, {"max_ratio": 0.5}, "max_ratio is 0.5"),
        (CleaningConfig, {"max_words": -1}, "max_words is -1"),
        (DataConfig, {"source_language": "de", "target_language": "en", "train": [], "valid": []}, "train is"),
        (TokenizerConfig, {"vocabulary_size": 4}, "32 to"),
        (TokenizerConfig, {"sampling": 1.5}, "0 to 1"),
        (ModelConfig, {"width": 100, "encoder_heads": 3}, "divisor of model.width"),
        (ModelConfig, {"dropout": 1.0}, "below 1"),
        (LossConfig, {"log_end": 0.5}, "belongs to encouraging, and loss.name is label_smoothed_kl"),
        (
            LossConfig,
            {"name": "focal", "smoothing": 0.1},
            "label_smoothed_kl, encouraging, r_drop, and loss.name is focal",
        ),
        (LossConfig, {"name": "inverse_focal", "beta": 0.1}, "belongs to confidence_penalty"),
        (LossConfig, {"name": "r_drop", "alpha": -1.0}, "0 to 100"),
        (LossConfig, {"name": "encouraging", "reference": True, "definition": "others"}, "uniform or left out"),
        (LossConfig, {"name": "encouraging", "reference": True, "exclude_special": True}, "False or left out"),
        (LossConfig, {"name": "encouraging", "log_end": 1.5}, "0 to 1"),
        (TrainConfig, {}, "needs an end"),
        (TrainConfig, {"max_steps": 1, "learning_rate": 0.0}, "above 0"),
        (TrainConfig, {"max_steps": 1, "betas": [0.9]}, "two numbers"),
        (TrainConfig, {"max_steps": 1, "batch_tokens": 8, "max_length": 9}, "at most train.batch_tokens"),
        (DecodeConfig, {"beam": 0}, "1 to"),
    ],
)
def test_a_value_out_of_range_is_named_with_what_is_allowed(kind: Any, values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as raised:
        kind(**values)
    assert words in str(raised.value)
    assert "must be" in str(raised.value)


def grammar_data(languages: list[str]) -> DataConfig:
    corpus = CorpusConfig(grammar=GrammarConfig(pairs=3, languages=languages))
    return DataConfig(source_language="fr", target_language="en", train=[corpus], valid=[corpus])


def test_the_languages_of_a_grammar_are_those_of_the_data_section() -> None:
    for languages in ([], ["fr", "en"]):
        assert grammar_data(languages).train[0].grammar is not None
    for languages in (["de", "en"], ["en", "fr"]):
        with pytest.raises(ValueError, match=r"grammar's languages is .* it must be .*\['fr', 'en'\], or left out"):
            grammar_data(languages)


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        GrammarConfig(pairs=3).pairs = 4  # type: ignore[misc]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_shipped_config_is_valid_and_keeps_to_the_repository(path: Path) -> None:
    config = read_config(path)
    assert config.run_dir == f"runs/{path.stem}"
    assert f"{config.data.source_language}-{config.data.target_language}" in path.stem
    text = path.read_text(encoding="utf-8")
    assert f"configs/{path.name}" in text or path.stem.startswith("demo")  # the commands to run are on top
    for corpus in [*config.data.train, *config.data.valid, *config.data.test]:
        for name in [*corpus.source, *corpus.target, *corpus.files]:
            assert not Path(name).is_absolute()
            assert ".." not in Path(name).parts
    assert ".." not in Path(config.data.root).parts


def test_the_promised_configs_are_there() -> None:
    names = {path.stem for path in CONFIGS}
    assert names >= {"multi30k-de-en", "multi30k-fr-en", "tatoeba-de-en", "iwslt14-de-en", "demo-de-en", "demo-fr-en"}
