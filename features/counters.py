"""Cumulative counts (item_counters, user_counters, user_item_counters) -> how many strictly before a time. numpy only.

A key is an int64: the rank of an item in the vocabulary (item_index - FIRST_INDEX), a user_index, or
`pair_key` of both. Negative and unseen keys read zero. Times are int64 microseconds, UTC.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]

NEVER = np.iinfo(np.int64).max
"""The time of what did not happen: first_seen, last_seen and last_clicked of a key that was not."""
NAMES = ("item_counters", "user_counters", "user_item_counters")


@dataclass(frozen=True)
class AsOfCounter:
    """One cumulative table, searchable. Exact in microseconds: rows are found by (key rank, time rank), both integers.

    keys: distinct keys, ascending. times: distinct times, ascending.
    packed: key rank x (len(times) + 1) + time rank of each row, ascending.
    shows, clicks: the running counts of the row's key, that row's time included.
    """

    keys: Int64
    times: Int64
    packed: Int64
    shows: Int64
    clicks: Int64
    clicked_at: Int64 = field(init=False, repr=False)
    """The time of the newest row with a click of the row's key, that row included; NEVER where there is none yet."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "clicked_at", self._clicked_at())

    @classmethod
    def from_rows(cls, keys: Int64, times: Int64, shows: Int64, clicks: Int64) -> "AsOfCounter":
        """Build from rows in any order; counts are cumulative already and (key, time) is unique."""
        distinct_keys, key_ranks = np.unique(keys, return_inverse=True)
        distinct_times, time_ranks = np.unique(times, return_inverse=True)
        packed = key_ranks.astype(np.int64) * (len(distinct_times) + 1) + time_ranks
        order = np.argsort(packed, kind="stable")
        return cls(
            keys=distinct_keys.astype(np.int64),
            times=distinct_times.astype(np.int64),
            packed=packed[order],
            shows=np.asarray(shows, np.int64)[order],
            clicks=np.asarray(clicks, np.int64)[order],
        )

    def read(self, keys: npt.ArrayLike, at_us: npt.ArrayLike) -> tuple[Int64, Int64]:
        """(shows, clicks) of each key strictly before its time; keys and at_us broadcast against each other."""
        row, found = self._newest_row(keys, at_us)
        if not len(self.packed):
            return np.zeros(row.shape, np.int64), np.zeros(row.shape, np.int64)
        return np.where(found, self.shows[row], 0), np.where(found, self.clicks[row], 0)

    def last_seen(self, keys: npt.ArrayLike, at_us: npt.ArrayLike) -> Int64:
        """The time of each key's newest row strictly before its time; NEVER where there is none."""
        row, found = self._newest_row(keys, at_us)
        if not len(self.packed):
            return np.full(row.shape, NEVER)
        return np.where(found, self.times[self.packed[row] % (len(self.times) + 1)], NEVER)

    def last_clicked(self, keys: npt.ArrayLike, at_us: npt.ArrayLike) -> Int64:
        """The time of each key's newest row with a click strictly before its time; NEVER where there is none."""
        row, found = self._newest_row(keys, at_us)
        return np.where(found, self.clicked_at[row], NEVER) if len(self.packed) else np.full(row.shape, NEVER)

    def window(self, keys: npt.ArrayLike, at_us: npt.ArrayLike, lag_us: int, window_us: int) -> tuple[Int64, Int64]:
        """(shows, clicks) in [t - lag - window, t - lag): the difference of two reads."""
        upto = np.asarray(at_us, np.int64) - lag_us
        new_shows, new_clicks = self.read(keys, upto)
        old_shows, old_clicks = self.read(keys, upto - window_us)
        return new_shows - old_shows, new_clicks - old_clicks

    def first_seen(self, keys: npt.ArrayLike) -> Int64:
        """The time of each key's first row; NEVER where it has none."""
        keys = np.asarray(keys, np.int64)
        if len(self.packed) == 0:
            return np.full(keys.shape, NEVER)
        first, known = self._first_slot(keys)
        row = np.minimum(np.searchsorted(self.packed, first, side="left"), len(self.packed) - 1)
        return np.where(known, self.times[np.where(known, self.packed[row] - first, 0)], NEVER)

    def _newest_row(self, keys: npt.ArrayLike, at_us: npt.ArrayLike) -> tuple[Int64, npt.NDArray[np.bool_]]:
        """The row that is newest strictly before each time, and whether there is one."""
        keys, at_us = np.asarray(keys, np.int64), np.asarray(at_us, np.int64)
        if not len(self.packed):
            shape = np.broadcast_shapes(keys.shape, at_us.shape)
            return np.zeros(shape, np.int64), np.zeros(shape, bool)
        first, known = self._first_slot(keys)
        row = np.searchsorted(self.packed, first + np.searchsorted(self.times, at_us, side="left"), side="left") - 1
        return row, known & (row >= 0) & (self.packed[row] >= first)

    def _clicked_at(self) -> Int64:
        if not len(self.packed):
            return np.zeros(0, np.int64)
        key, time = np.divmod(self.packed, len(self.times) + 1)
        first_of_key = np.r_[True, key[1:] != key[:-1]]
        clicked = self.clicks > np.where(first_of_key, 0, np.r_[0, self.clicks[:-1]])
        newest = np.maximum.accumulate(np.where(clicked, np.arange(len(key)), -1))
        own = (newest >= 0) & (key[newest] == key)
        return np.where(own, self.times[time[newest]], NEVER)

    def _first_slot(self, keys: Int64) -> tuple[Int64, npt.NDArray[np.bool_]]:
        rank = np.minimum(np.searchsorted(self.keys, keys, side="left"), len(self.keys) - 1)
        return rank.astype(np.int64) * (len(self.times) + 1), self.keys[rank] == keys


