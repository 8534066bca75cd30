"""Live events -> the counters of the log and of them, as one: the same reads, exact, visible at once. numpy only.

Live rows are kept in parts, each at least GROWTH times as large as the one after it: a new event costs little, and a
read looks into few parts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from contracts.schema import ROLE_HISTORY
from features.as_of import AsOfCounter, AsOfCounts, SummedCounts
from features.coclicks import Clicks
from features.convention import CLICKED, counted_at
from features.counters import PAIR_RADIX, Counters
from features.live_event import EVENT, LiveEvent

Int64 = npt.NDArray[np.int64]

GROWTH = 8


class _Rows(NamedTuple):
    """What one event adds: arrays of one length."""

    users: Int64
    items: Int64
    times: Int64  # us
    shows: Int64  # 1, and 0 of an outcome: its show is counted already
    clicks: Int64
    in_lists: npt.NDArray[np.bool_]  # counted for its item too: what only extends a history is not


class _Part(NamedTuple):
    rows: _Rows
    item_counters: AsOfCounter
    user_counters: AsOfCounter
    user_item_counters: AsOfCounter
    coclicks: Clicks | None


@dataclass
class Ids:
    """Ids -> keys: those of the log as they were loaded, new ones behind them in order of appearance."""

    known: Mapping[str, int]
    added: dict[str, int] = field(default_factory=dict)

    def key(self, name: str) -> int:
        """-1 where neither the log nor a live event had it."""
        found = self.known.get(name)
        return self.added.get(name, -1) if found is None else found

    def keys(self, names: Sequence[str]) -> Int64:
        """[N] of several."""
        return np.fromiter((self.key(name) for name in names), np.int64, len(names))

    def learn(self, names: Sequence[str]) -> Int64:
        """[N] keys; a name that is new gets the next."""
        for name in names:
            if name not in self.known and name not in self.added:
                self.added[name] = len(self.known) + len(self.added)
        return self.keys(names)


class LiveCounters:
    """Counters that grow. `now` is one consistent state; add makes the next. One writer at a time, readers at any.

    bucket_us: of statistics.bucket_s, by which the log was counted.
    """

    def __init__(
        self, logged: Counters, items: Mapping[str, int], users: Mapping[str, int], bucket_us: int = 0
    ) -> None:
        self._bucket_us = bucket_us
        self.items, self.users = Ids(items), Ids(users)
        self.now = logged
        self.logged = logged
        self._parts: list[_Part] = []

    @property
    def num_events(self) -> int:
        """How many live events are counted."""
        return sum(len(part.rows.times) for part in self._parts)

    def add(self, events: Sequence[LiveEvent]) -> None:
        """Count more events, in any order of time; each once."""
        if not events:
            return
        rows = self._rows(events)
        while self._parts and len(rows.times) * GROWTH >= len(self._parts[-1].rows.times):
            older = self._parts.pop().rows
            rows = _joined(older, rows)
        self._parts.append(self._part(rows))
        self.now = self._sum()

    def _rows(self, events: Sequence[LiveEvent]) -> _Rows:
        clicked = np.array([event.label >= CLICKED for event in events], np.int64)
        return _Rows(
            users=self.users.learn([event.user_id for event in events]),
            items=self.items.learn([event.item_id for event in events]),
            times=np.array([event.counts_from for event in events], np.int64),
            shows=np.array([event.revision == EVENT for event in events], np.int64),
            clicks=clicked,
            in_lists=np.array([event.role != ROLE_HISTORY for event in events], np.bool_),
        )

    def _part(self, rows: _Rows) -> _Part:
        shown, clicked = rows.in_lists, rows.in_lists & (rows.clicks > 0)
        pairs, at = rows.users * PAIR_RADIX + rows.items, counted_at(rows.times, self._bucket_us)
        return _Part(
            rows,
            _count(rows.items[shown], at[shown], rows.shows[shown], rows.clicks[shown]),
            _count(rows.users, at, rows.shows, rows.clicks),
            _count(pairs, at, rows.shows, rows.clicks),
            None
            if self.logged.coclicks is None
            else Clicks.in_order(rows.items[clicked], rows.times[clicked], rows.users[clicked]),
        )

    def _sum(self) -> Counters:
        def summed(name: str) -> AsOfCounts:
            return SummedCounts([getattr(self.logged, name), *(getattr(part, name) for part in self._parts)])

        logged = self.logged.coclicks
        live = tuple(part.coclicks for part in self._parts if part.coclicks is not None)
        return Counters(
            item_counters=summed("item_counters"),
            user_counters=summed("user_counters"),
            user_item_counters=summed("user_item_counters"),
            coclicks=None if logged is None else logged.with_live(live),
        )


def _joined(one: _Rows, other: _Rows) -> _Rows:
    columns: list[Any] = [np.concatenate(pair) for pair in zip(one, other, strict=True)]
    return _Rows(*columns)


def _count(keys: Int64, times: Int64, shows: Int64, clicks: Int64) -> AsOfCounter:
    """Increments in any order -> running counts, one row a (key, time)."""
    if not len(keys):
        return AsOfCounter.from_rows(keys, times, shows, clicks)
    order = np.lexsort((times, keys))
    keys, times = keys[order], times[order]
    first = np.flatnonzero(np.r_[True, (keys[1:] != keys[:-1]) | (times[1:] != times[:-1])])
    keys, times = keys[first], times[first]
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    running = [_running(np.add.reduceat(each[order], first), starts) for each in (shows, clicks)]
    return AsOfCounter.from_rows(keys, times, *running)


def _running(values: Int64, starts: Int64) -> Int64:
    """Sums up to and with each value, within its key. starts: where each key's values begin."""
    total = np.cumsum(values)
    return total - np.repeat(total[starts] - values[starts], np.diff(starts, append=len(values)))
