"""Keys (64-bit hashes) of many rows in files -> which of them other rows have too; a share of the keys at a time.

A file holds runs: keys of some rows in order, cut into PARTS by their highest bits. So the same share is read of every
file, and memory is bounded whatever their size. With each key there may be two numbers, a lowest and a highest.
"""
# pyright: reportAttributeAccessIssue=false

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Keys = npt.NDArray[np.uint64]
Values = npt.NDArray[np.int64] | npt.NDArray[np.uint64]

PARTS = 16
SHARE_BYTES = 1 << 26
"""Of the keys that are held in memory at once, in a file; a part is read whole."""


class RunWriter:
    """Fills one file of runs."""

    def __init__(self, path: Path, values: pa.DataType | None = None) -> None:
        """values: of the two numbers beside a key; None where there are none."""
        columns = [("key", pa.uint64())] + ([("low", values), ("high", values)] if values else [])
        self._schema, self._open = pa.schema(columns), ExitStack()
        self._file = self._open.enter_context(pa.ipc.new_file(str(path), self._schema))

    def add(self, keys: Keys, *values: Values) -> None:
        """Add a run. keys: in order. values: the lowest and the highest number of each."""
        if not len(keys):
            return
        ends = np.searchsorted(keys, np.arange(1, PARTS, dtype=np.uint64) << np.uint64(60)).tolist()
        for start, end in zip([0, *ends], [*ends, len(keys)], strict=True):
            arrays = [pa.array(each[start:end]) for each in (keys, *values)]
            self._file.write_batch(pa.record_batch(arrays, schema=self._schema))

    def close(self) -> None:
        """Finish the file."""
        self._open.close()


def repeated(paths: Sequence[Path]) -> Keys:
    """The keys that more than one row of all files has, in order."""
    found = [np.zeros(0, np.uint64)]
    for runs in _shares(paths):
        keys = np.sort(np.concatenate([run[0] for run in runs]), kind="stable")  # which merges runs that are in order
        again = keys[1:][keys[1:] == keys[:-1]]
        found.append(again[np.r_[True, again[1:] != again[:-1]]] if len(again) else again)
    return np.concatenate(found)


def apart(paths: Sequence[Path], by: int) -> Keys:
    """The keys whose highest number, of all files, is further than `by` above their lowest, in order."""
    found = [np.zeros(0, np.uint64)]
    for runs in _shares(paths):
        keys, low, high = (np.concatenate(column) for column in zip(*runs, strict=True))
        keys, low, high = extremes(keys, low, high)
        found.append(keys[(high - low) > by])
    return np.concatenate(found)


def extremes(keys: Keys, low: Values, high: Values) -> tuple[Keys, Values, Values]:
    """Each key once, in order, with the lowest and the highest of its numbers."""
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]][: len(keys)])
    if not len(starts):
        return keys, low, high
    return keys[starts], np.minimum.reduceat(low[order], starts), np.maximum.reduceat(high[order], starts)


def held(path: Path, wanted: Keys) -> Keys:
    """Those of the wanted keys (in order, each once) that a file has, in order."""
    if not len(wanted):
        return wanted
    is_held = np.zeros(len(wanted), bool)
    for keys, *_ in _runs(path, 0, PARTS):
        if not len(keys):
            continue
        first, end = np.searchsorted(wanted, keys[0]), np.searchsorted(wanted, keys[-1], side="right")
        if end - first > len(keys):  # the shorter side is looked up in the longer one
            is_held[np.searchsorted(wanted, keys[are_in(keys, wanted)])] = True
        else:
            is_held[first:end] |= are_in(wanted[first:end], keys)
    return wanted[is_held]


def are_in(keys: Keys, wanted: Keys) -> npt.NDArray[np.bool_]:
    """Whether each key is wanted. wanted: in order."""
    if not len(wanted):
        return np.zeros(len(keys), bool)
    place = np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)
    return wanted[place] == keys


def _shares(paths: Sequence[Path]) -> Iterator[list[tuple[npt.NDArray, ...]]]:
    """The runs of all files, so many parts at once that memory holds them."""
    num = sum(path.stat().st_size for path in paths)
    parts = max(1, PARTS // max(1, -(-num // SHARE_BYTES)))
    for first in range(0, PARTS, parts):
        runs = [run for path in paths for run in _runs(path, first, min(first + parts, PARTS))]
        if runs:
            yield runs


def _runs(path: Path, first: int, end: int) -> Iterator[tuple[npt.NDArray, ...]]:
    with pa.OSFile(str(path)) as handle:
        reader = pa.ipc.open_file(handle)
        for place in range(reader.num_record_batches):
            if first <= place % PARTS < end:
                yield tuple(column.to_numpy() for column in reader.get_batch(place).columns)