@dataclass(frozen=True)
class Counters:
    """The three tables over one numbering of items and users. The same object in training and in serving."""

    item_counters: AsOfCounter
    user_counters: AsOfCounter
    user_item_counters: AsOfCounter
    num_items: int  # the radix of pair_key

    def pair_key(self, user_keys: npt.ArrayLike, item_keys: npt.ArrayLike) -> Int64:
        """The key of (user, item) in user_item_counters; -1 where either is unknown."""
        users, items = np.asarray(user_keys, np.int64), np.asarray(item_keys, np.int64)
        known = (users >= 0) & (items >= 0) & (items < self.num_items)
        return np.where(known, users * self.num_items + items, -1)

    @classmethod
    def from_folder(cls, data: Path, item_ids: Any, user_ids: Any) -> "Counters":
        """Read data/{item,user,user_item}_counters; a key is the id's position in item_ids or user_ids.

        item_ids: the vocabulary's item_id column; user_ids: users.parquet's user_id column.
        """
        ids = {"item_id": item_ids, "user_id": user_ids}
        keys = {
            "item_counters": ["item_id"],
            "user_counters": ["user_id"],
            "user_item_counters": ["user_id", "item_id"],
        }
        tables = {name: from_parquet(data / name, {key: ids[key] for key in keys[name]}) for name in NAMES}
        return cls(**tables, num_items=len(item_ids))

    def save(self, folder: Path) -> None:
        """Write one uncompressed .npz a table into folder."""
        for name in NAMES:
            table: AsOfCounter = getattr(self, name)
            held = {each.name: getattr(table, each.name) for each in fields(table) if each.init}
            np.savez(folder / f"{name}.npz", **held, num_items=np.int64(self.num_items))

    @classmethod
    def load(cls, folder: Path) -> "Counters":
        """Read what save wrote."""
        tables: dict[str, AsOfCounter] = {}
        num_items = 0
        for name in NAMES:
            with np.load(folder / f"{name}.npz", allow_pickle=False) as arrays:
                held = {key: arrays[key] for key in arrays.files}
            num_items = int(held.pop("num_items"))
            tables[name] = AsOfCounter(**held)
        return cls(**tables, num_items=num_items)


def from_parquet(folder: Path, ids: Mapping[str, Sequence[str] | Any]) -> AsOfCounter:
    """Read one counters table (contracts.schema.counters).

    folder: holds its partitions. ids: key column -> ids whose positions number it; several make a pair_key.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    table = ds.dataset(folder, format="parquet").to_table()
    keys = np.zeros(table.num_rows, np.int64)
    for column, known in ids.items():
        value_set = known if isinstance(known, pa.Array | pa.ChunkedArray) else pa.array(known, pa.string())
        position = pc.call_function("index_in", [table[column]], pc.SetLookupOptions(value_set=value_set))
        position = position.fill_null(-1).to_numpy().astype(np.int64)
        if (position < 0).any():
            bad = table[column][int(np.argmax(position < 0))].as_py()
            raise ValueError(
                f"{folder}: {column} {bad!r} is not in the vocabulary. Run histories and statistics again."
            )
        keys = keys * len(value_set) + position
    occurred_at = pc.cast(table["occurred_at"], pa.int64()).to_numpy()
    return AsOfCounter.from_rows(keys, occurred_at, table["shows"].to_numpy(), table["clicks"].to_numpy())
