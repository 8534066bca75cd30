"""Cumulative counts -> how many strictly before a time: the as-of read behind every time-dependent feature. numpy only.

Negative and unseen keys read zero. Times are int64 microseconds, UTC.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]

END_OF_TIME = np.iinfo(np.int64).max
"""The time of an event that never happened: first_seen, last_seen and last_clicked of an unseen key."""


class AsOfRows(Protocol):
    """The newest row of each key strictly before each time, found once, from which several facts are read."""

    def of(self, place: slice | int) -> "AsOfRows":
        """Those of some times: places of the first dimension."""
        ...

    def shows(self) -> Int64:
        """Running shows; 0 where there is no row."""
        ...

    def clicks(self) -> Int64:
        """Running clicks; 0 where there is no row."""
        ...

    def last_seen(self) -> Int64:
        """The time of the newest show; END_OF_TIME where there is none."""
        ...

    def last_clicked(self) -> Int64:
        """The time of the newest click; END_OF_TIME where there is none."""
        ...


class AsOfCounts(Protocol):
    """The as-of reads of counts; keys and at_us broadcast against each other."""

    def find(self, keys: npt.ArrayLike, at_us: npt.ArrayLike) -> AsOfRows:
        """The newest row of each key strictly before its time: one search for all that is asked of it."""
        ...

    def read(self, keys: npt.ArrayLike, at_us: npt.ArrayLike) -> tuple[Int64, Int64]:
        """(shows, clicks) of each key strictly before its time."""
        ...

    def last_seen(self, keys: npt.ArrayLike, at_us: npt.ArrayLike) -> Int64:
        """The time of each key's newest row with a show strictly before its time; END_OF_TIME where there is none."""
        ...

    def last_clicked(self, keys: npt.ArrayLike, at_us: npt.ArrayLike) -> Int64:
        """The time of each key's newest row with a click strictly before its time; END_OF_TIME where there is none."""
        ...

    def window(self, keys: npt.ArrayLike, at_us: npt.ArrayLike, lag_us: int, window_us: int) -> tuple[Int64, Int64]:
        """(shows, clicks) in [t - lag - window, t - lag)."""
        ...

    def first_seen(self, keys: npt.ArrayLike) -> Int64:
        """The time of each key's first row; END_OF_TIME where it has none."""
        ...


