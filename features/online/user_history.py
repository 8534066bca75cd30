"""Histories -> user_history, one row per user with the newest events, as Feast serves it."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from contracts.schema import FIRST_INDEX, TIME, USER_HISTORY_SNAPSHOT
from features.tables.histories import UserHistories, from_first
from features.terms.slices import ends_before

USERS_AT_ONCE = 4096
EVENTS_AT_ONCE = 2_000_000


def user_history_rows(
    histories: UserHistories, max_length: int, before_us: int | None = None, first: int = 0, last: int | None = None
) -> Iterator[pa.Table]:
    """Batches of USER_HISTORY_SNAPSHOT rows: the newest max_length events of every user who has any.

    before_us: only events strictly before this time (us); None: all.
    first, last: only users [first, last), where batches of all users begin and end; None: the last user too.
    """
    item_ids = histories.vocabulary["item_id"].combine_chunks()
    for start, end in users_at_once(histories.offsets, first, last):
        starts, ends = histories.offsets[start:end], histories.offsets[start + 1 : end + 1]
        if before_us is not None:
            ends = ends_before(histories.occurred_at, starts, ends, np.full(len(ends), before_us))
        lengths = ends - starts
        users = np.flatnonzero(lengths)
        kept = np.minimum(lengths, max_length)[users]
        bounds = np.r_[0, np.cumsum(kept)]
        rows = np.arange(bounds[-1]) + np.repeat(ends[users] - bounds[1:], kept)
        columns = {
            "item_ids": item_ids.take(pa.array(histories.item_index[rows] - FIRST_INDEX)),
            "occurred_at": pa.array(histories.occurred_at[rows]),
            "labels": pa.array(histories.label[rows]),
            "sessions": pa.array(from_first(histories.session[rows], bounds)),
            "event_keys": pa.array(histories.event_key[rows]),
            "session_keys": pa.array(histories.session_key[rows]),
        }
        lists = [pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), column) for column in columns.values()]
        newest = pa.array(histories.occurred_at[ends[users] - 1]).cast(TIME)
        names = histories.user_ids.slice(start, end - start).take(pa.array(users)).combine_chunks()
        yield pa.table([names, newest, *lists], schema=USER_HISTORY_SNAPSHOT)


def users_at_once(offsets: npt.NDArray[np.int64], first: int = 0, last: int | None = None) -> Iterator[tuple[int, int]]:
    """Batches [start, end) of at most USERS_AT_ONCE users and EVENTS_AT_ONCE events, or of one user with more."""
    last = len(offsets) - 1 if last is None else last
    while first < last:
        full = int(np.searchsorted(offsets, offsets[first] + EVENTS_AT_ONCE, side="right")) - 1
        end = min(first + USERS_AT_ONCE, last, max(full, first + 1))
        yield first, end
        first = end
