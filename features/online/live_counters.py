"""Live events -> counters of the log and the live events together, exact and updated at once. numpy only.

Live rows are stored in parts, each at least GROWTH times as large as the next (as in a log-structured merge tree), so
that adding an event is cheap and a read searches few parts. Small parts are merged at once, large ones by a background
thread while reads go on.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock, Thread
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from contracts.schema import ROLE_HISTORY
from features.encoding.as_of import AsOfCounter, AsOfCounts, SummedCounts
from features.encoding.coclicks import Clicks, LiveClicks
from features.encoding.counters import PAIR_RADIX, Counters
from features.encoding.user_counts import UNNAMED
from features.sealed.event import EVENT, LiveEvent
from features.terms.convention import CLICKED, counted_at

log = logging.getLogger("leitmotif")

Int64 = npt.NDArray[np.int64]
Ints = npt.NDArray[np.integer]

GROWTH = 8
MERGED_AT_ONCE = 8_192
"""Largest part, in rows, that is built while an event is added (a few milliseconds)."""
MAX_PARTS = 24
"""With more parts, adding an event waits until some are merged."""
ID_BYTES = 200
"""Approximate memory of a new id: its text, its entry in a dict, its key."""


class _Rows(NamedTuple):
    """Arrays of one length, one row per event, 19 bytes a row."""

    users: npt.NDArray[np.int32]
    items: npt.NDArray[np.int32]
    times: Int64  # us
    shows: npt.NDArray[np.int8]  # 0 for an outcome, whose show is already counted; else 1
    clicks: npt.NDArray[np.int8]
    in_lists: npt.NDArray[np.bool_]  # False for role history, which does not count for its item


class _Part(NamedTuple):
    rows: _Rows
    item_counters: AsOfCounter
    user_counters: AsOfCounter
    user_item_counters: AsOfCounter
    coclicks: LiveClicks | None

    @property
    def num_rows(self) -> int:
        return len(self.rows.times)

    @property
    def num_bytes(self) -> int:
        """Bytes of its arrays; arrays that the counters share count once."""
        counters = (self.item_counters, self.user_counters, self.user_item_counters)
        arrays = [*self.rows, *(each for counter in counters for each in counter.arrays())]
        if self.coclicks is not None:
            arrays += [each for clicks in self.coclicks for each in clicks.held()]
        return sum(each.nbytes for each in {id(each): each for each in arrays}.values())


@dataclass
class Ids:
    """Ids -> keys: the loaded ids of the log, then new ones in order of appearance."""

    known: Mapping[str, int]
    added: dict[str, int] = field(default_factory=dict)

    def key(self, name: str) -> int:
        """The key of an id; -1 if neither the log nor a live event has it."""
        found = self.known.get(name)
        return self.added.get(name, -1) if found is None else found

    def keys(self, names: Sequence[str]) -> Int64:
        """[N] keys of several ids."""
        found = list(map(self.known.get, names))
        if None in found:
            added = self.added.get
            found = [added(name, -1) if key is None else key for name, key in zip(names, found, strict=True)]
        return np.array(found, np.int64)

    def learn(self, names: Sequence[str]) -> Int64:
        """[N] keys; a new id gets the next key."""
        for name in names:
            if name not in self.known and name not in self.added:
                self.added[name] = len(self.known) + len(self.added)
        return self.keys(names)


class LiveCounters:
    """Counters that grow with live events. `now` is an immutable state, replaced by `add`. One writer, many readers.

    logged: counters of the log's items; those of users are read from their rows. items, users: id -> key of the log.
    bucket_us: statistics.bucket_s of the log's counters, in us.
    """

    def __init__(
        self, logged: Counters, items: Mapping[str, int], users: Mapping[str, int], bucket_us: int = 0
    ) -> None:
        self._bucket_us = bucket_us
        self.items, self.users = Ids(items), Ids(users)
        self.now = logged
        self.logged = logged
        self._parts: list[_Part] = []  # never changed in place
        self._lock = Lock()  # guards _parts, now, _merging and _merger; never held for long
        self._merging: list[_Part] = []  # the parts that the thread is merging
        self._merger: Thread | None = None

    @property
    def num_events(self) -> int:
        """Number of live events that are counted."""
        return sum(part.num_rows for part in self._parts)

    @property
    def num_bytes(self) -> int:
        """Approximate memory of live events; the largest part takes twice as much while it is being merged."""
        num_ids = len(self.items.added) + len(self.users.added)
        return sum(part.num_bytes for part in self._parts) + ID_BYTES * num_ids

    def user_key(self, user_id: str) -> int:
        """The key under which a user's counts are read: UNNAMED for one whom no live event has named."""
        known = self.users.key(user_id)
        return UNNAMED if known < 0 else known

    def with_user(self, user_key: int, own: tuple[AsOfCounter, AsOfCounter]) -> Counters:
        """`now` with the log's counts of a user added. Valid for this user only.

        own: user_counters and user_item_counters of the user's row in the online store, under user_key.
        """
        now = self.now
        if user_key == UNNAMED:
            return replace(now, user_counters=own[0], user_item_counters=own[1])
        live = zip(_parts(now.user_counters), _parts(now.user_item_counters), strict=True)
        of_user = [parts for parts in live if parts[0].has(user_key)]  # each search takes 30 us
        summed = [SummedCounts(parts) for parts in zip(own, *of_user, strict=True)]
        return replace(now, user_counters=summed[0], user_item_counters=summed[1])

    def add(self, events: Sequence[LiveEvent]) -> None:
        """Count more events, in any order of time. Each event may be added once."""
        if not events:
            return
        rows = self._rows(events)
        with self._lock:
            parts = list(self._parts)
            while parts and not self._is_merging(parts[-1]):
                old, new = parts[-1].num_rows, len(rows.times)
                if new * GROWTH < old or new + old > MERGED_AT_ONCE:
                    break
                rows = _merged([parts.pop().rows, rows])
            self._publish([*parts, self._part(rows)])
            if self._merger is None and self._next_to_merge():
                self._merger = Thread(target=self._merge_large, name="merge", daemon=True)
                self._merger.start()
        if len(self._parts) > MAX_PARTS:
            self.settle()

    def settle(self) -> None:
        """Wait until no parts are being merged."""
        while (merger := self._merger) is not None:
            merger.join()

    def _merge_large(self) -> None:
        """The thread's work: merge neighbours until sizes differ by GROWTH. Reads use the unmerged parts meanwhile."""
        while True:
            with self._lock:
                self._merging = self._next_to_merge()
                if not self._merging:
                    self._merger = None
                    return
            try:
                part = self._part(_merged([each.rows for each in self._merging]))
            except BaseException:  # for example too little memory: the counts stay as they are, in more parts
                log.exception("live counters of %s rows were not merged", sum(each.num_rows for each in self._merging))
                with self._lock:
                    self._merging, self._merger = [], None
                return
            with self._lock:
                first = next(place for place, each in enumerate(self._parts) if each is self._merging[0])
                self._publish([*self._parts[:first], part, *self._parts[first + len(self._merging) :]])

    def _next_to_merge(self) -> list[_Part]:
        """Neighbours, each less than GROWTH times as large as those after it, that are too large to merge in `add`."""
        parts = self._parts
        for end in range(len(parts), 1, -1):
            first, total = end - 1, parts[end - 1].num_rows
            while first and total * GROWTH >= parts[first - 1].num_rows:
                first -= 1
                total += parts[first].num_rows
            if end - first > 1 and total > MERGED_AT_ONCE:
                return parts[first:end]
        return []

    def _is_merging(self, part: _Part) -> bool:
        return any(part is each for each in self._merging)

    def _publish(self, parts: list[_Part]) -> None:
        self._parts, self.now = parts, self._sum(parts)

    def _rows(self, events: Sequence[LiveEvent]) -> _Rows:
        return _Rows(
            users=self.users.learn([event.user_id for event in events]).astype(np.int32),
            items=self.items.learn([event.item_id for event in events]).astype(np.int32),
            times=np.array([event.counts_from for event in events], np.int64),
            shows=np.array([event.revision == EVENT for event in events], np.int8),
            clicks=np.array([event.label >= CLICKED for event in events], np.int8),
            in_lists=np.array([event.role != ROLE_HISTORY for event in events], np.bool_),
        )

    def _part(self, rows: _Rows) -> _Part:
        shown, clicked = rows.in_lists, rows.clicks > 0
        pairs = rows.users * np.int64(PAIR_RADIX) + rows.items
        times, rank = np.unique(counted_at(rows.times, self._bucket_us), return_inverse=True)
        part = _Part(
            rows,
            _count(rows.items[shown], times, rank[shown], rows.shows[shown], rows.clicks[shown]),
            _count(rows.users, times, rank, rows.shows, rows.clicks),
            _count(pairs, times, rank, rows.shows, rows.clicks),
            None
            if self.logged.coclicks is None
            else LiveClicks(_clicks(rows, clicked & shown), _clicks(rows, clicked & ~shown)),
        )
        _ = part.item_counters.clicked_at  # computed now, so that no request waits for it
        return part

    def _sum(self, parts: Sequence[_Part]) -> Counters:
        def summed(name: str) -> AsOfCounts:
            return SummedCounts([getattr(self.logged, name), *(getattr(part, name) for part in parts)])

        logged = self.logged.coclicks
        live = tuple(part.coclicks for part in parts if part.coclicks is not None)
        return Counters(
            item_counters=summed("item_counters"),
            user_counters=summed("user_counters"),
            user_item_counters=summed("user_item_counters"),
            coclicks=None if logged is None else logged.with_live(live),
        )


