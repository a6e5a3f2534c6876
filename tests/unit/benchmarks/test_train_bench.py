"""The train suite: what both sides read and do, and the result of a tiny comparison."""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import plain, train
from mt.config import Config, ModelConfig
from mt.corpus.store import open_store
from mt.corpus.tokenizer import load_tokenizer


def test_each_size_has_a_case_and_further_ones_where_tcmalloc_and_bfloat16_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train, "has_bfloat16", lambda: False)
    monkeypatch.setattr(train, "TCMALLOC", ())
    assert list(train.cases()) == ["small", "large"]
    monkeypatch.setattr(train, "TCMALLOC", (__file__,))
    found = train.cases()
    assert [found[name].preload for name in found] == ["", "", __file__, __file__]
    assert "no rows for bfloat16: this processor has no instructions for it" in capsys.readouterr().err
    monkeypatch.setattr(train, "has_bfloat16", lambda: True)
    found = train.cases()
    assert [name for name in found if found[name].bfloat16] == ["small_bfloat16", "large_bfloat16"]
    assert capsys.readouterr().err == ""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What both sides read, where there is no corpus."""
    folder = tmp_path_factory.mktemp("data")
    size = train._write_data(folder, train._config(train.cases()["small"], "cpu", 1), False)
    assert size == train.VOCABULARY == load_tokenizer(folder).target_size
    return folder


def test_random_pairs_have_the_lengths_of_multi30k(data: Path) -> None:
    store = open_store(data / "train")
    assert len(store) == 29_000
    assert store.target_lengths.mean() == pytest.approx(15.28, abs=0.01)
    assert store.source_lengths.mean() == pytest.approx(15.3, abs=0.1)
    assert store.target(0).min() >= train.FIRST


def test_batches_of_the_baseline_hold_every_pair_once_grouped_by_length(data: Path) -> None:
    store = open_store(data / "train")
    rows = round(plain.TOKENS / 15.2768)
    batches = list(islice(plain.grouped_batches(store), -(-len(store) // rows)))
    assert sum(len(target) for _, target in batches) == len(store)
    padding = 1 - sum(int((side != plain.PAD).sum()) for batch in batches for side in batch) / sum(
        side.numel() for batch in batches for side in batch
    )
    assert padding < 0.22  # over 0.4 in random order


def test_operations_are_those_of_the_models_matrices() -> None:
    config = train._config(train.cases()["small"], "cpu", 1)
    baseline = plain.PlainTransformer(config.model, 8000)
    matrices = sum(p.numel() for p in baseline.parameters() if p.ndim == 2)  # the tied one counts once: the projection
    assert train._operations(config, 8000) == 6.0 * matrices


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_comparison_says_what_each_side_did(data: Path, monkeypatch: pytest.MonkeyPatch, bfloat16: bool) -> None:
    def copied(folder: Path, *_: Any) -> int:
        shutil.copytree(data, folder, dirs_exist_ok=True)
        return train.VOCABULARY

    monkeypatch.setattr(train, "_write_data", copied)
    whole = train._config

    def small(*arguments: Any, **options: Any) -> Config:
        config = whole(*arguments, **options)
        model = ModelConfig(
            width=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_heads=4,
            decoder_heads=4,
            encoder_feed_forward=16,
            decoder_feed_forward=16,
            norm="post",
        )
        return replace(config, model=model, train=replace(config.train, batch_tokens=512))

    monkeypatch.setattr(train, "_config", small)
    threads = torch.get_num_threads()
    try:
        case = replace(train.cases()["small"], updates=1, bfloat16=bfloat16)
        result = train.measure(case, device="cpu", threads=2, rounds=1, seconds=1.0)
    finally:
        torch.set_num_threads(threads)
    assert result["low"] <= result["ratio"] <= result["high"]
    assert result["ours"] > 0 and result["baseline"] > 0
    assert result["settings"]["processes"] == 1  # 512 positions are one micro-batch
    assert 0 <= result["settings"]["padding"] < 0.1 and 0 < result["settings"]["utilisation"] < 1
