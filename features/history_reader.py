"""user_histories/ -> flat, memory-mapped events with each user's offsets; and the writer that fills them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

ARRAYS: dict[str, type[np.generic]] = {
    "item_index": np.int32,
    "occurred_at": np.int64,  # microseconds
    "label": np.float32,
    "session": np.int32,  # per user, from 0
}


@dataclass(frozen=True)
class UserHistories:
    """Every user's events: those of user u are rows offsets[u] to offsets[u + 1], oldest first."""

    item_index: npt.NDArray[np.int32]
    occurred_at: npt.NDArray[np.int64]
    label: npt.NDArray[np.float32]
    session: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]  # [num_users + 1]
    user_ids: pa.ChunkedArray  # position = user_index
    vocabulary: pa.Table  # contracts.schema.VOCABULARY; position = item_index - FIRST_INDEX

    @classmethod
    def open(cls, folder: Path) -> "UserHistories":
        """Map the arrays of data/<source>/user_histories into memory; nothing is read until it is touched."""
        arrays: dict[str, Any] = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
        return cls(
            **arrays,
            offsets=np.load(folder / "offsets.npy"),
            user_ids=pq.read_table(folder / "users.parquet")["user_id"],
            vocabulary=pq.read_table(folder / "vocabulary.parquet"),
        )


class HistoryWriter:
    """Fills the arrays user by user. Their sizes are known beforehand, so memory holds one piece at a time."""

    def __init__(self, folder: Path, lengths: npt.NDArray[np.int64]) -> None:
        """lengths: [num_users] events of each user."""
        self.offsets = np.r_[0, np.cumsum(lengths)].astype(np.int64)
        self._filled = 0
        np.save(folder / "offsets.npy", self.offsets)
        self._arrays = {
            name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, (int(self.offsets[-1]),))
            for name, dtype in ARRAYS.items()
            if self.offsets[-1]
        }
        for name, dtype in ARRAYS.items():
            if not self.offsets[-1]:  # an empty file cannot be mapped
                np.save(folder / f"{name}.npy", np.zeros(0, dtype))

    def append(self, events: dict[str, npt.NDArray[Any]]) -> None:
        """Add the events of the next users, in order of (user, time)."""
        end = self._filled + len(events["occurred_at"])
        for name, array in self._arrays.items():
            array[self._filled : end] = events[name]
        self._filled = end

    def close(self) -> None:
        """Write out what is still in memory; every event announced must have come."""
        assert self._filled == self.offsets[-1], (self._filled, self.offsets[-1])
        for array in self._arrays.values():
            array.flush()
