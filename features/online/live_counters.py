"""Live events -> the counters of the log and of them, as one: the same reads, exact, visible at once. numpy only.

Live rows are kept in parts, each at least GROWTH times as large as the one after it: a new event costs little, and a
read looks into few parts. Small parts are joined at once, large ones by a thread of its own while all of them are read.
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
from features.encoding.user_counts import UNNAMED, UserCounts
from features.sealed.event import EVENT, LiveEvent
from features.terms.convention import CLICKED, counted_at

log = logging.getLogger("leitmotif")

Int64 = npt.NDArray[np.int64]
Ints = npt.NDArray[np.integer]

GROWTH = 8
JOINED_AT_ONCE = 8_192
"""Rows of the largest part that is made where an event is taken: a few milliseconds."""
MAX_PARTS = 24
"""With more of them a new event waits until some are joined."""
ID_BYTES = 200
"""About what an id that is new costs: its text, its place in a dict, its key."""


class _Rows(NamedTuple):
    """What one event adds: arrays of one length, 19 bytes a row."""

    users: npt.NDArray[np.int32]
    items: npt.NDArray[np.int32]
    times: Int64  # us
    shows: npt.NDArray[np.int8]  # 1, and 0 of an outcome: its show is counted already
    clicks: npt.NDArray[np.int8]
    in_lists: npt.NDArray[np.bool_]  # counted for its item too: what only extends a history is not


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
        """Of its arrays, each once: the counters share their times."""
        counters = (self.item_counters, self.user_counters, self.user_item_counters)
        arrays = [*self.rows, *(each for counter in counters for each in counter.arrays())]
        if self.coclicks is not None:
            arrays += [each for clicks in self.coclicks for each in clicks.held()]
        return sum(each.nbytes for each in {id(each): each for each in arrays}.values())


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
        found = list(map(self.known.get, names))
        if None in found:
            added = self.added.get
            found = [added(name, -1) if key is None else key for name, key in zip(names, found, strict=True)]
        return np.array(found, np.int64)

    def learn(self, names: Sequence[str]) -> Int64:
        """[N] keys; a name that is new gets the next."""
        for name in names:
            if name not in self.known and name not in self.added:
                self.added[name] = len(self.known) + len(self.added)
        return self.keys(names)


class LiveCounters:
    """Counters that grow. `now` is one consistent state; add makes the next. One writer at a time, readers at any.

    logged: of the log, what belongs to items; users come with their own rows. items, users: the keys of its ids.
    bucket_us: of statistics.bucket_s, by which the log was counted.
    """

    def __init__(
        self, logged: Counters, items: Mapping[str, int], users: Mapping[str, int], bucket_us: int = 0
    ) -> None:
        self._bucket_us = bucket_us
        self.items, self.users = Ids(items), Ids(users)
        self.now = logged
        self.logged = logged
        self._parts: list[_Part] = []  # never changed in place
        self._lock = Lock()  # of _parts, now, _joining and _joiner, each held for a moment
        self._joining: list[_Part] = []  # what the thread has taken up
        self._joiner: Thread | None = None

    @property
    def num_events(self) -> int:
        """How many live events are counted."""
        return sum(part.num_rows for part in self._parts)

    @property
    def num_bytes(self) -> int:
        """What they take in memory, about; twice that of the largest part while it is being joined."""
        num_ids = len(self.items.added) + len(self.users.added)
        return sum(part.num_bytes for part in self._parts) + ID_BYTES * num_ids

    def of_user(self, user_id: str, logged: UserCounts | None) -> tuple[int, Counters]:
        """(the user's key, `now` with what is counted of this user, in the log and since).

        logged: the user's own row; None where the log counted nothing. Nobody else's counts may be asked of it.
        """
        now, known = self.now, self.users.key(user_id)
        key = UNNAMED if known < 0 else known
        if logged is None:
            return key, now
        own = logged.counters(key, self.items.keys(logged.item_ids))
        summed = [
            SummedCounts([each, *_parts(live)]) if known >= 0 else each
            for each, live in zip(own, (now.user_counters, now.user_item_counters), strict=True)
        ]
        return key, replace(now, user_counters=summed[0], user_item_counters=summed[1])

    def add(self, events: Sequence[LiveEvent]) -> None:
        """Count more events, in any order of time; each once."""
        if not events:
            return
        rows = self._rows(events)
        with self._lock:
            parts = list(self._parts)
            while parts and not self._is_joining(parts[-1]):
                old, new = parts[-1].num_rows, len(rows.times)
                if new * GROWTH < old or new + old > JOINED_AT_ONCE:
                    break
                rows = _joined([parts.pop().rows, rows])
            self._publish([*parts, self._part(rows)])
            if self._joiner is None and self._next_to_join():
                self._joiner = Thread(target=self._join_large, name="join", daemon=True)
                self._joiner.start()
        if len(self._parts) > MAX_PARTS:
            self.settle()

    def settle(self) -> None:
        """Wait until no parts are being joined."""
        while (joiner := self._joiner) is not None:
            joiner.join()

    def _join_large(self) -> None:
        """The thread's work: join neighbours while some are too alike in size. All are read meanwhile, as they are."""
        while True:
            with self._lock:
                self._joining = self._next_to_join()
                if not self._joining:
                    self._joiner = None
                    return
            try:
                part = self._part(_joined([each.rows for each in self._joining]))
            except BaseException:  # too little memory, say: what is counted stays as it is, in more parts
                log.exception("live counters of %s rows were not joined", sum(each.num_rows for each in self._joining))
                with self._lock:
                    self._joining, self._joiner = [], None
                return
            with self._lock:
                first = next(place for place, each in enumerate(self._parts) if each is self._joining[0])
                self._publish([*self._parts[:first], part, *self._parts[first + len(self._joining) :]])

    def _next_to_join(self) -> list[_Part]:
        """Neighbours, each less than GROWTH times as large as all after it, that are too many to be joined in add."""
        parts = self._parts
        for end in range(len(parts), 1, -1):
            first, total = end - 1, parts[end - 1].num_rows
            while first and total * GROWTH >= parts[first - 1].num_rows:
                first -= 1
                total += parts[first].num_rows
            if end - first > 1 and total > JOINED_AT_ONCE:
                return parts[first:end]
        return []

    def _is_joining(self, part: _Part) -> bool:
        return any(part is each for each in self._joining)

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
        _ = part.item_counters.clicked_at  # now: no request shall wait for it
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
    """Those that hold something."""
    parts = table.parts if isinstance(table, SummedCounts) else [table]
    return [part for part in parts if isinstance(part, AsOfCounter) and len(part.packed)]


def _clicks(rows: _Rows, chosen: npt.NDArray[np.bool_]) -> Clicks:
    return Clicks.in_order(*(each[chosen].astype(np.int64) for each in (rows.items, rows.times, rows.users)))


def _joined(parts: Sequence[_Rows]) -> _Rows:
    columns: list[Any] = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return _Rows(*columns)


def _count(keys: Ints, times: Int64, rank: Ints, shows: Ints, clicks: Ints) -> AsOfCounter:
    """Increments in any order -> running counts, one row a (key, time), in 4 bytes each.

    times: distinct, ascending, of this counter and of others. rank: [N] where each increment's time is among them.
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
    """Sums up to and with each value, within its key. starts: where each key's values begin."""
    total = np.cumsum(values, dtype=np.int32)
    return total - np.repeat(total[starts] - values[starts], np.diff(starts, append=len(values)))
