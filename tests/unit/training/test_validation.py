"""Validation: its BLEU is that of the target language, and what it needs is there before the training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sacrebleu.tokenizers.tokenizer_ja_mecab
from sacrebleu.metrics import BLEU

from mt.config_file import read_config
from mt.errors import UserError
from mt.evaluation.tokens import SplitBins
from mt.training.distributed import Group
from mt.training.run import train
from mt.training.validation import Validator

REFERENCES = ["今天下午我们去公园散步。", "那只黑狗在院子里跑。"]
TRANSLATIONS = ["今天下午我们去公园走走。", "这只黑狗在院子里跑。"]


class Texts:
    """A token store of which only the texts are asked for."""

    def __len__(self) -> int:
        return len(REFERENCES)

    def texts(self, side: str, first: int, last: int) -> list[str]:
        return REFERENCES[first:last] if side == "target" else ["x"] * (last - first)


def test_a_chinese_validation_has_the_bleu_of_chinese_and_tells_of_long_sources(
    tiny_config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = read_config(tiny_config)
    config = replace(config, data=replace(config.data, target_language="zh-CN"))
    bins = SplitBins("teacher_forced")
    one = np.ones(1)
    bins.update(one / 2, one > 0, one > 0, nll=one, brier=one / 2, line=0)

    def measured(self: Validator, model: Any, config: Any, lines: list[int]) -> tuple[SplitBins, list[str]]:
        return bins, [TRANSLATIONS[line] for line in lines]

    monkeypatch.setattr(Validator, "_measure_lines", measured)
    tokenizer = SimpleNamespace(encode_source=lambda lines: [[0] * 256, [0] * 257])
    validator = Validator(config, tokenizer, Texts(), Group())  # type: ignore[arg-type]
    assert "more than 256 tokens (decode.max_length), translated in parts: 1, counted from 1 these: 2" in (
        capsys.readouterr().err
    )
    validation = validator.measure(SimpleNamespace())  # type: ignore[arg-type]
    assert validation is not None
    expected = BLEU(trg_lang="zh").corpus_score(TRANSLATIONS, [REFERENCES]).score
    assert validation.figures["bleu"] == pytest.approx(expected) and expected > 50


def test_a_language_without_spaces_is_noted(tiny_config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = SimpleNamespace(encode_source=lambda lines: [[1] for _ in lines])
    Validator(read_config(tiny_config), tokenizer, Texts(), Group())  # type: ignore[arg-type]
    assert "trust chrF" in capsys.readouterr().err


def test_a_missing_tokeniser_of_bleu_is_told_before_any_text_is_prepared(
    tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sacrebleu.tokenizers.tokenizer_ja_mecab, "MeCab", None)
    config = read_config(tiny_config)
    config = replace(config, data=replace(config.data, target_language="ja"))
    with pytest.raises(UserError, match=r"sacrebleu\[ja\]"):
        train(config)
    assert not (tiny_config.parent / "run" / "config.yaml").exists()


def test_a_validation_text_of_blank_sources_is_told_before_training(tiny_config: Path) -> None:
    class Blank(Texts):
        def texts(self, side: str, first: int, last: int) -> list[str]:
            return ["", "\u3000"] if side == "source" else REFERENCES

    with pytest.raises(UserError, match=r"data\.valid: its source side holds no text"):
        Validator(read_config(tiny_config), SimpleNamespace(), Blank(), Group())  # type: ignore[arg-type]
