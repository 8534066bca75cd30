"""The one rule of sessions: gaps, ties, the longest, and what the source itself says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.terms.convention import key_of_text
from features.terms.sessions import NO_SESSION, SessionRule, number_sessions

SECOND = 1_000_000
S1, S2 = key_of_text("s1"), key_of_text("s2")


def sessions(at_s: list[float], keys: list[int] | None = None, max_s: float | None = None, gap_s: float = 60) -> list:
    at = np.array([round(each * SECOND) for each in at_s], np.int64)
    first = np.arange(len(at)) == 0
    key = np.array(keys or [NO_SESSION] * len(at), np.int64)
    return number_sessions(SessionRule.of(gap_s, max_s), first, at, key).tolist()


@pytest.mark.parametrize(
    ("at_s", "gap_s", "expected"),
    [
        ([0, 0.4, 0.9], 0.45, [0, 0, 1]),  # shorter than a second
        ([0, 60, 120.000001], 60, [0, 0, 1]),  # exactly the gap goes on
        ([5, 5, 5], 60, [0, 0, 0]),  # ties
        ([0, 100, 200], 60, [0, 1, 2]),
    ],
)
def test_a_gap_of_more_than_the_limit_ends_a_session(at_s: list[float], gap_s: float, expected: list[int]) -> None:
    assert sessions(at_s, gap_s=gap_s) == expected


def test_a_session_ends_at_the_multiples_of_its_longest_whenever_it_began() -> None:
    assert sessions([0, 50, 99.999999, 100, 150, 200, 300], max_s=100, gap_s=100) == [0, 0, 0, 1, 1, 2, 3]
    assert sessions([99, 100, 101], max_s=100) == [0, 1, 1]
    assert sessions([-1, 0, 1], max_s=100) == [0, 1, 1]  # before 1970 too


def test_what_the_source_says_of_both_neighbours_comes_before_gap_and_length() -> None:
    assert sessions([0, 10, 5000, 5001], [S1, S1, S1, S2], max_s=100) == [0, 0, 0, 1]
    assert sessions([0, 10, 5000], [S1, NO_SESSION, S1]) == [0, 0, 1]  # one side silent: the gap decides


def test_sessions_of_one_source_id_that_overlap_another_part_at_every_change() -> None:
    """A clock that runs late: s2 begins before s1 has ended."""
    assert sessions([0, 5, 6, 9], [S1, S2, S1, S2]) == [0, 1, 2, 3]


def test_users_are_numbered_apart() -> None:
    first, at = np.array([True, False, True, False]), np.array([0, 90, 10, 70], np.int64) * SECOND
    assert number_sessions(SessionRule.of(60, 100), first, at, np.zeros(4, np.int64)).tolist() == [0, 1, 0, 0]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 400), st.sampled_from([NO_SESSION, S1, S2])), min_size=1, max_size=30),
    st.none() | st.integers(1, 120),
    st.integers(1, 90),
    st.data(),
)
def test_the_newest_events_alone_have_the_sessions_that_they_have_in_the_whole(
    events: list[tuple[int, int]], max_s: int | None, gap_s: int, data: st.DataObject
) -> None:
    at, keys = [each[0] for each in sorted(events)], [each[1] for each in sorted(events)]
    cut = data.draw(st.integers(0, len(at) - 1))
    whole = sessions([*at], keys, max_s, gap_s)
    assert sessions([*at[cut:]], keys[cut:], max_s, gap_s) == [each - whole[cut] for each in whole[cut:]]
