"""Counters of users -> user_state, one row per user with all their counts, as Feast serves it."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from contracts.schema import TIME
from features.encoding.counters import Counters
from features.encoding.user_counts import rows_of_users
from features.online.counters_by_user import USERS_AT_ONCE, UserCounters
from features.terms.convention import counted_at

USER_STATE = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("event_timestamp", TIME, nullable=False),  # time of the user's newest count
        pa.field("counts", pa.binary(), nullable=False),  # features/encoding/user_counts.py
    ]
)
"""user_state.parquet, sorted by user_id."""


def user_state_rows(
    counters: Counters, item_ids: Sequence[str], user_ids: pa.Array | pa.ChunkedArray
) -> Iterator[pa.Table]:
    """Batches of rows of users with counts. item_ids, user_ids: their positions are the counters' keys."""
    for first in range(0, len(user_ids), USERS_AT_ONCE):
        yield from _batch([_rows(counters, item_ids, user_ids, first, first + USERS_AT_ONCE)])


def user_state_of(counted: UserCounters, first: int, last: int, before_us: int | None = None) -> Iterator[pa.Table]:
    """The same batches of users [first, last), of which first begins a batch, with the counters of a few in memory.

    before_us: of rows strictly before this time (us); None: of all.
    """
    item_ids, user_ids = counted.item_ids().to_pylist(), counted.user_ids()
    for few in counted.batches(first, last, before_us):
        yield from _batch(_rows(counters, item_ids, user_ids, *users) for users, counters in few)


def user_state_before(counted: UserCounters, at_us: int, bucket_us: int) -> Iterator[pa.Table]:
    """The batches of all users as of a time, of the rows that Counters.before keeps."""
    yield from user_state_of(counted, 0, counted.num_users, counted_at(at_us - 1, bucket_us) + 1)


def _batch(parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """One table of all rows; none where there are none."""
    found = [part for part in parts if len(part)]
    if found:
        yield pa.concat_tables(found).combine_chunks()


def _rows(
    counters: Counters, item_ids: Sequence[str], user_ids: pa.Array | pa.ChunkedArray, first: int, last: int
) -> pa.Table:
    rows = list(rows_of_users(counters, item_ids.__getitem__, first, last))
    if not rows:
        return USER_STATE.empty_table()
    keys, newest, counts = zip(*rows, strict=True)
    ids = user_ids.slice(first, last - first).take(pa.array(np.array(keys, np.int64) - first))
    columns = [ids.cast(pa.string()), pa.array(np.array(newest, np.int64)).cast(TIME), pa.array(counts, pa.binary())]
    return pa.table(columns, schema=USER_STATE)
