"""One update: accumulation and padding do not change the gradient."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mt.config import LossConfig, ModelConfig
from mt.losses.build import build_loss
from mt.model.transformer import Transformer
from mt.training.data import Batch
from mt.training.distributed import Group
from mt.training.loss import add_gradients, batch_loss
from mt.training.optimiser import Gradients

VOCABULARY = 50
TOKENIZER = SimpleNamespace(pad_id=0, begin_id=2)
LOSSES = [
    LossConfig(),
    LossConfig(name="encouraging", log_end=0.5),
    LossConfig(name="encouraging", log_end=1.0),
    LossConfig(name="encouraging", log_end=1.0, reference=True),
    LossConfig(name="focal"),
    LossConfig(name="inverse_focal"),
    LossConfig(name="confidence_penalty"),
    LossConfig(name="r_drop"),
]


class Pairs:
    """Random pairs of 2 to 12 tokens, the last one the end of sentence (3)."""

    def __init__(self, count: int) -> None:
        generator = np.random.default_rng(5)

        def sentence() -> np.ndarray:
            return np.append(generator.integers(4, VOCABULARY, generator.integers(1, 12)), 3).astype(np.int32)

        self.pairs = [(sentence(), sentence()) for _ in range(count)]

    def source(self, index: int) -> np.ndarray:
        return self.pairs[index][0]

    def target(self, index: int) -> np.ndarray:
        return self.pairs[index][1]


def gradients(model: Transformer, config: LossConfig, groups: list[np.ndarray]) -> list[torch.Tensor]:
    model = copy.deepcopy(model).double()
    loss = build_loss(config, pad_id=0, begin_id=2, vocabulary_size=VOCABULARY)
    store = Pairs(64)
    batches = [Batch(store, group, TOKENIZER, torch.device("cpu")) for group in groups]  # type: ignore[arg-type]
    summed = Gradients(model, Group())
    for batch in batches:
        add_gradients(model, batch, loss, summed)
    assert int(summed.reduce()["tokens"]) == sum(len(store.target(index)) for index in range(64))
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def tiny_transformer(dropout: float) -> Transformer:
    torch.manual_seed(0)
    config = ModelConfig(
        width=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_feed_forward=32,
        decoder_feed_forward=32,
        dropout=dropout,
        embedding_dropout=0.0,
    )
    return Transformer(config, VOCABULARY, VOCABULARY, pad_id=0).train()


@pytest.fixture
def model() -> Transformer:
    return tiny_transformer(dropout=0.0)


@pytest.mark.parametrize("config", LOSSES, ids=str)
def test_eight_batches_of_eight_give_the_gradient_of_one_of_sixty_four(model: Transformer, config: LossConfig) -> None:
    whole = gradients(model, config, [np.arange(64)])
    parts = gradients(model, config, list(np.arange(64).reshape(8, 8)))
    assert len(whole) == len(list(model.parameters()))
    for one, other in zip(whole, parts):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("config", LOSSES, ids=str)
def test_every_loss_falls_in_a_few_updates(model: Transformer, config: LossConfig) -> None:
    loss = build_loss(config, pad_id=0, begin_id=2, vocabulary_size=VOCABULARY)
    batch = Batch(Pairs(16), np.arange(16), TOKENIZER, torch.device("cpu"))  # type: ignore[arg-type]
    summed = Gradients(model, Group())
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    figures = []
    for _ in range(40):
        summed.clear()
        add_gradients(model, batch, loss, summed)
        figures.append({name: float(value) / batch.tokens for name, value in summed.reduce().items()})
        optimiser.step()
    assert figures[0]["nll"] - figures[-1]["nll"] > 0.5
    assert figures[0]["loss"] - figures[-1]["loss"] > 0.25


def test_the_two_passes_of_r_drop_differ_by_their_dropout_alone(model: Transformer) -> None:
    batch = Batch(Pairs(4), np.arange(4), TOKENIZER, torch.device("cpu"))  # type: ignore[arg-type]
    single = batch_loss(model, batch, build_loss(LossConfig(), pad_id=0, begin_id=2, vocabulary_size=VOCABULARY))
    loss = build_loss(LossConfig(name="r_drop"), pad_id=0, begin_id=2, vocabulary_size=VOCABULARY)
    same = batch_loss(model, batch, loss)
    torch.testing.assert_close(same.loss, 2 * single.loss)  # no dropout: no divergence
    torch.testing.assert_close(same.nll, single.nll)
    assert (same.tokens, same.correct) == (single.tokens, single.correct)


def test_the_two_passes_of_r_drop_are_pulled_together() -> None:
    model = tiny_transformer(dropout=0.3)
    batch = Batch(Pairs(4), np.arange(4), TOKENIZER, torch.device("cpu"))  # type: ignore[arg-type]
    losses = []
    for alpha in (0.0, 5.0):
        config = LossConfig(name="r_drop", alpha=alpha)
        loss = build_loss(config, pad_id=0, begin_id=2, vocabulary_size=VOCABULARY)
        torch.manual_seed(1)
        losses.append(batch_loss(model, batch, loss).loss.item())
    assert losses[1] - losses[0] > 0.01


def test_a_batch_holds_the_real_target_tokens_alone() -> None:
    store = Pairs(10)
    batch = Batch(store, np.arange(10), TOKENIZER, torch.device("cpu"))  # type: ignore[arg-type]
    real = np.concatenate([store.target(index) for index in range(10)])
    assert batch.targets.tolist() == real.tolist()
    assert batch.tokens == len(real)
    assert batch.target_input[:, 0].tolist() == [2] * 10
    shifted = torch.cat([batch.target_input[:, 1:], torch.zeros(10, 1, dtype=torch.int64)], dim=1)
    assert batch.positions is not None
    # What stands at a real position but the last of its sentence is input of the next one.
    inside = batch.targets != 3
    assert torch.equal(shifted.flatten()[batch.positions][inside], batch.targets[inside].long())


def test_the_output_bias_is_trained_and_part_of_what_is_trained() -> None:
    torch.manual_seed(0)
    config = ModelConfig(width=16, encoder_layers=1, decoder_layers=1, output_bias=True, dropout=0.0)
    model = Transformer(config, VOCABULARY, VOCABULARY, pad_id=0).eval().double()
    assert model.output_bias is not None
    torch.nn.init.normal_(model.output_bias)
    batch = Batch(Pairs(16), np.arange(16), TOKENIZER, torch.device("cpu"))  # type: ignore[arg-type]
    loss = build_loss(LossConfig(smoothing=0.0), pad_id=0, begin_id=2, vocabulary_size=VOCABULARY)
    summed, before = Gradients(model, Group()), model.output_bias.detach().clone()
    add_gradients(model, batch, loss, summed)
    with torch.no_grad():
        logits = model.logits(model(batch.source, batch.target_input)).flatten(0, 1)
    assert batch.positions is not None
    expected = torch.nn.functional.cross_entropy(logits[batch.positions], batch.targets)
    figures = summed.reduce()
    assert float(figures["nll"]) / batch.tokens == pytest.approx(float(expected), rel=1e-12)
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert not torch.equal(model.output_bias, before)
