"""user_histories/ -> flat, memory-mapped events with each user's offsets; and the writer that fills them."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.publish import write_json
from features.tables.arrow_file import read_arrow, store_arrow

ARRAYS: dict[str, type[np.generic]] = {
    "item_index": np.int32,
    "occurred_at": np.int64,  # microseconds, from when on it counts: features/terms/known.py
    "label": np.float32,
    "session": np.int32,  # per user, from 0
    "event_key": np.int64,  # convention.key_of_text of the event_id
    "session_key": np.int64,  # of the source's session_id; 0 where it has none
}
RETENTION = "retention.json"
"""log_end_us: the newest time in valid rows. keep_from_us: earlier events were dropped; null: none were."""
LENGTHS = "lengths.npy"
MAPPED_USERS, MAPPED_ITEMS = "users.arrow", "vocabulary.arrow"
"""What `store_ids` writes: user_ids and the vocabulary."""
COPIED = 1 << 22
HEADER = 128
"""Bytes before the data of a flat .npy file: numpy leaves room for any length."""


@dataclass(frozen=True)
class UserHistories:
    """Every user's events: those of user u are rows offsets[u] to offsets[u + 1], oldest first."""

    item_index: npt.NDArray[np.int32]
    occurred_at: npt.NDArray[np.int64]
    label: npt.NDArray[np.float32]
    session: npt.NDArray[np.int32]
    event_key: npt.NDArray[np.int64]
    session_key: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]  # [num_users + 1]
    user_ids: pa.ChunkedArray  # position = user_index
    vocabulary: pa.Table  # contracts.schema.VOCABULARY; position = item_index - FIRST_INDEX
    log_end_us: int  # the newest time in valid rows, whether or not it is in a history
    keep_from_us: int | None  # earlier events were dropped (history.retention_s); None: none were

    @classmethod
    def open(cls, folder: Path, ids: Path | None = None) -> "UserHistories":
        """Map the arrays of data/<source>/user_histories into memory; nothing is read until it is touched.

        ids: the folder of `store_ids`, from which the ids and offsets are mapped too; None: those are read.
        """
        arrays: dict[str, Any] = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
        users = pq.read_table(folder / "users.parquet") if ids is None else read_arrow(ids / MAPPED_USERS)
        items = pq.read_table(folder / "vocabulary.parquet") if ids is None else read_arrow(ids / MAPPED_ITEMS)
        return cls(
            **arrays,
            offsets=np.load(folder / "offsets.npy", mmap_mode=None if ids is None else "r"),
            user_ids=users["user_id"],
            vocabulary=items,
            **json.loads((folder / RETENTION).read_text(encoding="utf-8")),
        )

    def store_ids(self, folder: Path) -> None:
        """Write the ids where those who need few of them map them into memory: `open` of the same histories."""
        store_arrow(pa.table({"user_id": self.user_ids}), folder / MAPPED_USERS)
        store_arrow(self.vocabulary, folder / MAPPED_ITEMS)


def from_first(session: npt.NDArray[np.integer], bounds: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """[E] session numbers of concatenated lists of events, renumbered from 0 at each list's first event.

    bounds: [R + 1] start of each list, and the end. The numbers do not depend on older events that a list lacks.
    """
    lengths = np.diff(bounds)
    firsts = session[np.minimum(bounds[:-1], max(len(session) - 1, 0))] if len(session) else np.zeros(len(lengths))
    return session.astype(np.int64) - np.repeat(firsts.astype(np.int64), lengths)


def write_part(folder: Path, lengths: npt.NDArray[np.int64], events: dict[str, npt.NDArray[Any]]) -> None:
    """Write some users for `HistoryWriter.append`. lengths: events of each; events: theirs, by (user, time)."""
    for name, dtype in ARRAYS.items():
        assert len(events[name]) == lengths.sum(), name
        events[name].astype(dtype, copy=False).tofile(folder / f"{name}.bin")
    np.save(folder / LENGTHS, lengths)


class HistoryWriter:
    """Joins parts, user by user, into growing files, so that memory holds no part."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._num_events = 0
        self._lengths: list[npt.NDArray[np.int64]] = []
        self._files = {name: (folder / f"{name}.npy").open("w+b") for name in ARRAYS}
        for name in ARRAYS:
            self._write_header(name)

    def append(self, part: Path) -> int:
        """Add the next users, from a folder that `write_part` filled; returns their number of events."""
        lengths = np.load(part / LENGTHS)
        self._lengths.append(lengths)
        num_events = int(lengths.sum())
        self._num_events += num_events
        for name, file in self._files.items():
            with (part / f"{name}.bin").open("rb") as written:
                shutil.copyfileobj(written, file, COPIED)
            (part / f"{name}.bin").unlink()  # the disk holds it once
            assert file.tell() == HEADER + self._num_events * np.dtype(ARRAYS[name]).itemsize, name
        return num_events

    def close(self, retention: dict[str, int | None]) -> npt.NDArray[np.int64]:
        """Write the offsets and the retention (RETENTION); returns each user's number of events."""
        for name, file in self._files.items():
            file.flush()
            self._write_header(name)  # as long as the one before, whatever the number
            file.close()
        lengths = np.concatenate([np.zeros(0, np.int64), *self._lengths])
        np.save(self._folder / "offsets.npy", np.r_[0, np.cumsum(lengths)].astype(np.int64))
        write_json(self._folder / RETENTION, retention)
        return lengths

    def _write_header(self, name: str) -> None:
        file, dtype = self._files[name], np.dtype(ARRAYS[name])
        file.seek(0)
        described = {"descr": dtype.str, "fortran_order": False, "shape": (self._num_events,)}
        np.lib.format.write_array_header_1_0(file, described)
        assert file.tell() == HEADER, (name, file.tell())
        file.flush()
