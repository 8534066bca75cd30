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


class AsOfCounts(Protocol):
    """The as-of reads of counts; keys and at_us broadcast against each other."""

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

    def before(self, at_us: int) -> "AsOfCounter":
        """Only the rows strictly before a time: the counts as of then."""
        key, time = np.divmod(self.packed, len(self.times) + 1)
        kept = time < np.searchsorted(self.times, at_us, side="left")
        rows = self.keys[key[kept]], self.times[time[kept]], self.shows[kept], self.clicks[kept]
        return AsOfCounter.from_rows(*rows)

    def read(self, keys: npt.ArrayLike, at_us: npt.ArrayLike) -> tuple[Int64, Int64]:
        """(shows, clicks) of each key strictly before its time; keys and at_us broadcast against each other."""
        row, found = self._newest_row(keys, at_us)
        if not len(self.packed):
            return np.zeros(row.shape, np.int64), np.zeros(row.shape, np.int64)
        return np.where(found, self.shows[row], 0), np.where(found, self.clicks[row], 0)

    def last_seen(self, keys: npt.ArrayLike, at_us: npt.ArrayLike) -> Int64:
        """The time of each key's newest row with a show strictly before its time; END_OF_TIME where there is none."""
        row, found = self._newest_row(keys, at_us)
        if not len(self.packed):
            return np.full(row.shape, END_OF_TIME)
        if self.shown_row is not None:  # a click that became known later than its show has a row of its own
            row = self.shown_row[row]
            found &= row >= 0
        return np.where(found, self.times[self.packed[row] % (len(self.times) + 1)], END_OF_TIME)

    def last_clicked(self, keys: npt.ArrayLike, at_us: npt.ArrayLike) -> Int64:
        """The time of each key's newest row with a click strictly before its time; END_OF_TIME where there is none."""
        row, found = self._newest_row(keys, at_us)
        return (
            np.where(found, self.clicked_at[row], END_OF_TIME) if len(self.packed) else np.full(row.shape, END_OF_TIME)
        )

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

    def _newest_row(self, keys: npt.ArrayLike, at_us: npt.ArrayLike) -> tuple[Int64, npt.NDArray[np.bool_]]:
        """The row that is newest strictly before each time, and whether there is one."""
        keys, at_us = np.asarray(keys, np.int64), np.asarray(at_us, np.int64)
        if not len(self.packed):
            shape = np.broadcast_shapes(keys.shape, at_us.shape)
            return np.zeros(shape, np.int64), np.zeros(shape, bool)
        first, known = self._first_slot(keys)
        row = np.searchsorted(self.packed, first + np.searchsorted(self.times, at_us, side="left"), side="left") - 1
        return row, known & (row >= 0) & (self.packed[row] >= first)

    @cached_property
    def shown_row(self) -> Int64 | None:
        """The newest row with a show of the row's key, that row included; -1: none yet. None: every row has one."""
        shown = self._newest_with(self.shows)
        return None if (shown == np.arange(len(shown))).all() else shown

    @cached_property
    def clicked_at(self) -> Int64:
        """The time of the newest row with a click of the row's key, that row included; END_OF_TIME: none. One a row."""
        newest = self._newest_with(self.clicks)
        time = self.packed[newest] % (len(self.times) + 1) if len(newest) else newest
        return np.where(newest >= 0, self.times[time] if len(time) else time, END_OF_TIME)

    def _newest_with(self, counts: npt.NDArray[np.integer]) -> Int64:
        """[rows] the newest row of the row's key at which a count grew, that row included; -1: none yet."""
        if not len(self.packed):
            return np.zeros(0, np.int64)
        key = self.packed // (len(self.times) + 1)
        first_of_key = np.r_[True, key[1:] != key[:-1]]
        grew = counts > np.where(first_of_key, 0, np.r_[0, counts[:-1]])
        newest = np.maximum.accumulate(np.where(grew, np.arange(len(key)), -1))
        return np.where((newest >= 0) & (key[newest] == key), newest, -1)

    def _first_slot(self, keys: Int64) -> tuple[Int64, npt.NDArray[np.bool_]]:
        rank = np.minimum(np.searchsorted(self.keys, keys, side="left"), len(self.keys) - 1)
        return rank.astype(np.int64) * (len(self.times) + 1), self.keys[rank] == keys


@dataclass(frozen=True)
class SummedCounts:
    """Counts in several parts with different rows, the log's and live ones. Reads like one table of all rows.

    parts: at least one.
    """

    parts: Sequence[AsOfCounter]

    def read(self, keys: npt.ArrayLike, at_us: npt.ArrayLike) -> tuple[Int64, Int64]:
        """As AsOfCounter.read: counts of parts add up."""
        shows, clicks = self.parts[0].read(keys, at_us)
        for part in self.parts[1:]:
            more = part.read(keys, at_us)
            shows, clicks = shows + more[0], clicks + more[1]
        return shows, clicks

    def last_seen(self, keys: npt.ArrayLike, at_us: npt.ArrayLike) -> Int64:
        """As AsOfCounter.last_seen: the newest of the parts."""
        return _newest([part.last_seen(keys, at_us) for part in self.parts])

    def last_clicked(self, keys: npt.ArrayLike, at_us: npt.ArrayLike) -> Int64:
        """As AsOfCounter.last_clicked: the newest of the parts."""
        return _newest([part.last_clicked(keys, at_us) for part in self.parts])

    def window(self, keys: npt.ArrayLike, at_us: npt.ArrayLike, lag_us: int, window_us: int) -> tuple[Int64, Int64]:
        """As AsOfCounter.window."""
        pairs = [part.window(keys, at_us, lag_us, window_us) for part in self.parts]
        return sum(shows for shows, _ in pairs), sum(clicks for _, clicks in pairs)  # pyright: ignore

    def first_seen(self, keys: npt.ArrayLike) -> Int64:
        """As AsOfCounter.first_seen: the oldest of the parts; END_OF_TIME is greater than any time."""
        return np.minimum.reduce([part.first_seen(keys) for part in self.parts])


def _newest(times: Sequence[Int64]) -> Int64:
    newest = np.maximum.reduce([np.where(each == END_OF_TIME, -END_OF_TIME, each) for each in times])
    return np.where(newest == -END_OF_TIME, END_OF_TIME, newest)
