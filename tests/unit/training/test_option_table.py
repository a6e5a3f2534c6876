"""Whatever a config allows can be trained, resumed, decoded and scored: every pair of options stands in some row."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mt.config import (
    Config,
    CorpusConfig,
    DataConfig,
    DecodeConfig,
    GrammarConfig,
    LossConfig,
    ModelConfig,
    TokenizerConfig,
    TrainConfig,
)
from mt.config_file import dump_config, read_config
from mt.corpus.prepare import Prepared
from mt.decoding.scoring import score_pairs
from mt.decoding.translator import Translator
from mt.model.directory import LoadedModel, load_model
from mt.training.distributed import Group
from mt.training.run import Training
from mt.training.setup import prepare_data, setup

Row = dict[str, Any]

DEFINITIONS = ("uniform", "others", "uniform_nopad", "others_nopad", "scatter", "unigram")
OPTIONS: dict[str, tuple[Any, ...]] = {
    "loss": (
        *({"definition": definition} for definition in DEFINITIONS),
        {"smoothing": 0.0},
        {"name": "encouraging"},
        {"name": "encouraging", "smoothing": 0.0, "log_end": 1.0},
        {"name": "encouraging", "reference": True},
        {"name": "focal"},
        {"name": "inverse_focal"},
        {"name": "confidence_penalty"},
        {"name": "r_drop"},
    ),
    "model.activation": ("relu", "gelu", "silu", "swiglu"),
    "train.schedule": ("inverse_sqrt", "cosine", "warmup_stable_decay", "constant"),
    "model.positions": ("sinusoidal", "sinusoidal_half", "rotary"),
    "model.tie": ("all", "target", "none"),
    "train.precision": ("auto", "float32", "bfloat16"),
    "model.norm": ("pre", "post"),
    "model.output_bias": (False, True),
    "model.encoder_heads": (1, 2),
    "model.decoder_heads": (2, 1),
    "train.activation_checkpointing": (False, True),
    "train.ema_decay": (0.0, 0.9),
    "train.accumulate": (1, 2),
    "tokenizer.algorithm": ("unigram", "bpe"),
    "tokenizer.sampling": (0.0, 0.3),
    "tokenizer.byte_fallback": (False, True),
    "tokenizer.joint": (True, False),
}
Choice = tuple[str, int]
"""an option and the number of one of its values"""


def impossible(chosen: set[Choice]) -> bool:
    return {("tokenizer.joint", 1), ("model.tie", 0)} <= chosen  # which the config refuses


def rows() -> Iterator[Row]:
    """Greedily: a row begins with a pair that is in none yet, and takes of each option the value that brings most."""
    choices = [[(name, number) for number in range(len(values))] for name, values in OPTIONS.items()]
    pairs = (pair for one, other in itertools.combinations(choices, 2) for pair in itertools.product(one, other))
    left = dict.fromkeys(frozenset(pair) for pair in pairs if not impossible(set(pair)))  # in a fixed order
    while left:
        row = set(next(iter(left)))
        for values in sorted(choices, key=lambda values: any(each in row for each in values), reverse=True):
            if not row & set(values):
                possible = [value for value in values if not impossible(row | {value})]
                row.add(max(possible, key=lambda value: sum(frozenset((value, each)) in left for each in row)))
        for pair in itertools.combinations(row, 2):
            left.pop(frozenset(pair), None)
        yield {name: OPTIONS[name][number] for name, number in row}


def config_of(row: Row, folder: Path) -> Config:
    def section(name: str) -> Row:
        return {key.partition(".")[2]: value for key, value in row.items() if key.startswith(f"{name}.")}

    sizes = dict.fromkeys(("encoder_layers", "decoder_layers"), 1)
    sizes |= {"width": 8, "encoder_feed_forward": 12, "decoder_feed_forward": 12}
    rates = {"max_steps": 4, "max_epochs": 1, "warmup_steps": 1, "learning_rate": 0.01}
    return Config(
        run_dir=str(folder / "run"),
        data=DataConfig(
            source_language="de",
            target_language="en",
            train=[CorpusConfig(grammar=GrammarConfig(pairs=24))],
            valid=[CorpusConfig(grammar=GrammarConfig(pairs=2), split="valid")],
            cache=str(folder / "cache"),
        ),
        tokenizer=TokenizerConfig(vocabulary_size=360, **section("tokenizer")),
        model=ModelConfig(**sizes, dropout=0.0, embedding_dropout=0.0, **section("model")),
        loss=LossConfig(**row["loss"]),
        train=TrainConfig(batch_tokens=200, max_length=200, **rates, **section("train")),
        decode=DecodeConfig(beam=2, max_length_ratio=0, max_length_extra=4),
        threads=1,
    )


def begun(config: Config, prepared: Prepared) -> tuple[Training, Iterator[Any]]:
    """A training, from its last checkpoint if there is one, and the updates that come next."""
    training = Training(config, prepared, setup(config, prepared, torch.device("cpu"), Group()), Group(), None, 0.0)
    training.clock = 0.0
    return training, training.loader.updates(training.state.epoch, training.state.batch)


def scored(training: Training, batches: range) -> tuple[float, int]:
    """Sum of the NLL that `score_pairs` finds for some batches of the first epoch, and the number of tokens."""
    store, plan = training.loader.plan(0)
    pairs = [int(index) for number in batches for index in plan[number]]
    loaded = LoadedModel(training.model.eval(), training.tokenizer, training.config, {}, Path("unused"))
    scores = list(
        score_pairs(loaded, *([side(index).tolist() for index in pairs] for side in (store.source, store.target)))
    )
    training.model.train()
    return -sum(each.total for each in scores), sum(len(each.log_probs) for each in scores)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("table")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


TABLE = list(rows())


def test_every_pair_of_options_stands_in_the_table() -> None:
    for (one, values), (other, others) in itertools.combinations(OPTIONS.items(), 2):
        for value, another in itertools.product(values, others):
            if (one, value, other, another) != ("model.tie", "all", "tokenizer.joint", False):
                assert any(row[one] == value and row[other] == another for row in TABLE), (one, value, other, another)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row["loss"].get("name", "label_smoothed_kl"))
def test_what_a_config_allows_is_trained_resumed_decoded_and_scored(row: Row, folder: Path) -> None:
    config = config_of(row, folder)
    config = replace(config, run_dir=str(folder / f"run_{TABLE.index(row)}"))
    (folder / "config.yaml").write_text(dump_config(config))
    assert read_config(folder / "config.yaml") == config
    prepared = prepare_data(config, Group())

    training, updates = begun(config, prepared)
    training.update(next(updates), False)
    for name, parameter in training.model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, f"{name} is not trained"
    training.state.sums = {}
    training.checkpoints.save(training.parts, prepared.tokenizer, {})
    last = training.checkpoints.last()
    assert last is not None

    done = training.state.batch
    second = next(updates)
    nll, tokens = scored(training, range(done, second.done))  # with an output bias that is no longer 0
    training.update(second, False)
    found = {name: float(value) for name, value in training.state.sums.items()}
    assert found["tokens"] == tokens
    bfloat16 = config.train.precision == "bfloat16"
    assert found["nll"] / tokens == pytest.approx(nll / tokens, rel=0.01 if bfloat16 else 1e-5)
    if row["loss"] == {"smoothing": 0.0}:
        assert found["loss"] == pytest.approx(found["nll"], rel=1e-5)

    resumed, updates = begun(config, prepared)
    resumed.update(next(updates), False)
    for (name, parameter), other in zip(training.model.named_parameters(), resumed.model.parameters()):
        assert torch.equal(parameter, other), f"{name} is another one after resuming"

    loaded = load_model(last, "cpu")
    lines = prepared.valid.texts("source", 0, 2)
    records = list(Translator(loaded).translate(lines))
    assert [record["source"] for record in records] == lines
    assert all(-100 < sum(record["log_probs"]) < 0 for record in records)
