"""Counters of a log and of live events read as counters of one log that holds both."""

import threading

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.schema import ROLE_HISTORY, ROLE_IMPRESSION
from features.encoding.as_of import AsOfCounter
from features.encoding.asked import NO_KEY, Asked
from features.encoding.coclicks import Clicks, Coclicks
from features.encoding.counters import NAMES, PAIR_RADIX, Counters
from features.online.live_counters import MERGED_AT_ONCE, LiveCounters
from features.sealed.event import EVENT, OUTCOME, LiveEvent
from features.terms.convention import RECENT

USERS, ITEMS = ("u0", "u1", "u2"), ("i0", "i1", "i2", "i3")
KNOWN_USERS, KNOWN_ITEMS = 2, 3  # the log's; the others come live
RANK = 2
STARTS = np.array([0, 20], np.int64)
FACTORS = np.random.default_rng(0).integers(-127, 128, (len(STARTS), len(USERS), RANK)).astype(np.int8)
FACTORS[:, KNOWN_USERS:] = 0  # of a user that the log never had

logs = st.lists(
    st.tuples(
        st.integers(0, len(USERS) - 1),
        st.integers(0, len(ITEMS) - 1),
        st.integers(0, 40),
        st.booleans(),
        st.sampled_from([ROLE_IMPRESSION, ROLE_IMPRESSION, ROLE_HISTORY]),
    ),
    max_size=60,
)


def to_event(number: int, each: tuple, revision: int = EVENT, label: float | None = None) -> LiveEvent:
    user, item, at, clicked, role = each
    given_label = float(clicked) if label is None else label
    return LiveEvent(f"e{number}", revision, USERS[user], ITEMS[item], at, given_label, role, in_history=clicked)


def counted(keys: np.ndarray, times: np.ndarray, shows: np.ndarray, clicks: np.ndarray) -> AsOfCounter:
    """Running counts by dictionaries, one row a (key, time)."""
    added: dict[tuple[int, int], np.ndarray] = {}
    for key, at, *counts in zip(keys.tolist(), times.tolist(), shows.tolist(), clicks.tolist(), strict=True):
        added[key, at] = added.get((key, at), np.zeros(2, np.int64)) + counts
    totals: dict[int, np.ndarray] = {}
    rows = []
    for (key, at), counts in sorted(added.items(), key=lambda each: each[0]):
        totals[key] = totals.get(key, np.zeros(2, np.int64)) + counts
        rows.append((key, at, *totals[key].tolist()))
    return AsOfCounter.from_rows(*np.array(rows, np.int64).reshape(-1, 4).T)


def whole(log: list[tuple], users: int, items: int) -> Counters:
    """Counted at once, keys as the positions in USERS and ITEMS."""
    rows = np.array([each[:4] for each in log], np.int64).reshape(-1, 4)
    shown = np.array([each[4] == ROLE_IMPRESSION for each in log], bool)
    ones = np.ones(len(rows), np.int64)
    user, item, at, clicked = rows.T
    clicks, history = (
        Clicks.in_order(item[hit], at[hit], user[hit]) for hit in (shown & (clicked > 0), ~shown & (clicked > 0))
    )
    return Counters(
        item_counters=counted(item[shown], at[shown], ones[shown], clicked[shown]),
        user_counters=counted(user, at, ones, clicked),
        user_item_counters=counted(user * PAIR_RADIX + item, at, ones, clicked),
        coclicks=Coclicks(
            clicks.items, clicks.times, clicks.users, STARTS, FACTORS[:, :users], FACTORS[:, :users, ::-1], history
        ),
    )


def assert_same(one: Counters, other: Counters) -> None:
    at = np.arange(-1, 45)
    for name in NAMES:
        keys = np.unique(np.r_[-1, np.arange(4), (np.arange(3)[:, None] * PAIR_RADIX + np.arange(4)).ravel()])[:, None]
        a, b = getattr(one, name), getattr(other, name)
        np.testing.assert_array_equal(a.read(keys, at), b.read(keys, at))
        np.testing.assert_array_equal(a.window(keys, at, 2, 7), b.window(keys, at, 2, 7))
        for read in ("last_seen", "last_clicked"):
            np.testing.assert_array_equal(getattr(a, read)(keys, at), getattr(b, read)(keys, at))
        np.testing.assert_array_equal(a.first_seen(keys), b.first_seen(keys))
    assert one.coclicks is not None
    assert other.coclicks is not None
    asked = Asked(
        user_keys=np.arange(-1, 4),
        at=np.array([5, 20, 30, 45, 45], np.int64),
        recent=np.full((5, RECENT), NO_KEY) + np.arange(RECENT) % 3,
        reading=np.arange(-2, 3),
        is_subscriber=np.zeros(5, bool),
        device=np.full(5, ""),
    )
    items, owner = np.tile(np.arange(-1, 4), 5), np.repeat(np.arange(5), 5)
    found, wanted = (each.coclicks.columns(items, owner, asked, 3) for each in (one, other))  # pyright: ignore
    for name, column in wanted.items():
        np.testing.assert_array_equal(found[name], column)
    codes = [each.coclicks.item_codes(np.arange(-1, 4)[:, None], at) for each in (one, other)]  # pyright: ignore
    np.testing.assert_array_equal(*codes)


