"""Base and live events as one history: what a rebuild of everything would give, whatever came when."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.feast_store.merge import KeyedEvents, NewestEvents, merge
from features.terms.sessions import NO_SESSION, SessionRule

RULE = SessionRule(gap_us=10, max_us=25)


@dataclass(frozen=True, order=True)
class Row:
    at: int
    item: str
    key: int
    label: float = 1.0
    session: int = NO_SESSION


def events_of(rows: list[Row]) -> KeyedEvents:
    return KeyedEvents(
        [row.item for row in rows],
        np.array([row.at for row in rows], np.int64),
        np.array([row.label for row in rows], np.float32),
        np.array([row.key for row in rows], np.int64),
        np.array([row.session for row in rows], np.int64),
    )


def rebuilt(rows: list[Row], rule: SessionRule, length: int) -> tuple[list[Row], list[int]]:
    """Slow and obvious: every row by the rule of sessions, one after the other, then the newest of them."""
    ordered = sorted(rows)
    sessions: list[int] = []
    for before, row in zip([None, *ordered], ordered, strict=False):
        if before is None:
            sessions.append(0)
            continue
        stated = NO_SESSION not in (row.session, before.session)
        cells = {at // rule.max_us if rule.max_us else 0 for at in (before.at, row.at)}
        is_over = row.at - before.at > rule.gap_us or len(cells) > 1
        sessions.append(sessions[-1] + (row.session != before.session if stated else is_over))
    newest = sessions[-length:]
    return ordered[-length:], [each - newest[0] for each in newest]


def history_of(rows: list[Row], rule: SessionRule, length: int) -> NewestEvents | None:
    if not rows:
        return None
    kept, sessions = rebuilt(rows, rule, length)
    return NewestEvents(events_of(kept), np.array(sessions, np.int64))


def seen(history: NewestEvents | None) -> tuple[list[Row], list[int]] | None:
    if history is None:
        return None
    events = history.events
    columns = (events.occurred_at.tolist(), events.item_ids, events.event_keys.tolist(), events.labels.tolist())
    rows = [Row(*values) for values in zip(*columns, events.session_keys.tolist(), strict=True)]
    return rows, history.sessions.tolist()


KEYS = st.integers(-3, 40)
ROWS = st.dictionaries(
    KEYS,
    st.tuples(st.integers(0, 60), st.sampled_from("ab"), st.sampled_from([0.0, 1.0]), st.sampled_from([0, 0, 7, 8])),
    max_size=25,
)
RULES = st.builds(SessionRule, st.integers(0, 15), st.none() | st.integers(1, 30))


@settings(max_examples=400, deadline=None)
@given(ROWS, st.sets(KEYS), st.sets(KEYS), RULES, st.integers(1, 12))
def test_a_merge_is_the_rebuild_of_all_events(
    truth: dict[int, tuple[int, str, float, int]], stored: set[int], sent: set[int], rule: SessionRule, length: int
) -> None:
    rows = [Row(at, item, key, label, session) for key, (at, item, label, session) in truth.items()]
    base = history_of([row for row in rows if row.key in stored], rule, length)
    live = sorted(row for row in rows if row.key not in stored or row.key in sent)
    if base is not None and len(base.events) >= length:  # what lay before a full base is unknown, and cut in any case
        live = [row for row in live if (row.at, row.item, row.key) >= base.events.place(0)]
    everything = [row for row in rows if row.key in stored or row in live]
    expected = rebuilt(everything, rule, length) if everything else None
    assert seen(merge(base, events_of(live[-length:]), rule, length)) == expected  # a tail gives at most `length`


@settings(max_examples=100, deadline=None)
@given(ROWS, RULES, st.integers(1, 12), st.data())
def test_events_that_come_in_any_order_end_in_the_history_of_those_that_came_in_time(
    truth: dict[int, tuple[int, str, float, int]], rule: SessionRule, length: int, data: st.DataObject
) -> None:
    rows = [Row(at, item, key, label, session) for key, (at, item, label, session) in truth.items()][:length]
    history = None
    for row in data.draw(st.permutations(rows)):
        history = merge(history, events_of([row]), rule, length)
    assert seen(history) == (rebuilt(rows, rule, length) if rows else None)


def test_an_outcome_takes_the_place_of_its_show_in_the_base() -> None:
    shown = [Row(0, "a", 1, 1.0), Row(5, "b", 2, 0.0), Row(9, "c", 3, 1.0)]
    base = history_of(shown, RULE, 10)
    merged = seen(merge(base, events_of([Row(5, "b", 2, 1.0)]), RULE, 10))
    assert merged == rebuilt([shown[0], Row(5, "b", 2, 1.0), shown[2]], RULE, 10)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_a_base_that_holds_every_live_event_is_returned_itself(label: float) -> None:
    base = history_of([Row(0, "a", 1, 1.0), Row(5, "b", 2, 1.0)], RULE, 10)
    assert merge(base, events_of([Row(5, "b", 2, label)]), RULE, 10) is base


def test_nothing_stored_and_nothing_live_is_no_history() -> None:
    assert merge(None, events_of([]), RULE, 10) is None


def test_sessions_of_a_history_that_was_cut_are_those_of_the_whole() -> None:
    # A grid of 25 us: 24 | 26 lie on its two sides, and 49 | 50.
    rows = [Row(at, "a", at) for at in (0, 8, 16, 24)]
    base = history_of(rows, RULE, 2)
    assert seen(base) == (rows[2:], [0, 0])
    later = [Row(at, "a", at) for at in (26, 36, 44, 49, 50)]
    assert seen(merge(base, events_of(later[:2]), RULE, 4)) == ([*rows[2:], *later[:2]], [0, 0, 1, 1])
    assert seen(merge(base, events_of(later[1:]), RULE, 4)) == (later[1:], [0, 0, 0, 1])


def test_an_event_older_than_a_full_base_changes_nothing() -> None:
    base = history_of([Row(at, "a", at) for at in (0, 8, 16, 24)], RULE, 2)
    assert merge(base, events_of([Row(9, "a", 9)]), RULE, 2) is base