def _parts(table: AsOfCounts) -> Sequence[AsOfCounter]:
    parts = table.parts if isinstance(table, SummedCounts) else [table]
    return [part for part in parts if isinstance(part, AsOfCounter)]


def _clicks(rows: _Rows, chosen: npt.NDArray[np.bool_]) -> Clicks:
    return Clicks.in_order(*(each[chosen].astype(np.int64) for each in (rows.items, rows.times, rows.users)))


def _merged(parts: Sequence[_Rows]) -> _Rows:
    columns: list[Any] = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return _Rows(*columns)


def _count(keys: Ints, times: Int64, rank: Ints, shows: Ints, clicks: Ints) -> AsOfCounter:
    """Increments in any order -> running counts, one row per (key, time), 4 bytes per count.

    times: distinct, ascending; those of other counters may be among them. rank: [N] each increment's position in times.
    """
    distinct, key = np.unique(keys, return_inverse=True)
    packed = key.astype(np.int64) * (len(times) + 1) + rank
    order = np.argsort(packed)
    packed = packed[order]
    first = np.flatnonzero(np.diff(packed, prepend=-1))
    packed = packed[first]
    if not len(packed):
        none = np.zeros(0, np.int32)
        return AsOfCounter(distinct.astype(np.int64), times, packed, none, none)
    starts = np.searchsorted(packed, np.arange(len(distinct)) * (len(times) + 1))
    running = [_running(np.add.reduceat(each[order], first, dtype=np.int32), starts) for each in (shows, clicks)]
    return AsOfCounter(distinct.astype(np.int64), times, packed, *running)


def _running(values: npt.NDArray[np.int32], starts: Int64) -> npt.NDArray[np.int32]:
    """Running sums within each key. starts: where each key's values begin."""
    total = np.cumsum(values, dtype=np.int32)
    return total - np.repeat(total[starts] - values[starts], np.diff(starts, append=len(values)))
