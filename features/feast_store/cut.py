"""data/<source>/user_histories, users and times -> each one's newest events known then, as arrays.

The events stay where they are stored, once, in memory-mapped files: no row is kept for every time that may be asked.
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
"""Feature of user_history -> its values at these rows, as the snapshot has them."""
SESSIONS = "sessions"
"""The one array that is read beside its neighbours: from 0 at the first event that is kept."""


def cut_histories(
    folder: Path, user_ids: pa.ChunkedArray, before: Int64, max_length: int, names: list[str]
) -> dict[str, pa.ChunkedArray]:
    """Each row's arrays, oldest first: the newest max_length events strictly before its time; null where none is known.

    folder: user_histories. user_ids: [R]. before: [R] us. names: of ARRAYS, or SESSIONS.
    """
    if unknown := [name for name in names if name not in (*ARRAYS, SESSIONS)]:
        raise InputError(
            f"user_history has no {', '.join(unknown)} as of a time; there are {', '.join((*ARRAYS, SESSIONS))}. "
            "Ask the online store, or add it to features/feast_store/cut.py."
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
    return {name: pa.chunked_array(held) for name, held in pieces.items()}
