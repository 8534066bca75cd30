"""impressions/ -> what all requests have once, or the rows of chosen ones, for those who need few candidates.

Files are decoded batch by batch, so memory holds what is returned and one batch, whatever the log's size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

Ints = npt.NDArray[np.integer]

DECODED_AT_ONCE = 1 << 16
"""Rows of a batch."""
ROWS, NAMES = Path("impressions", "impressions.parquet"), Path("impressions", "requests.parquet")
"""In data/<source>. NAMES has a row for each request, at its request_index."""


@dataclass(frozen=True)
class StoredRequests:
    """R requests in the order of the file, which is that of request_index, without their candidates."""

    request_index: npt.NDArray[np.int32]  # [R]
    user_index: npt.NDArray[np.int32]  # [R]
    at: npt.NDArray[np.int64]  # [R] us
    end_offset: npt.NDArray[np.int32]  # [R]
    row_starts: npt.NDArray[np.int64]  # [R + 1] request r's candidates are rows [row_starts[r], row_starts[r + 1])

    @classmethod
    def read(cls, data: Path) -> "StoredRequests":
        """All requests: 28 bytes each are kept, and twice as many while they are joined."""
        kinds = {"request_index": np.int32, "user_index": np.int32, "occurred_at": np.int64, "end_offset": np.int32}
        found: dict[str, list[npt.NDArray[Any]]] = {name: [np.zeros(0, kind)] for name, kind in kinds.items()}
        starts, num_rows, before = [np.zeros(0, np.int64)], 0, -1
        for batch in _batches(data / ROWS, list(kinds)):
            index = batch["request_index"].to_numpy()
            first = np.flatnonzero(np.diff(index, prepend=before))
            for name, parts in found.items():
                parts.append(_numbers(batch[name])[first])
            starts.append(first + num_rows)
            num_rows, before = num_rows + len(index), int(index[-1])
        return cls(
            request_index=np.concatenate(found["request_index"]),
            user_index=np.concatenate(found["user_index"]),
            at=np.concatenate(found["occurred_at"]),
            end_offset=np.concatenate(found["end_offset"]),
            row_starts=np.concatenate([*starts, [num_rows]]),
        )


def ranges(first: Ints, end: Ints) -> tuple[Ints, Ints]:
    """All positions of the ranges [first, end), one after the other, and where each begins among them, and the end."""
    starts = np.concatenate([[0], np.cumsum(end - first)])
    return np.arange(starts[-1]) + np.repeat(first - starts[:-1], end - first), starts


def read_rows(path: Path, columns: list[str], positions: Ints) -> pa.Table:
    """The rows of a file at these positions, which ascend. Row groups without any of them are not read."""
    found, first = [], 0
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        for group in range(file.num_row_groups):
            end = first + file.metadata.row_group(group).num_rows
            if np.searchsorted(positions, first) < np.searchsorted(positions, end):
                for batch in file.iter_batches(DECODED_AT_ONCE, row_groups=[group], columns=columns):
                    here = slice(*np.searchsorted(positions, [first, first + len(batch)]))
                    if here.start < here.stop:
                        found.append(batch.select(columns).take(pa.array(positions[here] - first)))
                    first += len(batch)
            first = end
    return pa.Table.from_batches(found, pa.schema([schema.field(name) for name in columns]))


def _batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        yield from (batch for batch in file.iter_batches(DECODED_AT_ONCE, columns=columns) if len(batch))


def _numbers(column: pa.Array) -> npt.NDArray[Any]:
    """Times as us."""
    return (pc.cast(column, pa.int64()) if pa.types.is_timestamp(column.type) else column).to_numpy()
