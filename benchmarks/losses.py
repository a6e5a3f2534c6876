"""The fused projection and loss against torch's own, forward and backward."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.nn import functional

from benchmarks.measure import Case, Work, measure
from mt.config import LossConfig
from mt.losses import build_loss, projected_loss

__all__ = ["cases", "measure"]

TOKENS, WIDTH, SMOOTHING = 4096, 512, 0.1
BASELINE = "F.cross_entropy(F.linear(h, W), y, label_smoothing=0.1).backward()"


def cases(keep_memory: bool = False) -> dict[str, Case]:
    """The comparisons by name: each loss at two sizes of the vocabulary. keep_memory: see `Case`."""
    common: dict[str, Any] = {"smoothing": SMOOTHING, "definition": "uniform"}
    found = {}
    for vocabulary in (10_000, 32_000):
        for config in (LossConfig(**common), LossConfig(name="encouraging", exclude_special=False, **common)):
            settings = {
                "baseline": BASELINE,
                "tokens": TOKENS,
                "width": WIDTH,
                "vocabulary": vocabulary,
                "dtype": "float32",
                "unit": "tokens/s, forward and backward",
            }
            name, work = f"{config.name}_{vocabulary}", partial(prepare, config=config, vocabulary=vocabulary)
            found[name] = Case(name, work, TOKENS, settings, keep_memory)
    return found


def prepare(
    device: str, *, config: LossConfig, vocabulary: int, tokens: int = TOKENS, width: int = WIDTH
) -> tuple[Work, Work]:
    """Ours and the baseline on the same random hidden states (tokens, width), matrix (vocabulary, width), targets."""
    torch.manual_seed(1)
    hidden = torch.randn(tokens, width, device=device, requires_grad=True)
    weight = (torch.randn(vocabulary, width, device=device) / width**0.5).requires_grad_()
    targets = torch.randint(4, vocabulary, (tokens,), device=device)
    loss = build_loss(config, pad_id=0, begin_id=2, vocabulary_size=vocabulary)

    def step(compute: Any) -> None:
        hidden.grad = weight.grad = None
        compute().backward()

    def ours() -> Any:
        return projected_loss(hidden, weight, None, targets, loss=loss, pad_id=0).loss / tokens

    def baseline() -> Any:
        return functional.cross_entropy(functional.linear(hidden, weight), targets, label_smoothing=SMOOTHING)

    return lambda: step(ours), lambda: step(baseline)
