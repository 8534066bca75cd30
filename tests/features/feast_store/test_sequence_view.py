"""A stored row and live events, read as one row: whichever way it goes, what merge gives, field by field."""

from datetime import timedelta

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from features.feast_store.merge import NewestEvents, live_events, merge
from features.feast_store.sequence_view import ENCODE, EPOCH, SequenceView
from features.sealed.event import EVENT, LiveEvent
from features.terms.sessions import SessionRule

SESSIONS = st.none() | st.sampled_from(["one", "other"])
RULES = st.builds(SessionRule, st.integers(0, 15), st.none() | st.integers(1, 30))


@st.composite
def event_lists(draw: st.DrawFn, first_at: int, last_at: int) -> list[LiveEvent]:
    """In the order in which a tail gives them."""
    times = sorted(draw(st.lists(st.integers(first_at, last_at), max_size=12)))
    ids = draw(st.lists(st.integers(0, 60), min_size=len(times), max_size=len(times), unique=True))
    return [
        LiveEvent(str(name), EVENT, "u", "item", at, draw(st.sampled_from([0.0, 1.0])), "click", True, None, None, s)
        for name, at, s in zip(ids, times, [draw(SESSIONS) for _ in times], strict=True)
    ]


def ordered(events: list[LiveEvent]) -> list[LiveEvent]:
    """By what histories are ordered by; the items are one."""
    keys = live_events(events).event_keys.tolist()
    return [event for _, event in sorted(zip(keys, events, strict=True), key=lambda row: (row[1].occurred_at, row[0]))]


@settings(max_examples=500, deadline=None)
@given(event_lists(0, 60), event_lists(0, 60) | event_lists(61, 120), RULES, st.integers(1, 12))
def test_a_row_with_live_events_is_the_merge_of_what_it_holds(
    stored: list[LiveEvent], live: list[LiveEvent], rule: SessionRule, length: int
) -> None:
    view = SequenceView("user_history", rule, length)
    base = merge(None, live_events(ordered(stored)), rule, length)
    live = ordered(live)[-length:]
    expected = merge(base, live_events(live), rule, length)
    for requested in (None, ["item_ids", "sessions"]):
        row = view.unite(row_of(base, None if live else requested), live, requested)
        assert row == row_of(expected, requested)


def row_of(history: NewestEvents | None, requested: list[str] | None = None) -> tuple:
    """What Feast keeps of a history."""
    if history is None:
        return None, None
    names = list(ENCODE) if requested is None else requested
    at = EPOCH + timedelta(microseconds=int(np.max(history.events.occurred_at)))
    return at, {name: ENCODE[name](history) for name in names}
