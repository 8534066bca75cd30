"""A user's stored history and live events -> one history, with each event once and cut to the newest. numpy only."""

import marshal
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.sealed.event import LiveEvent
from features.terms.convention import CLICKED, key_of_text
from features.terms.sessions import NO_SESSION, SessionRule, number_sessions

Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class KeyedEvents:
    """Events of one user in order of (occurred_at, item_id, event_key). All fields have one length.

    A key occurs twice if a show and its click, which became known later, are both events; else once.
    """

    item_ids: list[str]
    occurred_at: Int64  # us, as features/terms/known.py says
    labels: Float32
    event_keys: Int64  # convention.key_of_text of the event_id
    session_keys: Int64  # of the source's session id; NO_SESSION without

    def __len__(self) -> int:
        return len(self.item_ids)

    def take(self, rows: Int64) -> "KeyedEvents":
        """The given rows, in their order."""
        return KeyedEvents(
            [self.item_ids[row] for row in rows.tolist()],
            self.occurred_at[rows],
            self.labels[rows],
            self.event_keys[rows],
            self.session_keys[rows],
        )

    def cut(self, rows: slice) -> "KeyedEvents":
        """A slice of rows."""
        return KeyedEvents(
            self.item_ids[rows],
            self.occurred_at[rows],
            self.labels[rows],
            self.event_keys[rows],
            self.session_keys[rows],
        )

    def then(self, later: "KeyedEvents") -> "KeyedEvents":
        """This concatenated with `later`."""
        return KeyedEvents(
            self.item_ids + later.item_ids,
            np.concatenate([self.occurred_at, later.occurred_at]),
            np.concatenate([self.labels, later.labels]),
            np.concatenate([self.event_keys, later.event_keys]),
            np.concatenate([self.session_keys, later.session_keys]),
        )

    def place(self, row: int) -> tuple[int, str, int]:
        """The sort key of an event."""
        return int(self.occurred_at[row]), self.item_ids[row], int(self.event_keys[row])


@dataclass(frozen=True)
class NewestEvents:
    """A user's newest events and their sessions."""

    events: KeyedEvents  # at least one
    sessions: Int64  # from 0 at the oldest of these events


def live_events(events: Sequence[LiveEvent]) -> KeyedEvents:
    """One user's events, as returned by LiveTail.histories()."""
    return KeyedEvents(
        [event.item_id for event in events],
        np.array([event.counts_from for event in events], np.int64),
        np.array([event.label for event in events], np.float32),
        np.array([key_of_text(event.event_id) for event in events], np.int64),
        np.array([NO_SESSION if e.session_id is None else key_of_text(e.session_id) for e in events], np.int64),
    )


def packed(events: Sequence[LiveEvent] | None) -> bytes | None:
    """All that live_events reads of them, in a ninth of their memory: other events have other bytes. None for None."""
    read = [(e.event_id, e.item_id, e.counts_from, e.label, e.session_id) for e in events or ()]
    return None if events is None else marshal.dumps(read, 2)  # 2: without references, so by value alone


def merge(base: NewestEvents | None, live: KeyedEvents, rule: SessionRule, max_length: int) -> NewestEvents | None:
    """One history of at most max_length events; `base` itself if live events add nothing to it.

    An event on both sides has the larger of its labels, since either side may lack the outcome. Either side may be cut
    to its newest max_length events, and so is the result; session numbers need neighbouring events only. Live events
    before the first event of a full base are left out, because events between them may be missing.
    """
    if base is None:
        return _numbered(live, rule, max_length) if len(live) else None
    stored = base.events
    if len(stored) >= max_length:
        live = live.cut(slice(_rank(live, stored.place(0)), None))
    stored, live = _each_once(stored, live)
    return _numbered(_in_order(stored, live), rule, max_length) if len(live) else base


def _numbered(events: KeyedEvents, rule: SessionRule, max_length: int) -> NewestEvents:
    events = events.cut(slice(max(len(events) - max_length, 0), None))
    return NewestEvents(
        events, number_sessions(rule, np.arange(len(events)) == 0, events.occurred_at, events.session_keys)
    )


def _rank(events: KeyedEvents, place: tuple[int, str, int]) -> int:
    """Number of events before a sort key."""
    row, end = np.searchsorted(events.occurred_at, place[0], "left"), len(events)
    while row < end and events.place(int(row)) < place:
        row += 1
    return int(row)


def _each_once(stored: KeyedEvents, live: KeyedEvents) -> tuple[KeyedEvents, KeyedEvents]:
    """Remove events that are on both sides: the side with the larger label keeps the event, the stored one if equal.

    A click and its show are one event if they have the same time.
    """
    if set(stored.event_keys.tolist()).isdisjoint(live.event_keys.tolist()):
        return stored, live
    twins = {_name(stored, row): row for row in np.flatnonzero(np.isin(stored.event_keys, live.event_keys)).tolist()}
    stale: list[int] = []
    known: list[int] = []
    for row in np.flatnonzero(np.isin(live.event_keys, stored.event_keys)).tolist():
        key, is_click = _name(live, row)
        twin = twins.get((key, is_click))
        if twin is None:
            other = twins.get((key, not is_click))
            twin = other if other is not None and stored.occurred_at[other] == live.occurred_at[row] else None
        if twin is not None:
            is_larger = live.labels[row] > stored.labels[twin]
            (stale if is_larger else known).append(twin if is_larger else row)
    live = live.take(np.delete(np.arange(len(live)), np.array(known, np.int64)))
    return (stored.take(np.delete(np.arange(len(stored)), np.array(stale, np.int64))) if stale else stored), live


def _name(events: KeyedEvents, row: int) -> tuple[int, bool]:
    return int(events.event_keys[row]), bool(events.labels[row] >= CLICKED)


def _in_order(stored: KeyedEvents, live: KeyedEvents) -> KeyedEvents:
    """The union of two ordered sequences. Stored events older than all live ones are not sorted again."""
    older = int(np.searchsorted(stored.occurred_at, live.occurred_at[0], "left"))
    newer = stored.cut(slice(older, None))
    if not len(newer):
        return stored.then(live)
    mixed = newer.then(live)
    places = list(zip(mixed.occurred_at.tolist(), mixed.item_ids, mixed.event_keys.tolist(), strict=True))
    order = np.array(sorted(range(len(places)), key=places.__getitem__), np.int64)
    return stored.cut(slice(0, older)).then(mixed.take(order))
