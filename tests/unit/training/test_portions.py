"""How a batch is cut into portions on a processor."""

from __future__ import annotations

import pytest
import torch

from mt.config import Config, CorpusConfig, DataConfig, ModelConfig, TrainConfig
from mt.training.feed import batch_shape


def shape(width: int, batch_tokens: int, accumulate: int, device: str) -> tuple[int, int]:
    text = [CorpusConfig(source=["a"], target=["b"])]
    config = Config(
        run_dir="run",
        data=DataConfig(source_language="de", target_language="en", train=text, valid=text),
        model=ModelConfig(width=width),
        train=TrainConfig(max_steps=1, batch_tokens=batch_tokens, accumulate=accumulate),
    )
    return batch_shape(config, torch.device(device))


@pytest.mark.parametrize(
    ("width", "expected"), [(64, (2048, 2)), (128, (1024, 4)), (256, (512, 8)), (512, (512, 8)), (1024, (512, 8))]
)
def test_a_large_batch_becomes_portions_that_fit_the_width(width: int, expected: tuple[int, int]) -> None:
    assert shape(width, 4096, 1, "cpu") == expected


def test_portions_are_a_power_of_two_and_multiply_the_batches_of_an_update() -> None:
    assert shape(256, 3500, 3, "cpu") == (875, 12)
    assert shape(256, 300, 2, "cpu") == (300, 2)


def test_a_gpu_gets_batches_as_configured() -> None:
    assert shape(256, 4096, 2, "cuda") == (4096, 2)
