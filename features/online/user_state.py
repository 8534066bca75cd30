"""Counters of all users -> user_state, one row per user with all their counts, as Feast serves it."""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from contracts.schema import TIME
from features.encoding.counters import Counters
from features.encoding.user_counts import rows_of_users

USER_STATE = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("event_timestamp", TIME, nullable=False),  # time of the user's newest count
        pa.field("counts", pa.binary(), nullable=False),  # features/encoding/user_counts.py
    ]
)
"""user_state.parquet, sorted by user_id."""
USERS_AT_ONCE = 4096


def user_state_rows(
    counters: Counters, item_ids: Sequence[str], user_ids: pa.Array | pa.ChunkedArray
) -> Iterator[pa.Table]:
    """Batches of rows of users with counts. item_ids, user_ids: their positions are the counters' keys."""
    for first in range(0, len(user_ids), USERS_AT_ONCE):
        rows = list(rows_of_users(counters, item_ids.__getitem__, first, first + USERS_AT_ONCE))
        if rows:
            keys, newest, counts = zip(*rows, strict=True)
            ids = user_ids.take(pa.array(keys, pa.int64()))
            names = pa.array(ids.to_pylist(), pa.string())
            columns = [names, pa.array(np.array(newest, np.int64)).cast(TIME), pa.array(counts, pa.binary())]
            yield pa.table(columns, schema=USER_STATE)
