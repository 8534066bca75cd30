"""Blocks and offsets by bisection and doubling are what going through the events one by one gives."""

import numpy as np
import pytest

from features.history.blocks import block_starts, end_offsets


def random_events(seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    user = np.sort(random.integers(0, 5, 200))
    at = random.integers(0, 300, 200)
    return user, at[np.lexsort((at, user))]


@pytest.mark.parametrize(("size", "span"), [(1, 10), (3, 10), (8, 40), (500, 1000), (4, 0)])
def test_blocks_begin_where_counting_says(size: int, span: int) -> None:
    user, at = random_events(size)
    expected = [0]
    for row in range(1, len(user)):
        start = expected[-1]
        if user[row] != user[start] or row - start == size or at[row] - at[start] > span:
            expected.append(row)
    assert block_starts(user, at, size, span).tolist() == expected


def test_no_events_have_no_blocks() -> None:
    assert block_starts(np.zeros(0, np.int32), np.zeros(0, np.int64), 8, 600).tolist() == []


def test_offsets_count_what_is_strictly_before() -> None:
    user, at = random_events(1)
    offsets = np.searchsorted(user, np.arange(7))  # user 5 has no event
    asked = np.repeat(np.arange(6), 50)
    times = np.tile(np.arange(-10, 340, 7), 6)
    expected = [sum(at[user == one] < when) for one, when in zip(asked, times, strict=True)]
    assert end_offsets(at, offsets, asked, times).tolist() == expected