def live(logged: list[tuple]) -> LiveCounters:
    known_items, known_users = ({name: key for key, name in enumerate(names)} for names in (ITEMS, USERS))
    return LiveCounters(
        whole(logged, KNOWN_USERS, KNOWN_ITEMS),
        {name: key for name, key in known_items.items() if key < KNOWN_ITEMS},
        {name: key for name, key in known_users.items() if key < KNOWN_USERS},
    )


@settings(max_examples=60, deadline=None)
@given(logs, logs, st.lists(st.integers(1, 7), min_size=1))
def test_the_log_and_live_events_read_as_one_log(logged: list[tuple], came: list[tuple], sizes: list[int]) -> None:
    logged = [each for each in logged if each[0] < KNOWN_USERS and each[1] < KNOWN_ITEMS]
    counters = live(logged)
    counters.items.learn(ITEMS)  # so that keys are positions, whatever the order of arrival
    counters.users.learn(USERS)
    events = [to_event(number, each) for number, each in enumerate(came)]
    place = 0
    for number in range(len(events)):
        size = sizes[number % len(sizes)]
        counters.add(events[place : place + size])
        place += size
    assert_same(counters.now, whole([*logged, *came], len(USERS), len(ITEMS)))


@given(logs)
def test_an_outcome_counts_its_click_and_not_a_second_show(came: list[tuple]) -> None:
    shows = [(*each[:3], False, ROLE_IMPRESSION) for each in came]
    counters = live([])
    counters.items.learn(ITEMS)
    counters.users.learn(USERS)
    counters.add([to_event(number, each) for number, each in enumerate(shows)])
    counters.add([to_event(number, each, OUTCOME, 1.0) for number, each in enumerate(shows)])
    clicked = [(*each[:3], True, ROLE_IMPRESSION) for each in came]
    assert_same(counters.now, whole(clicked, len(USERS), len(ITEMS)))


def test_new_ids_get_the_next_keys_and_keep_them() -> None:
    counters = live([])
    counters.add([to_event(0, (2, 3, 5, True, ROLE_IMPRESSION))])
    assert (counters.users.key("u2"), counters.items.key("i3")) == (KNOWN_USERS, KNOWN_ITEMS)
    assert (counters.users.key("nobody"), counters.items.keys(["i0", "nothing"]).tolist()) == (-1, [0, -1])
    shows, clicks = counters.now.user_item_counters.read(counters.now.pair_key([2], [3]), 6)
    assert (shows.tolist(), clicks.tolist()) == ([1], [1])


def test_a_state_that_was_read_is_not_changed_by_events_that_come_later() -> None:
    counters = live([(0, 0, 1, True, ROLE_IMPRESSION)])
    before = counters.now
    counters.add([to_event(number, (0, 0, number, True, ROLE_IMPRESSION)) for number in range(30)])
    assert before.item_counters.read([0], 50)[0].tolist() == [1]
    assert counters.now.item_counters.read([0], 50)[0].tolist() == [31]
    assert isinstance(before.item_counters, AsOfCounter)


def test_live_rows_lie_in_few_parts() -> None:
    counters = live([])
    for number in range(5_000):
        counters.add([to_event(number, (number % 3, number % 4, number, False, ROLE_IMPRESSION))])
    sizes = [len(part.rows.times) for part in counters._parts]
    assert sum(sizes) == 5_000
    assert len(sizes) <= 6


def test_large_parts_are_merged_in_the_background_while_reads_go_on() -> None:
    """No add waits for a merge of more than MERGED_AT_ONCE rows, and every intermediate state is complete."""
    counters, made = live([]), []
    built = counters._part

    def watched(rows):  # type: ignore[no-untyped-def]
        made.append((threading.current_thread().name, len(rows.times)))
        return built(rows)

    counters._part = watched
    events = [to_event(number, (0, 0, number, number % 2 == 0, ROLE_IMPRESSION)) for number in range(60_000)]
    for place in range(0, len(events), 1_000):
        counters.add(events[place : place + 1_000])
        shows, clicks = counters.now.item_counters.read([0], 10**6)
        assert (shows[0], clicks[0]) == (place + 1_000, (place + 1_000) // 2)
    counters.settle()
    assert counters.now.item_counters.read([0], 10**6)[0].tolist() == [60_000]
    assert max(size for name, size in made if name != "merge") <= MERGED_AT_ONCE
    assert max(size for name, size in made if name == "merge") > MERGED_AT_ONCE
    assert len(counters._parts) <= 6


def test_a_row_takes_less_than_a_hundred_bytes() -> None:
    counters = live([])
    names = [[f"{kind}{number}" for number in range(1_000)] for kind in ("u", "i")]
    draw = np.random.default_rng(0)
    events = [
        LiveEvent(f"e{n}", EVENT, names[0][user], names[1][item], n // 20, 0.0, ROLE_IMPRESSION, False)
        for n, (user, item) in enumerate(draw.integers(1_000, size=(40_000, 2)).tolist())
    ]
    for place in range(0, len(events), 5_000):
        counters.add(events[place : place + 5_000])
    counters.settle()
    assert 40 < counters.num_bytes / counters.num_events < 100
