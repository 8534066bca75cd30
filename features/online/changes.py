"""Rows of a snapshot and of the previous load -> rows to write and to remove, whatever the store.

Rows are compared by a digest of their features: 16 bytes of SHA-256 over the row's bytes in the Arrow buffers, lengths
and nulls included.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import and_
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

DIGEST_BYTES = 16
UNKNOWN = bytes(DIGEST_BYTES)
"""The digest of a row whose features are not known; no other row has it."""
ROWS_AT_ONCE = 65_536
"""Rows of a row group, so that a range of ids is found without reading the others."""
SCHEMA = pa.schema([("id", pa.string()), ("digest", pa.binary(DIGEST_BYTES)), ("at", pa.int64())])


@dataclass(frozen=True)
class ViewRows:
    """Ids, digests and times of a view's rows, without the features themselves."""

    table: pa.Table  # SCHEMA; at: the row's event_timestamp in microseconds

    @classmethod
    def of(cls, table: pa.Table, key: str, stamp: str) -> "ViewRows":
        """table: part of a snapshot. key: its column of distinct ids. stamp: its column of times."""
        features = table.drop_columns([key, stamp])
        digests = pa.array(_digests(features), pa.binary(DIGEST_BYTES))
        at = table[stamp].cast(pa.timestamp("us", "UTC")).cast(pa.int64())
        return cls(pa.table([table[key], digests, at], schema=SCHEMA))

    @classmethod
    def none(cls) -> "ViewRows":
        """No rows, as before the first load."""
        return cls(SCHEMA.empty_table())

    @classmethod
    def unknown(cls, ids: pa.Array) -> "ViewRows":
        """Rows of which only the ids are known, in their order."""
        digests = pa.repeat(pa.scalar(UNKNOWN, pa.binary(DIGEST_BYTES)), len(ids))
        table = pa.table([ids, digests, pa.repeat(pa.scalar(0, pa.int64()), len(ids))], schema=SCHEMA)
        return cls(table.sort_by("id"))

    @classmethod
    def read(cls, path: Path, first: str | None = None, end: str | None = None) -> "ViewRows":
        """Read what `rows_file` wrote. first, end: only ids from first on, and before end; None: no bound."""
        bounds = [ds.field("id") >= first] if first is not None else []
        bounds += [ds.field("id") < end] if end is not None else []
        return cls(pq.read_table(path, schema=SCHEMA, filters=reduce(and_, bounds) if bounds else None))


@contextmanager
def rows_file(path: Path) -> Iterator[Callable[[ViewRows], None]]:
    """Open a Parquet file to which rows are appended; they come in order of their ids."""
    with pq.ParquetWriter(path, SCHEMA, use_dictionary=False, compression="none") as writer:
        yield lambda rows: writer.write_table(rows.table, row_group_size=ROWS_AT_ONCE)


class Changes(NamedTuple):
    """Masks over rows of a snapshot."""

    written: Bool  # new or changed
    replaced: Bool  # those of them that the previous load has
    restamped: Bool  # with the same features but another time


class Difference:
    """Compares rows of a snapshot, given in pieces, with those of the previous load that have ids in the same range."""

    def __init__(self, before: ViewRows) -> None:
        self._before = before.table.combine_chunks()
        self._seen = np.zeros(len(self._before), bool)

    def compare(self, rows: ViewRows) -> Changes:
        """What is to be done with each row."""
        place = pc.call_function("index_in", [rows.table["id"]], pc.SetLookupOptions(value_set=self._before["id"]))
        place = place.fill_null(-1).to_numpy().astype(np.int64)
        known = place >= 0
        self._seen[place[known]] = True
        same, timely = known.copy(), known.copy()
        same[known] = _equal(rows.table["digest"], self._before["digest"], known, place)
        timely[known] = _equal(rows.table["at"], self._before["at"], known, place)
        return Changes(written=~same, replaced=known & ~same, restamped=same & ~timely)

    def gone(self) -> list[str]:
        """Ids of the previous load that no compared piece has."""
        return self._before["id"].filter(pa.array(~self._seen)).to_pylist()


def _equal(new: pa.ChunkedArray, before: pa.ChunkedArray, known: Bool, place: Int64) -> Bool:
    ours, theirs = new.filter(pa.array(known)), before.take(pa.array(place[known]))
    return pc.call_function("equal", [ours, theirs]).to_numpy().astype(bool)


def _digests(table: pa.Table) -> list[bytes]:
    """One digest per row."""
    pieces = []
    for column in table.columns:
        whole = column.combine_chunks()
        whole = pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole
        pieces += _pieces(whole, np.arange(len(table) + 1))
    digests = []
    for row in range(len(table)):
        digest = hashlib.sha256(usedforsecurity=False)
        for view, bounds in pieces:
            digest.update(view[bounds[row] : bounds[row + 1]])
        digests.append(digest.digest()[:DIGEST_BYTES])
    return digests


def _pieces(array: pa.Array, bounds: Int64) -> Iterator[tuple[memoryview, list[int]]]:
    """The buffers of a column, each with the byte offsets of its rows (one more than rows).

    bounds: the offsets in elements of the array. The lengths of lists and texts come before their content, so that
    different rows never have the same bytes.
    """
    if array.null_count:
        yield _fixed(array.is_valid().to_numpy(zero_copy_only=False).astype(np.uint8), bounds)
    if pa.types.is_list(array.type):
        offsets = array.offsets.to_numpy()
        yield _fixed(np.diff(offsets), bounds)
        yield from _pieces(array.values, offsets[bounds].astype(np.int64))
    elif pa.types.is_string(array.type) or pa.types.is_binary(array.type):
        _, ends, text = array.buffers()
        offsets = np.frombuffer(ends, np.int32)[array.offset : array.offset + len(array) + 1] if ends else np.zeros(1)
        yield _fixed(np.diff(offsets), bounds)
        yield memoryview(text or b""), offsets[bounds].tolist()
    else:
        values: Any = array.fill_null(0) if array.null_count else array
        yield _fixed(values.to_numpy(zero_copy_only=False), bounds)


def _fixed(values: npt.NDArray[Any], bounds: Int64) -> tuple[memoryview, list[int]]:
    contiguous: Any = np.ascontiguousarray(values)
    return memoryview(contiguous).cast("B"), (bounds * values.itemsize).tolist()
