"""The one rule of sessions: gaps, ties, the longest, and what the source itself says."""

import numpy as np
import pytest

from features.convention import key_of_text
from features.sessions import NO_SESSION, SessionRule, number_sessions

SECOND = 1_000_000
S1, S2 = key_of_text("s1"), key_of_text("s2")


def sessions(at_s: list[float], keys: list[int] | None = None, max_s: float | None = None, gap_s: float = 60) -> list:
    at = np.array([round(each * SECOND) for each in at_s], np.int64)
    first = np.arange(len(at)) == 0
    key = np.array(keys or [NO_SESSION] * len(at), np.int64)
    return number_sessions(SessionRule.of(gap_s, max_s), first, at, key)[0].tolist()


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


def test_a_long_session_is_cut_at_multiples_of_its_length_from_its_first_event() -> None:
    assert sessions([0, 50, 99.999999, 100, 150, 200, 300], max_s=100, gap_s=100) == [0, 0, 0, 1, 1, 2, 3]
    assert sessions([0, 50, 120, 300], max_s=100, gap_s=100) == [0, 0, 1, 2]  # after a gap it is counted anew


def test_what_the_source_says_of_both_neighbours_comes_before_gap_and_length() -> None:
    assert sessions([0, 10, 5000, 5001], [S1, S1, S1, S2], max_s=100) == [0, 0, 0, 1]
    assert sessions([0, 10, 5000], [S1, NO_SESSION, S1]) == [0, 0, 1]  # one side silent: the gap decides


def test_sessions_of_one_source_id_that_overlap_another_part_at_every_change() -> None:
    """A clock that runs late: s2 begins before s1 has ended."""
    assert sessions([0, 5, 6, 9], [S1, S2, S1, S2]) == [0, 1, 2, 3]


def test_users_are_numbered_apart_and_a_cut_history_goes_on_from_where_its_session_began() -> None:
    rule = SessionRule.of(60, 100)
    first = np.array([True, False, True, False])
    at = np.array([0, 90, 10, 70], np.int64) * SECOND
    session, started = number_sessions(rule, first, at, np.zeros(4, np.int64))
    assert session.tolist() == [0, 1, 0, 0]
    assert (started // SECOND).tolist() == [0, 90, 10, 10]
    began = np.array([-20, -40], np.int64) * SECOND
    session, started = number_sessions(rule, first, at, np.zeros(4, np.int64), began)
    assert session.tolist() == [0, 1, 0, 1]
    assert (started // SECOND).tolist() == [-20, 90, -40, -40]