@dataclass(frozen=True)
class AsOfCounter:
    """One cumulative table with binary search by (key rank, time rank): integers, so exact in microseconds.

    keys: distinct keys, ascending. times: distinct times, ascending; those of other counters may be among them.
    packed: key rank x (len(times) + 1) + time rank of each row, ascending.
    shows, clicks: the running counts of the row's key, that row's time included; of 4 bytes where rows are live.
    """

    keys: Int64
    times: Int64
    packed: Int64
    shows: npt.NDArray[np.integer]
    clicks: npt.NDArray[np.integer]

    def arrays(self) -> list[npt.NDArray[np.integer]]:
        """All arrays that it keeps in memory."""
        held = ("keys", "times", "packed", "shows", "clicks", "clicked_at")
        return [vars(self)[name] for name in held if name in vars(self)]

    @classmethod
    def from_rows(
        cls, keys: Int64, times: Int64, shows: npt.NDArray[np.integer], clicks: npt.NDArray[np.integer]
    ) -> "AsOfCounter":
        """Build from rows in any order; counts are cumulative already and (key, time) is unique."""
        distinct_keys, packed = np.unique(keys, return_inverse=True)
        distinct_times, time_ranks = np.unique(times, return_inverse=True)
        packed *= len(distinct_times) + 1  # in place: a log's counters are much of a stage's memory
        packed += time_ranks
        del time_ranks
        order = np.argsort(packed, kind="stable")
        return cls(
            keys=distinct_keys.astype(np.int64),
            times=distinct_times.astype(np.int64),
            packed=packed[order],
            shows=np.asarray(shows, np.int64)[order],
            clicks=np.asarray(clicks, np.int64)[order],
        )

    def before(self, at_us: int) -> "AsOfCounter":
        """Only the rows strictly before a time: the counts as of then."""
        key, time = np.divmod(self.packed, len(self.times) + 1)
        kept = time < np.searchsorted(self.times, at_us, side="left")
        rows = self.keys[key[kept]], self.times[time[kept]], self.shows[kept], self.clicks[kept]
        return AsOfCounter.from_rows(*rows)

    def has(self, key: int) -> bool:
        """Whether a key has a row."""
        place = int(np.searchsorted(self.keys, key, side="left"))
        return place < len(self.keys) and int(self.keys[place]) == key

    def find(self, keys: npt.ArrayLike, at_us: npt.ArrayLike) -> "FoundRows":
        """The newest row of each key strictly before its time; keys and at_us broadcast against each other."""
        keys, at_us = np.asarray(keys, np.int64), np.asarray(at_us, np.int64)
        if not len(self.packed):
            shape = np.broadcast_shapes(keys.shape, at_us.shape)
            return FoundRows(self, np.zeros(shape, np.int64), np.zeros(shape, bool))
        first, known = self._first_slot(keys)
        row = np.searchsorted(self.packed, first + np.searchsorted(self.times, at_us, side="left"), side="left") - 1
        return FoundRows(self, row, known & (row >= 0) & (self.packed[row] >= first))

    def read(self, keys: npt.ArrayLike, at_us: npt.ArrayLike) -> tuple[Int64, Int64]:
        """(shows, clicks) of each key strictly before its time; keys and at_us broadcast against each other."""
        found = self.find(keys, at_us)
        return found.shows(), found.clicks()

    def last_seen(self, keys: npt.ArrayLike, at_us: npt.ArrayLike) -> Int64:
        """The time of each key's newest row with a show strictly before its time; END_OF_TIME where there is none."""
        return self.find(keys, at_us).last_seen()

    def last_clicked(self, keys: npt.ArrayLike, at_us: npt.ArrayLike) -> Int64:
        """The time of each key's newest row with a click strictly before its time; END_OF_TIME where there is none."""
        return self.find(keys, at_us).last_clicked()

    def window(self, keys: npt.ArrayLike, at_us: npt.ArrayLike, lag_us: int, window_us: int) -> tuple[Int64, Int64]:
        """(shows, clicks) in [t - lag - window, t - lag): the difference of two reads."""
        upto = np.asarray(at_us, np.int64) - lag_us
        new_shows, new_clicks = self.read(keys, upto)
        old_shows, old_clicks = self.read(keys, upto - window_us)
        return new_shows - old_shows, new_clicks - old_clicks

    def first_seen(self, keys: npt.ArrayLike) -> Int64:
        """The time of each key's first row; END_OF_TIME where it has none."""
        keys = np.asarray(keys, np.int64)
        if len(self.packed) == 0:
            return np.full(keys.shape, END_OF_TIME)
        first, known = self._first_slot(keys)
        row = np.minimum(np.searchsorted(self.packed, first, side="left"), len(self.packed) - 1)
        return np.where(known, self.times[np.where(known, self.packed[row] - first, 0)], END_OF_TIME)

    @cached_property
    def shown_row(self) -> Int64 | None:
        """The newest row with a show of the row's key, that row included; -1: none yet. None: every row has one."""
        key, grew = self._grew(self.shows)
        return None if grew.all() else _newest_with(key, grew)

    @cached_property
    def clicked_at(self) -> Int64:
        """The time of the newest row with a click of the row's key, that row included; END_OF_TIME: none. One a row."""
        newest = _newest_with(*self._grew(self.clicks))
        time = self.packed[newest] % (len(self.times) + 1) if len(newest) else newest
        return np.where(newest >= 0, self.times[time] if len(time) else time, END_OF_TIME)

    def _grew(self, counts: npt.NDArray[np.integer]) -> tuple[Int64, npt.NDArray[np.bool_]]:
        """([rows] rank of the row's key, whether the key's count grew at the row)."""
        key = self.packed // (len(self.times) + 1)
        before = np.zeros(len(key), counts.dtype)
        before[1:] = np.where(key[1:] == key[:-1], counts[:-1], 0)
        return key, counts > before

    def _first_slot(self, keys: Int64) -> tuple[Int64, npt.NDArray[np.bool_]]:
        rank = np.minimum(np.searchsorted(self.keys, keys, side="left"), len(self.keys) - 1)
        return rank.astype(np.int64) * (len(self.times) + 1), self.keys[rank] == keys


