"""What all losses share."""

from __future__ import annotations

import pytest
import torch

from mt.losses.function import highest_class


@pytest.mark.parametrize("vocabulary", [5, 200, 256, 300, 1000])
def test_the_highest_class_is_the_first_of_equal_ones(vocabulary: int) -> None:
    torch.manual_seed(1)
    logits = torch.randn(400, vocabulary)
    assert torch.equal(highest_class(logits), logits.argmax(1))
    tied = torch.randint(0, 3, (400, vocabulary)).float()
    first = [row.index(max(row)) for row in tied.tolist()]
    assert highest_class(tied).tolist() == first
    last = torch.zeros(1, vocabulary).index_fill_(1, torch.tensor([vocabulary - 1]), 1.0)
    assert highest_class(last).tolist() == [vocabulary - 1]
