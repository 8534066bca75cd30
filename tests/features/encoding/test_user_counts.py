"""A user's row answers as the tables of all users do, bit for bit, at any time; and is as small as it says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.encoding.as_of import AsOfCounter
from features.encoding.counters import PAIR_RADIX, Counters
from features.encoding.user_counts import NO_COUNTS, UNNAMED, UserCounts, rows_of_users

NO_ROWS = AsOfCounter.from_rows(*np.zeros((4, 0), np.int64))


def counted(keys: list[int], times: list[int], clicks: list[int], shows: list[int]) -> AsOfCounter:
    """Running counts of events, one row a (key, time); the slow way."""
    rows: dict[tuple[int, int], list[int]] = {}
    for key, time, click, show in sorted(zip(keys, times, clicks, shows, strict=True)):
        row = rows.setdefault((key, time), [0, 0])
        row[0], row[1] = row[0] + show, row[1] + click
    running: dict[int, list[int]] = {}
    made = []
    for (key, time), (show, click) in rows.items():
        total = running.setdefault(key, [0, 0])
        total[0], total[1] = total[0] + show, total[1] + click
        made.append((key, time, *total))
    columns = np.array(made, np.int64).reshape(-1, 4).T
    return AsOfCounter.from_rows(*columns)


EVENT = st.tuples(
    st.integers(0, 3), st.integers(0, 6), st.integers(-5, 12), st.integers(0, 1), st.sampled_from([0, 1, 1, 300])
)


@given(st.lists(EVENT, max_size=40), st.permutations(range(7)))
def test_a_row_reads_as_the_tables_of_all_users(events: list[tuple[int, ...]], order: list[int]) -> None:
    users, items, times, clicks, shows = (list(column) for column in zip(*events, strict=True)) if events else ([],) * 5
    pairs = [user * PAIR_RADIX + item for user, item in zip(users, items, strict=True)]
    whole = Counters(NO_ROWS, counted(users, times, clicks, shows), counted(pairs, times, clicks, shows))
    rows = {key: (newest, row) for key, newest, row in rows_of_users(whole, "i{}".format, 0, 9)}
    assert rows.keys() == set(users)
    at = np.arange(-7, 16)
    for user, (newest, row) in rows.items():
        counts = UserCounts.decode(row)
        assert counts.encode() == row
        assert newest == max(time for name, time in zip(users, times, strict=True) if name == user)
        keys = np.array([order[int(name[1:])] for name in counts.item_ids], np.int64)
        own, of_pairs = counts.counters(UNNAMED, keys)
        asked = np.arange(7)[:, None]
        theirs = np.array(order)[:, None] + UNNAMED * PAIR_RADIX
        for name in ("read", "last_seen", "last_clicked"):
            same(getattr(own, name)([UNNAMED], at), getattr(whole.user_counters, name)([user], at))
            wanted = getattr(whole.user_item_counters, name)(user * PAIR_RADIX + asked, at)
            same(getattr(of_pairs, name)(theirs, at), wanted)
        same(own.window([UNNAMED], at, 1, 4), whole.user_counters.window([user], at, 1, 4))
        same(own.first_seen([UNNAMED]), whole.user_counters.first_seen([user]))
        same(own.read([3], at)[0], np.zeros_like(at))


def same(found: object, wanted: object) -> None:
    assert np.asarray(found).dtype == np.asarray(wanted).dtype
    np.testing.assert_array_equal(np.asarray(found), np.asarray(wanted))


def test_items_that_have_no_key_are_left_out_and_the_others_stay() -> None:
    counts = UserCounts(
        *(np.array(each) for each in ([3, 9], [2, 3], [0, 1])),
        ["gone", "a", "é🎬"],
        *(np.array(each) for each in ([0, 1, 2, 2], [0, 0, 0, 1], [1, 1, 1, 2], [0, 0, 0, 1])),
    )
    again = UserCounts.decode(counts.encode())
    _, pairs = again.counters(2, np.array([-1, 5, 4]))
    keys = 2 * PAIR_RADIX + np.array([4, 5, 6])
    assert [each.tolist() for each in pairs.read(keys, 10)] == [[2, 1, 0], [1, 0, 0]]
    assert pairs.keys.tolist() == keys[:2].tolist()
    _, none = again.counters(2, np.array([-1, -1, -1]))
    assert none.read(keys, 10)[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("ids", [["a\0", "\0b", "é"], ["é", "🎬", "x"], ["", "a", "b"]])
def test_ids_of_any_characters_come_back(ids: list[str]) -> None:
    one = np.array([0])
    counts = UserCounts(one, one + 3, one, ids, np.arange(3), one.repeat(3), one.repeat(3) + 1, one.repeat(3))
    assert UserCounts.decode(counts.encode()).item_ids == ids


def test_a_user_without_events_has_no_counts() -> None:
    own, pairs = UserCounts.decode(NO_COUNTS.encode()).counters(UNNAMED, np.zeros(0, np.int64))
    assert own.read([UNNAMED], 5)[0].tolist() == [0]
    assert pairs.read([UNNAMED * PAIR_RADIX], 5)[0].tolist() == [0]


@pytest.mark.parametrize("row", [b"", b"\x01", b"\x02" + NO_COUNTS.encode()[1:], NO_COUNTS.encode() + b"x"])
def test_bytes_that_are_no_row_are_refused(row: bytes) -> None:
    with pytest.raises(ValueError, match="a user's counts"):
        UserCounts.decode(row)


def test_a_show_takes_few_bytes() -> None:
    """1,000 shows in 100 requests, of 500 items."""
    items = np.repeat(np.arange(500), 2)
    times = np.arange(1000) % 100
    order = np.lexsort((times, items))
    counts = UserCounts(
        np.arange(100) * 10**9,
        np.arange(1, 101) * 10,
        np.arange(100),
        [f"N{number:05}" for number in range(500)],
        items[order],
        times[order],
        np.tile([1, 2], 500),
        np.tile([0, 1], 500),
    )
    assert len(counts.encode()) < 8_500
