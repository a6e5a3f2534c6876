"""What tests of decoding and interop share: a small model with random weights."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from mt.config import Config, CorpusConfig, DataConfig, DecodeConfig, ModelConfig, TokenizerConfig, TrainConfig
from mt.corpus.tokenizer import Tokenizer, train_tokenizer
from mt.decoding.translator import Translator
from mt.model.directory import LoadedModel, build_model

TEXT = "der hund sieht einen kleinen ball und die frau liest ein rotes buch am fluss"
WORDS = TEXT.split()


def some_lines(count: int, seed: int) -> list[str]:
    """Made-up sentences of 1 to 12 words."""
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=generator.randint(1, 12))) for _ in range(count)]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    lines = some_lines(300, 0)
    return train_tokenizer(TokenizerConfig(vocabulary_size=330, byte_fallback=True), lines, lines)


@pytest.fixture(scope="session", params=["sinusoidal", "rotary"])
def loaded(request: pytest.FixtureRequest, tokenizer: Tokenizer) -> LoadedModel:
    """A small model with random weights, sharpened so that its outputs differ from line to line."""
    corpus = CorpusConfig(files=["unused.tsv"])
    config = Config(
        run_dir="unused",
        data=DataConfig(source_language="de", target_language="en", train=[corpus], valid=[corpus]),
        train=TrainConfig(max_steps=1),
        model=ModelConfig(
            width=32,
            encoder_layers=1,
            decoder_layers=2,
            encoder_heads=2,
            decoder_heads=2,
            encoder_feed_forward=48,
            decoder_feed_forward=48,
            tie="none",
            positions=request.param,
        ),
        decode=DecodeConfig(max_length=40, max_length_ratio=1.0, max_length_extra=8, batch_tokens=600),
    )
    torch.manual_seed(5)
    model = build_model(config, tokenizer).eval()
    with torch.no_grad():
        model.output_weight.mul_(2.0)
    return LoadedModel(model, tokenizer, config, {}, Path("unused"))


@pytest.fixture(scope="session")
def translator(loaded: LoadedModel) -> Translator:
    return Translator(loaded)