@dataclass(frozen=True)
class FoundRows:
    """AsOfRows of one table. row: any where is_found is False."""

    table: AsOfCounter
    row: Int64
    is_found: npt.NDArray[np.bool_]

    def of(self, place: slice | int) -> "FoundRows":
        """As AsOfRows.of."""
        return FoundRows(self.table, self.row[place], self.is_found[place])

    def shows(self) -> Int64:
        """As AsOfRows.shows."""
        return self._where_found(self.table.shows, 0)

    def clicks(self) -> Int64:
        """As AsOfRows.clicks."""
        return self._where_found(self.table.clicks, 0)

    def last_seen(self) -> Int64:
        """As AsOfRows.last_seen."""
        table = self.table
        if not len(table.packed):
            return np.full(self.row.shape, END_OF_TIME)
        row, is_found = self.row, self.is_found
        if table.shown_row is not None:  # a click that became known later than its show has a row of its own
            row = table.shown_row[row]
            is_found = is_found & (row >= 0)
        return np.where(is_found, table.times[table.packed[row] % (len(table.times) + 1)], END_OF_TIME)

    def last_clicked(self) -> Int64:
        """As AsOfRows.last_clicked."""
        return self._where_found(self.table.clicked_at, END_OF_TIME)

    def _where_found(self, column: npt.NDArray[np.integer], other: int) -> Int64:
        if not len(column):
            return np.full(self.row.shape, other, np.int64)
        return np.where(self.is_found, column[self.row], other)


@dataclass(frozen=True)
class SummedRows:
    """AsOfRows of several tables: counts add up, of times the newest is taken."""

    parts: Sequence[FoundRows]

    def of(self, place: slice | int) -> "SummedRows":
        """As AsOfRows.of."""
        return SummedRows([part.of(place) for part in self.parts])

    def shows(self) -> Int64:
        """As AsOfRows.shows."""
        return _total([part.shows() for part in self.parts])

    def clicks(self) -> Int64:
        """As AsOfRows.clicks."""
        return _total([part.clicks() for part in self.parts])

    def last_seen(self) -> Int64:
        """As AsOfRows.last_seen."""
        return _newest([part.last_seen() for part in self.parts])

    def last_clicked(self) -> Int64:
        """As AsOfRows.last_clicked."""
        return _newest([part.last_clicked() for part in self.parts])


@dataclass(frozen=True)
class SummedCounts:
    """Counts in several parts with different rows, the log's and live ones. Reads like one table of all rows.

    parts: at least one.
    """

    parts: Sequence[AsOfCounter]

    def find(self, keys: npt.ArrayLike, at_us: npt.ArrayLike) -> SummedRows:
        """As AsOfCounter.find, in each part."""
        return SummedRows([part.find(keys, at_us) for part in self.parts])

    def read(self, keys: npt.ArrayLike, at_us: npt.ArrayLike) -> tuple[Int64, Int64]:
        """As AsOfCounter.read: counts of parts add up."""
        found = self.find(keys, at_us)
        return found.shows(), found.clicks()

    def last_seen(self, keys: npt.ArrayLike, at_us: npt.ArrayLike) -> Int64:
        """As AsOfCounter.last_seen: the newest of the parts."""
        return self.find(keys, at_us).last_seen()

    def last_clicked(self, keys: npt.ArrayLike, at_us: npt.ArrayLike) -> Int64:
        """As AsOfCounter.last_clicked: the newest of the parts."""
        return self.find(keys, at_us).last_clicked()

    def window(self, keys: npt.ArrayLike, at_us: npt.ArrayLike, lag_us: int, window_us: int) -> tuple[Int64, Int64]:
        """As AsOfCounter.window."""
        pairs = [part.window(keys, at_us, lag_us, window_us) for part in self.parts]
        return sum(shows for shows, _ in pairs), sum(clicks for _, clicks in pairs)  # pyright: ignore

    def first_seen(self, keys: npt.ArrayLike) -> Int64:
        """As AsOfCounter.first_seen: the oldest of the parts; END_OF_TIME is greater than any time."""
        return np.minimum.reduce([part.first_seen(keys) for part in self.parts])


def _newest_with(key: Int64, grew: npt.NDArray[np.bool_]) -> Int64:
    """[rows] the newest row of the row's key at which a count grew, that row included; -1: none yet."""
    newest = np.maximum.accumulate(np.where(grew, np.arange(len(key)), -1))
    return np.where((newest >= 0) & (key[newest] == key), newest, -1) if len(key) else newest


def _total(counts: Sequence[Int64]) -> Int64:
    total = counts[0]
    for more in counts[1:]:
        total = total + more
    return total


def _newest(times: Sequence[Int64]) -> Int64:
    if len(times) == 1:
        return times[0]
    newest = np.maximum.reduce([np.where(each == END_OF_TIME, -END_OF_TIME, each) for each in times])
    return np.where(newest == -END_OF_TIME, END_OF_TIME, newest)
