"""Calibration of all classes, against the definitions in plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mt.metrics import ClassMeasures


def distributions(tokens: int, classes: int, seed: int, sharpness: float = 2.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(tokens, classes, generator=generator, dtype=torch.float64) * sharpness
    log_probs = logits.log_softmax(-1)
    return log_probs, torch.multinomial(log_probs.exp(), 1, generator=generator)[:, 0]


def bin_of(p: float, bins: int, edges: str) -> int:
    for m in range(bins):
        low, high = m / bins, (m + 1) / bins
        if edges == "(l,r]" and (low < p <= high or (m == 0 and p == 0)):
            return m
        if edges == "[l,r)" and (low <= p < high or (m == bins - 1 and p >= 1)):
            return m
    raise AssertionError(p)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 12), st.integers(2, 9), st.integers(1, 7), st.sampled_from(["(l,r]", "[l,r)"]), st.integers(0, 99)
)
def test_both_errors_are_their_definitions(tokens: int, size: int, bins: int, edges: str, seed: int) -> None:
    log_probs, targets = distributions(tokens, size, seed)
    weighted, classwise = np.zeros(bins), np.zeros((size, bins))
    for row, gold in zip(log_probs.exp().tolist(), targets.tolist()):
        for k, p in enumerate(row):
            gap = (k == gold) - p
            weighted[bin_of(p, bins, edges)] += p * gap
            classwise[k, bin_of(p, bins, edges)] += gap
    chosen = [size - 1, 0]
    merged = ClassMeasures(bins=bins, edges=edges, classes=chosen)
    for part in torch.arange(tokens).split(4):
        piece = ClassMeasures(bins=bins, edges=edges, classes=chosen)
        piece.update(log_probs[part], targets[part])
        merged.merge(piece)
    result = merged.result()
    assert result["weighted_ece"] == pytest.approx(np.abs(weighted).sum() / tokens, abs=1e-12)
    expected = [np.abs(classwise[k]).sum() / tokens for k in chosen]
    assert result["classwise"] == pytest.approx(expected, abs=1e-12)
    assert result["classwise_ece"] == pytest.approx(np.mean(expected), abs=1e-12)


def test_float32_over_a_large_vocabulary_is_as_good() -> None:
    log_probs, targets = distributions(400, 3000, seed=1, sharpness=3.0)
    wide, narrow = ClassMeasures(classes=range(50)), ClassMeasures(classes=range(50))
    wide.update(log_probs, targets)
    narrow.update(log_probs.float(), targets)
    for name in ("weighted_ece", "classwise_ece"):
        assert narrow.result()[name] == pytest.approx(wide.result()[name], abs=1e-6)


def test_calibrated_distributions_have_small_errors_and_sharpened_ones_have_not() -> None:
    log_probs, targets = distributions(20_000, 10, seed=2)
    true, sharpened = ClassMeasures(classes=range(10)), ClassMeasures(classes=range(10))
    true.update(log_probs, targets)
    sharpened.update((log_probs * 1.5).log_softmax(-1), targets)
    assert true.result()["weighted_ece"] < 0.01 and true.result()["classwise_ece"] < 0.005
    assert sharpened.result()["weighted_ece"] > 0.06


def test_nothing_counted_is_unknown_and_other_classes_are_refused() -> None:
    nothing = ClassMeasures(classes=[1, 2])
    assert nothing.result() == {"weighted_ece": None, "classwise_ece": None, "classwise": []}
    with pytest.raises(ValueError, match="differ"):
        nothing.merge(ClassMeasures(classes=[1]))
