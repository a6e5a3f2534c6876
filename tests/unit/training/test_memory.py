"""The largest batch goes first and leaves no trace; running out of memory names what helps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mt.config import Config, LossConfig, ModelConfig
from mt.config_file import read_config
from mt.errors import UserError
from mt.files.json_file import read_json
from mt.losses.build import build_loss
from mt.model.transformer import Transformer
from mt.training import resources
from mt.training.distributed import Group
from mt.training.optimiser import Gradients
from mt.training.run import Training, train
from mt.training.run_directory import read_log


def configured(path: Path, run: str, **changes: object) -> Config:
    config = read_config(path)
    settings = {"max_steps": 3, "validate_every": 3, "batch_tokens": 128, **changes}
    return replace(config, run_dir=str(path.parent / run), train=replace(config.train, **settings))  # type: ignore[arg-type]


def test_the_warm_up_changes_no_weight_and_is_measured(
    tiny_config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    best = train(configured(tiny_config, "with"))
    said = [line for line in capsys.readouterr().err.split("\n") if line.startswith("memory: ")]
    assert len(said) == 1 and said[0].startswith("memory: measured peak ") and said[0].endswith(" in 1 process")
    event = next(event for event in read_log(tiny_config.parent / "with" / "log.jsonl") if event["event"] == "memory")
    assert event["measured"] > 50e6, "a Python process with torch alone has more"

    monkeypatch.setattr(Training, "_warm_up", lambda self: None)
    other = train(configured(tiny_config, "without"))
    assert best is not None and other is not None
    fingerprints = [read_json(folder / "meta.json", dict)["weights_blake2b"] for folder in (best, other)]
    assert fingerprints[0] == fingerprints[1]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
        ),
        RuntimeError("[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you tried"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_running_out_of_memory_names_the_two_settings_that_help(tiny_config: Path, error: Exception) -> None:
    with pytest.raises(UserError) as told, resources.explained(configured(tiny_config, "run").train):
        raise error
    for words in ("train.batch_tokens 128", "train.accumulate", "train.activation_checkpointing"):
        assert words in str(told.value)


def test_other_errors_stay_what_they_are(tiny_config: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"), resources.explained(configured(tiny_config, "run").train):
        raise RuntimeError("shapes do not fit")


def kept(config: ModelConfig, checkpointing: bool) -> tuple[torch.Tensor, int]:
    """Gradient of a batch, and the bytes that are kept for it."""
    torch.manual_seed(0)
    model = Transformer(config, 50, 50, pad_id=0).train()
    model.activation_checkpointing = checkpointing
    source, target = torch.randint(4, 50, (2, 8, 12))
    gradients = Gradients(model, Group())
    storages: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(3)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model(source, target)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    loss = build_loss(LossConfig(), pad_id=0, begin_id=2, vocabulary_size=50)
    loss(model.logits(hidden), target).sum().backward()
    return gradients.flat, sum(size for place, size in storages.items() if place not in parameters)


SHAPE = ModelConfig(
    width=32,
    encoder_layers=4,
    decoder_layers=4,
    encoder_feed_forward=64,
    decoder_feed_forward=64,
    dropout=0.3,
    attention_dropout=0.1,
    activation_dropout=0.1,
)


@pytest.mark.parametrize("changes", [{}, {"activation": "swiglu", "positions": "rotary", "norm": "post"}], ids=str)
def test_activations_computed_again_give_the_same_gradient_with_dropout(changes: dict[str, str]) -> None:
    config = replace(SHAPE, **changes)  # type: ignore[arg-type]
    (kept_gradient, kept_bytes), (gradient, few_bytes) = kept(config, False), kept(config, True)
    assert torch.equal(kept_gradient, gradient)
    assert few_bytes < kept_bytes / 3
