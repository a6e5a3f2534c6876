"""A run that starts from a model: what does not belong together is told before the data is prepared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mt.config import Config
from mt.config_file import read_config
from mt.errors import UserError
from mt.training.distributed import Group
from mt.training.setup import prepare_data, setup


@pytest.fixture
def config(tiny_config: Path, tiny_model: Path) -> Config:
    config = read_config(tiny_config)
    return replace(config, train=replace(config.train, init_from=str(tiny_model)))


def started(config: Config) -> None:
    setup(config, prepare_data(config, Group()), torch.device("cpu"), Group())


def test_a_damaged_model_is_told_before_the_data_is_prepared(config: Config, tiny_model: Path) -> None:
    with (tiny_model / "model.safetensors").open("r+b") as file:
        file.seek(-5, 2)
        file.write(b"\xff")
    with pytest.raises(UserError, match=r"model\.safetensors: was changed or damaged"):
        prepare_data(config, Group())
    assert not (tiny_model.parent / "cache").exists()


def test_from_python_too_a_tokeniser_or_a_shape_that_the_model_has_not_is_refused(config: Config) -> None:
    started(config)
    for section, name, value in (("tokenizer", "vocabulary_size", 100), ("model", "norm", "post")):
        wrong = replace(config, **{section: replace(getattr(config, section), **{name: value})})
        with pytest.raises(UserError, match=rf"was made with {section}\.{name} .* this config says {value}; set"):
            started(wrong)
    other = replace(config.tokenizer, sampling=0.1), replace(config.model, dropout=0.5)
    started(replace(config, tokenizer=other[0], model=other[1]))  # of the training, not of the model


def test_other_languages_are_told(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    started(config)
    assert "translates from" not in capsys.readouterr().err
    started(replace(config, data=replace(config.data, source_language="nl")))
    assert "translates from de to en, this run learns nl to en" in capsys.readouterr().err


def test_a_loss_without_a_lower_bound_is_told_in_one_line(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    for fields, told in (
        ({"log_end": 1.0, "smoothing": 0.0}, 1),
        ({"log_end": 0.99999, "smoothing": 0.0}, 0),
        ({"log_end": 1.0, "smoothing": 0.0, "reference": True, "definition": None, "exclude_special": None}, 0),
    ):
        started(replace(config, loss=replace(config.loss, name="encouraging", **fields)))
        assert capsys.readouterr().err.count("warning: at loss.log_end 1") == told
