"""Whole users' rows in order of time -> blocks that stand in for requests, and each request's end_offset. numpy."""

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Ints = npt.NDArray[np.integer]


def first_not_before(occurred_at: Ints, low: Ints, high: Ints, at: Ints) -> Int64:
    """[R] the first row of [low, high) whose time is at or after `at`; high where there is none.

    occurred_at: ascending within each [low, high). All R are bisected together.
    """
    low, high = np.array(low, np.int64), np.array(high, np.int64)
    open_ = np.flatnonzero(low < high)
    while len(open_):
        middle = (low[open_] + high[open_]) // 2
        before = occurred_at[middle] < at[open_]
        low[open_[before]] = middle[before] + 1
        high[open_[~before]] = middle[~before]
        open_ = open_[low[open_] < high[open_]]
    return low


def end_offsets(occurred_at: Ints, offsets: Ints, user: Ints, at: Ints) -> Int64:
    """[R] number of the user's events strictly before `at`.

    user: [R] user of each request. offsets: user u's events are rows offsets[u] to offsets[u + 1] of occurred_at,
    oldest first.
    """
    starts = offsets[user]
    return first_not_before(occurred_at, starts, offsets[user + 1], at) - starts


def block_starts(user_index: Ints, occurred_at: Ints, size: int, span_us: int) -> Int64:
    """Starts of blocks: a block has up to `size` events of one user within `span_us` of its first event.

    user_index, occurred_at (us): events sorted by (user, time).
    """
    num_events = len(user_index)
    if not num_events:
        return np.zeros(0, np.int64)
    opens = np.flatnonzero(np.r_[True, user_index[1:] != user_index[:-1]])
    ends = np.r_[opens[1:], num_events]
    places = np.arange(num_events)
    user_end = np.repeat(ends, ends - opens)
    after = first_not_before(occurred_at, places + 1, np.minimum(places + size, user_end), occurred_at + span_us + 1)
    return _reached(after, opens, int((ends - opens).max()))


def _reached(after: Int64, opens: Int64, longest: int) -> Int64:
    """Every block begins where the one before ends: all places reached from `opens` by following `after`.

    By doubling: after k rounds all places within 2^k steps are marked, and `after` leads 2^k steps ahead.
    """
    num_places = len(after)
    marked = np.zeros(num_places + 1, bool)
    marked[opens] = True
    after = np.r_[after, num_places]
    reached = 1
    while reached < longest:
        marked[after[marked]] = True
        after = after[after]
        reached *= 2
    return np.flatnonzero(marked[:-1])
