from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mt.decoding.grouping import length_groups, padded


@given(lengths=st.lists(st.integers(1, 50)), most=st.integers(1, 200))
def test_groups_hold_every_index_once_within_the_budget(lengths: list[int], most: int) -> None:
    groups = length_groups(lengths, most)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[index] for index in group) <= most


def test_groups_go_from_long_to_short_and_keep_order_among_equals() -> None:
    assert length_groups([3, 9, 3, 9, 1], 18) == [[1, 3], [0, 2, 4]]


def test_rows_are_padded_on_the_right() -> None:
    assert padded([[5, 6, 7], [8]], 0, "cpu").tolist() == [[5, 6, 7], [8, 0, 0]]
