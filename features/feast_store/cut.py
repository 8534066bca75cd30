"""data/<source>/user_histories, users and times -> each user's newest events as of the time, as arrays.

Events are stored once, in memory-mapped files; histories as of any time are cut from these.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from contracts.errors import InputError
from contracts.schema import FIRST_INDEX
from features.feast_store.as_of_join import LISTS_AT_ONCE
from features.tables.histories import UserHistories, from_first
from features.terms.slices import ends_before, positions

Int64 = npt.NDArray[np.int64]

ARRAYS: dict[str, Callable[[UserHistories, Int64], pa.Array]] = {
    "item_ids": lambda stored, rows: (
        stored.vocabulary["item_id"].combine_chunks().take(pa.array(stored.item_index[rows] - FIRST_INDEX))
    ),
    "occurred_at": lambda stored, rows: pa.array(stored.occurred_at[rows]),
    "labels": lambda stored, rows: pa.array(stored.label[rows]),
    "event_keys": lambda stored, rows: pa.array(stored.event_key[rows]),
    "session_keys": lambda stored, rows: pa.array(stored.session_key[rows]),
}
"""Feature of user_history -> (histories, event rows) -> its values, as in the snapshot."""
SESSIONS = "sessions"
"""The one array whose values depend on the cut: sessions are numbered from 0 at the first event of the result."""


def cut_histories(
    folder: Path, user_ids: pa.ChunkedArray, before: Int64, max_length: int, names: list[str]
) -> dict[str, pa.ChunkedArray]:
    """Per row the newest max_length events strictly before its time, oldest first; null if there are none.

    folder: user_histories. user_ids: [R]. before: [R] us. names: keys of ARRAYS, or SESSIONS.
    """
    if unknown := [name for name in names if name not in (*ARRAYS, SESSIONS)]:
        raise InputError(
            f"user_history has no historical {', '.join(unknown)}, only {', '.join((*ARRAYS, SESSIONS))}. "
            "Read it from the online store, or add it to features/feast_store/cut.py."
        )
    stored = UserHistories.open(folder)
    ids = user_ids.cast(stored.user_ids.type)
    found = pc.call_function("index_in", [ids], pc.SetLookupOptions(value_set=stored.user_ids, skip_nulls=True))
    known = found.is_valid().to_numpy() & (len(stored.occurred_at) > 0)
    users = found.fill_null(0).to_numpy().astype(np.int64)
    starts, ends = np.zeros((2, len(users)), np.int64)
    starts[known], ends[known] = stored.offsets[users[known]], stored.offsets[users[known] + 1]
    ends[known] = ends_before(stored.occurred_at, starts[known], ends[known], before[known])
    starts = np.maximum(starts, ends - max_length)
    pieces: dict[str, list[pa.Array]] = {name: [] for name in names}
    for first in range(0, max(len(starts), 1), LISTS_AT_ONCE):
        rows = slice(first, first + LISTS_AT_ONCE)
        counts = ends[rows] - starts[rows]
        offsets, events = np.r_[0, np.cumsum(counts)], positions(starts[rows], counts)
        none = pa.array(starts[rows] == ends[rows])
        for name in names:
            if name == SESSIONS:
                values = pa.array(from_first(stored.session[events], offsets))
            else:
                values = ARRAYS[name](stored, events)
            pieces[name].append(pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, mask=none))
    return {name: pa.chunked_array(arrays) for name, arrays in pieces.items()}
