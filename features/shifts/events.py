"""Histories and sessions -> the events of the whole log and their sessions, as arrays in order of (user, time)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.schema import FIRST_INDEX
from features.tables.histories import UserHistories

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Events:
    """Arrays over events [E], and over sessions [S]."""

    item: Int64  # [E] place in the vocabulary
    user: Int64  # [E] ascending
    session: Int64  # [E] ascending
    num_events: Int64  # [S]
    of_user: Int64  # [S]
    started: Int64  # [S] us
    ended: Int64  # [S] us

    @classmethod
    def read(cls, data: Path, histories: UserHistories) -> "Events":
        """histories: of data/user_histories."""
        sessions = pq.read_table(data / "sessions" / "sessions.parquet")
        num_events = sessions["num_events"].to_numpy().astype(np.int64)
        return cls(
            np.asarray(histories.item_index).astype(np.int64) - FIRST_INDEX,
            np.repeat(np.arange(len(histories.offsets) - 1), np.diff(histories.offsets)),
            np.repeat(np.arange(len(num_events)), num_events),
            num_events,
            sessions["user_index"].to_numpy().astype(np.int64),
            *(sessions[name].cast(pa.int64()).to_numpy() for name in ("started_at", "ended_at")),
        )
