"""Histories -> user_events.parquet: the cumulative number of events of each user, for reads as of a time.

Read strictly before t - history.lag_s, it is the end_offset of a request at t: the end of the history it may see.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.schema import TIME
from features.tables.histories import UserHistories

USER_EVENTS = "user_events.parquet"
SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("occurred_at", TIME, nullable=False),
        pa.field("end_offset", pa.int64(), nullable=False),  # the user's events up to and including that time
    ]
)
"""Schema of user_events.parquet: one row per user and time, sorted by both. Valid only with its user_histories."""
EVENTS_AT_ONCE = 1 << 20


def write_event_counts(histories: UserHistories, path: Path) -> int:
    """Write user_events.parquet; about EVENTS_AT_ONCE events are in memory at a time. Returns its rows."""
    num_rows = 0
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for rows in event_count_rows(histories):
            writer.write_table(rows)
            num_rows += len(rows)
    return num_rows


def event_count_rows(histories: UserHistories, first: int = 0, last: int | None = None) -> Iterator[pa.Table]:
    """Its row groups. first, last: only users [first, last), where row groups of all users begin and end; None: to the
    last user."""
    for start, end in users_at_once(histories.offsets, first, last):
        yield _count(histories, start, end)


def users_at_once(offsets: npt.NDArray[np.int64], first: int = 0, last: int | None = None) -> Iterator[tuple[int, int]]:
    """Batches [start, end) of users with at most EVENTS_AT_ONCE events, or of one user with more."""
    last = len(offsets) - 1 if last is None else last
    while first < last:
        full = int(np.searchsorted(offsets, offsets[first] + EVENTS_AT_ONCE, side="right")) - 1
        end = min(last, max(full, first + 1))
        yield first, end
        first = end


def _count(histories: UserHistories, first: int, end: int) -> pa.Table:
    bounds = histories.offsets[first : end + 1]
    at = np.asarray(histories.occurred_at[bounds[0] : bounds[-1]])
    users = np.repeat(np.arange(first, end), np.diff(bounds))
    count = np.arange(len(at)) + bounds[0] - histories.offsets[users] + 1
    last = np.r_[(at[1:] != at[:-1]) | (users[1:] != users[:-1]), True][: len(at)]  # of those at the same time
    names = histories.user_ids.slice(first, end - first).take(pa.array(users[last] - first))
    return pa.table([names, pa.array(at[last]).cast(TIME), pa.array(count[last])], schema=SCHEMA)
