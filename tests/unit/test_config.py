"""Ranges of the settings, and the configs that ship."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from mt.config import (
    CleaningConfig,
    Config,
    CorpusConfig,
    DataConfig,
    DecodeConfig,
    GrammarConfig,
    LossConfig,
    ModelConfig,
    SearchConfig,
    TokenizerConfig,
    TrainConfig,
)
from mt.config_file import read_config
from mt.settings import allowed_values

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
        (ModelConfig, {"dropout": 1.0}, "0 to 0.99"),
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
        # what failed at the first validation, when the training was done, or filled the memory
        (DecodeConfig, {"beam": 10**6}, "1 to"),
        (DecodeConfig, {"max_length": 1}, "2 to"),
        *((DecodeConfig, {"max_length_ratio": value}, "0 to") for value in (math.inf, math.nan, 1e9)),
        *((DecodeConfig, {"length_alpha": value}, "0 to") for value in (math.inf, math.nan, 1e300)),
        (DecodeConfig, {"max_length_extra": 10**9}, "1 to"),
        *((SearchConfig, {"temperature": value}, "0.01 to") for value in (math.nan, math.inf, 1e-40)),
        (SearchConfig, {"sample": True, "top_p": math.nan}, "above 0"),
        *((TrainConfig, {"max_steps": 1, "learning_rate": value}, "above 0") for value in (math.nan, math.inf, 1e30)),
        *((TrainConfig, {"max_steps": 1, "betas": [value, 0.9]}, "two numbers") for value in (math.nan, 1 - 1e-16)),
        (TrainConfig, {"max_steps": 1, "epsilon": 1e-300}, "1e-30 to"),  # 0 in float32: 0 / 0 for unused pieces
        (TrainConfig, {"max_steps": 1, "final_learning_rate": 0.1}, "at most train.learning_rate"),
        (TrainConfig, {"max_steps": 1, "weight_decay": math.inf}, "0 to"),
        (TokenizerConfig, {"character_coverage": 0.95}, "0.98 to 1"),
        (TokenizerConfig, {"training_sentences": 1}, "200 to"),
        (ModelConfig, {"dropout": 1 - 1e-16}, "0 to 0.99"),
        (ModelConfig, {"width": 2**31}, "1 to"),
        (LossConfig, {"name": "inverse_focal", "gamma": 1e300}, "0 to 10"),
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


def bounds(kind: type) -> list[str]:
    """The numbers of a section and of those in it that have no range."""
    hints, ranges = get_type_hints(kind), allowed_values(kind)
    inner = [each for hint in hints.values() for each in (hint, *get_args(hint)) if dataclasses.is_dataclass(each)]
    own = [name for name, hint in hints.items() if {int, float} & {hint, *get_args(hint)} and name not in ranges]
    return [f"{kind.__name__}.{name}" for name in own] + [name for each in inner for name in bounds(each)]


def test_every_number_of_a_config_has_a_range_that_nan_and_infinity_lie_outside() -> None:
    assert bounds(Config) + bounds(SearchConfig) == ["TrainConfig.betas"]  # a list, which is tested above
    for kind in (ModelConfig, TrainConfig, DecodeConfig, SearchConfig, LossConfig, TokenizerConfig, CleaningConfig):
        for name, allowed in allowed_values(kind).items():
            hint = get_type_hints(kind)[name]
            if float in (hint, *get_args(hint)):
                assert not any(allowed.holds(value) for value in (math.nan, math.inf, -math.inf)), name
