from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mt.decoding.candidates import top_tokens


def slow_top_tokens(logits: Tensor, count: int, forbidden_ids: tuple[int, ...]) -> tuple[list, list]:
    """Sorts every row in Python by (higher log-probability, lower id)."""
    all_values, all_ids = [], []
    for row in torch.log_softmax(logits.double(), -1).tolist():
        pairs = [
            (float("-inf") if index in forbidden_ids else value, index) for index, value in enumerate(row)
        ]
        pairs.sort(key=lambda pair: (-pair[0], pair[1]))
        all_values.append([value for value, _ in pairs[:count]])
        all_ids.append([index for _, index in pairs[:count]])
    return all_values, all_ids


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 900),
    count=st.integers(1, 7),
    grid=st.sampled_from([0, 2, 40]),
    seed=st.integers(0, 10_000),
)
def test_same_as_sorting_every_row(rows: int, columns: int, count: int, grid: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    if grid:  # many equal values
        logits = (logits * grid).round() / grid
    forbidden = (0, columns // 2) if columns > 3 else ()
    expected_values, expected_ids = slow_top_tokens(logits, min(count, columns), forbidden)
    values, ids = top_tokens(logits.clone(), count, forbidden)
    torch.testing.assert_close(values, torch.tensor(expected_values, dtype=torch.float64))
    reachable = values > -torch.inf
    assert ids[reachable].tolist() == torch.tensor(expected_ids)[reachable].tolist()


def test_forbidden_classes_keep_their_probability() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0]])
    values, ids = top_tokens(logits, 1, (0, 1))
    assert ids.tolist() == [[2]]
    assert values.item() == pytest.approx(-1.3862944)  # log of a quarter, not of a half
