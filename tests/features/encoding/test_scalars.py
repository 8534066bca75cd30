"""Scalar features are what was known by each lag; a list is compared with itself; one request reads as many."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.encoding.as_of import AsOfCounter
from features.encoding.asked import NO_CONTEXT, NO_KEY, UNKNOWN_KEY, Asked, Context, recent_clicks
from features.encoding.counters import PAIR_RADIX, Counters
from features.encoding.encode import FeatureSpec
from features.encoding.scalars import (
    OLDEST_HOURS,
    PRIOR_RATE,
    PRIOR_SHOWS,
    compare_in_list,
    scalar_features,
    scalars_of_one,
)
from features.terms.convention import RECENT

SECOND = 1_000_000
NUM_ITEMS, NUM_USERS = 4, 3
SPEC = FeatureSpec(
    history_length=4,
    labels="clicked",
    history_lag_s=0.0,
    session_gap_s=40.0,
    session_max_s=None,
    windows_s=(60, 3600),
    shows_lag_s=10.0,
    clicks_lag_s=30.0,
    user_lag_s=10.0,
    context=False,
    devices=(),
    coclick_rank=0,
    coclick_period_s=86_400.0,
    in_list=False,
)
IN_LIST = replace(SPEC, in_list=True)

Event = tuple[int, int, int, bool]  # user, item, second, clicked
events = st.lists(
    st.tuples(st.integers(0, NUM_USERS - 1), st.integers(0, NUM_ITEMS - 1), st.integers(0, 150), st.booleans()),
    max_size=25,
)
requests = st.lists(
    st.tuples(st.integers(-1, NUM_USERS), st.integers(0, 200), st.lists(st.integers(-1, NUM_ITEMS), min_size=1)),
    max_size=4,
)


def cumulative(keyed: list[tuple[int, int, bool]]) -> AsOfCounter:
    """Cumulative rows of (key, second, clicked), as the stage statistics makes them."""
    rows = []
    for key, at in sorted({(key, at) for key, at, _ in keyed}):
        upto = [clicked for other, time, clicked in keyed if other == key and time <= at]
        rows.append((key, at * SECOND, len(upto), sum(upto)))
    return AsOfCounter.from_rows(*np.array(rows, np.int64).reshape(-1, 4).T)


def count(log: list[Event]) -> Counters:
    return Counters(
        cumulative([(item, at, hit) for _, item, at, hit in log]),
        cumulative([(user, at, hit) for user, _, at, hit in log]),
        cumulative([(user * PAIR_RADIX + item, at, hit) for user, item, at, hit in log]),
    )


def log_hours(at: float, then: list[int]) -> float:
    return math.log1p(min((at - max(then)) / 3600, OLDEST_HOURS) if then else OLDEST_HOURS)


def smoothed(shows: list[int], clicks: list[int]) -> list[float]:
    total = (clicks[0] + PRIOR_SHOWS * PRIOR_RATE) / (shows[0] + PRIOR_SHOWS)
    windows = [(c + PRIOR_SHOWS * total) / (s + PRIOR_SHOWS) for s, c in zip(shows[1:], clicks[1:], strict=True)]
    return [total, *windows]


def slow_scalars(spec: FeatureSpec, log: list[Event], user: int, item: int, at: int) -> dict[str, float]:
    """The definition, one event at a time; of one candidate, without its list."""

    def inside(rows: list[Event], lag: float) -> list[list[Event]]:
        known = [row for row in rows if row[2] < at - lag]
        return [known, *([row for row in known if row[2] >= at - lag - width] for width in spec.windows_s)]

    of_item = [row for row in log if row[1] == item]
    of_user = [row for row in log if row[0] == user]
    of_pair = [row for row in of_item if row[0] == user and row[2] < at - spec.user_lag_s]
    shows = [len(rows) for rows in inside(of_item, spec.shows_lag_s)]
    clicks = [sum(row[3] for row in rows) for rows in inside(of_item, spec.clicks_lag_s)]
    by_user = inside(of_user, spec.user_lag_s)
    user_clicks = [sum(row[3] for row in rows) for rows in by_user]
    rates = smoothed(shows, clicks)
    seen = [row[2] for row in of_item if row[2] < at - spec.shows_lag_s]
    clicked = [row[2] for row in of_item if row[3] and row[2] < at - spec.clicks_lag_s]
    recent = [row for row in by_user[0] if row[2] >= at - spec.user_lag_s - spec.session_gap_s]
    made = {
        "item_age": log_hours(at, [min(seen)] if seen else []),
        "item_seen_age": log_hours(at, seen),
        "item_click_age": log_hours(at, clicked),
        "item_click_trend": math.log1p(60 * clicks[1]) - math.log1p(clicks[2]),  # 3600 s hold 60 s sixty times
        "item_rate_trend": math.log(rates[1] / rates[2]),
        "user_item_shows": math.log1p(len(of_pair)),
        "user_item_clicks": math.log1p(sum(row[3] for row in of_pair)),
        "user_item_seen_age": log_hours(at, [row[2] for row in of_pair]),
        "user_rate": smoothed([len(by_user[0])], user_clicks[:1])[0],
        "user_age": log_hours(at, [row[2] for row in by_user[0]]),
        "user_session_shows": math.log1p(len(recent)),
    }
    for number, scope in enumerate(["total", "60s", "3600s"]):
        made[f"item_shows_{scope}"] = math.log1p(shows[number])
        made[f"item_clicks_{scope}"] = math.log1p(clicks[number])
        made[f"item_rate_{scope}"] = rates[number]
        made[f"user_shows_{scope}"] = math.log1p(len(by_user[number]))
        made[f"user_clicks_{scope}"] = math.log1p(user_clicks[number])
    return made


def of_requests(spec: FeatureSpec, log: list[Event], asked: list[tuple[int, int, list[int]]]) -> np.ndarray:
    items = [item for _, _, listed in asked for item in listed]
    owner = [number for number, (_, _, listed) in enumerate(asked) for _ in listed]
    at = [at * SECOND for _, at, _ in asked]
    users = np.array([user for user, _, _ in asked], np.int64)
    return scalar_features(spec, count(log), items, owner, ask(users, np.array(at, np.int64)))


def ask(users: np.ndarray, at: np.ndarray) -> Asked:
    """Requests that say nothing of themselves, of users without a click."""
    nothing = np.full(len(users), NO_KEY)
    recent = np.full((len(users), RECENT), NO_KEY)
    return Asked(users, at, recent, nothing, np.zeros(len(users), bool), np.full(len(users), ""))


def ask_one(user: int, at: int, context: Context = NO_CONTEXT, reading: int = UNKNOWN_KEY) -> Asked:
    return Asked.of_one(user, at, recent_clicks([], []), reading, context)


def known(key: int, number: int) -> int:
    return key if 0 <= key < number else -9


@given(events, requests)
def test_scalars_are_what_was_known_by_each_lag(log, asked) -> None:
    found = iter(of_requests(SPEC, log, asked))
    for user, at, listed in asked:
        for item in listed:
            wanted = slow_scalars(SPEC, log, known(user, NUM_USERS), known(item, NUM_ITEMS), at)
            assert dict(zip(SPEC.scalars, next(found), strict=True)) == pytest.approx(wanted, rel=1e-5, abs=1e-6)


@given(events, requests, st.integers(0, 50))
def test_later_events_change_nothing(log, asked, later) -> None:
    until = max((at for _, at, _ in asked), default=0)
    future = [(user, item, until + later, hit) for user, item, _, hit in log]
    np.testing.assert_array_equal(of_requests(IN_LIST, log, asked), of_requests(IN_LIST, log + future, asked))


@given(events, requests, st.sampled_from([SPEC, IN_LIST]))
def test_requests_read_alike_together_and_one_by_one(log, asked, spec) -> None:
    counters = count(log)
    together = of_requests(spec, log, asked)
    alone = [scalars_of_one(spec, counters, listed, ask_one(user, at * SECOND)) for user, at, listed in asked]
    np.testing.assert_array_equal(together, np.concatenate([np.zeros((0, len(spec.scalars)), np.float32), *alone]))
    assert together.dtype == np.float32


def test_no_request_and_many_chunks_are_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    log = [(0, 0, 5, True), (1, 2, 50, False), (0, 1, 90, True)]
    asked = [(0, 100 + number, [0, 1, 2][: 1 + number % 3]) for number in range(12)]
    assert of_requests(IN_LIST, log, []).shape == (0, len(IN_LIST.scalars))
    whole = of_requests(IN_LIST, log, asked)
    monkeypatch.setattr("features.encoding.scalars.ROWS_AT_ONCE", 4)
    np.testing.assert_array_equal(of_requests(IN_LIST, log, asked), whole)


def slow_ranks(values: list[float]) -> list[float]:
    """Mean rank of equals, 0 least to 1 greatest."""
    if len(values) == 1:
        return [0.5]
    return [
        (sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2) / (len(values) - 1)
        for value in values
    ]


@given(st.lists(st.lists(st.integers(-3, 3), min_size=1, max_size=6), max_size=5))
def test_a_list_is_compared_with_itself(lists) -> None:
    values = np.array([[value, -value] for each in lists for value in each], np.float32).reshape(-1, 2)
    owner = np.array([7 * number for number, each in enumerate(lists) for _ in each], np.int64)
    ranks, differences, length = compare_in_list(values, owner)
    assert ranks[:, 0] == pytest.approx([rank for each in lists for rank in slow_ranks(each)])
    assert ranks[:, 1] == pytest.approx([rank for each in lists for rank in slow_ranks([-v for v in each])])
    assert differences[:, 0] == pytest.approx([v - np.mean(each) for each in lists for v in each], abs=1e-6)
    assert length[:, 0] == pytest.approx([math.log1p(len(each)) for each in lists for _ in each])


def test_the_list_is_a_group_of_its_own_behind_the_others() -> None:
    log = [(0, 0, 5, True), (1, 2, 50, False)]
    plain, compared = (of_requests(spec, log, [(0, 100, [0, 1, 2])]) for spec in (SPEC, IN_LIST))
    np.testing.assert_array_equal(plain, compared[:, : plain.shape[1]])
    assert IN_LIST.scalars[: len(SPEC.scalars)] == SPEC.scalars
    assert len(IN_LIST.scalars) == len(SPEC.scalars) + 2 * len(SPEC.candidate_scalars) + 1
    assert IN_LIST.hash() != SPEC.hash()
    column = IN_LIST.scalars.index("item_shows_total_rank")
    assert compared[:, column].tolist() == [0.75, 0.0, 0.75]


def test_without_two_windows_there_is_no_trend() -> None:
    for windows in [(), (60,), (100_000, 200_000)]:
        spec = replace(SPEC, windows_s=windows)
        row = scalars_of_one(spec, count([(0, 0, 5, True)]), [0], ask_one(0, 100 * SECOND))[0]
        named = dict(zip(spec.scalars, row, strict=True))
        assert (named["item_click_trend"], named["item_rate_trend"]) == (0, 0)


def test_a_request_s_context_is_read() -> None:
    spec = replace(SPEC, context=True, devices=("phone", "tv"))

    def read(context: Context, reading: int = UNKNOWN_KEY) -> list[dict[str, float]]:
        rows = scalars_of_one(spec, count([]), [0, 1, -1], ask_one(0, 6 * 3600 * SECOND, context, reading))
        return [dict(zip(spec.scalars, row.tolist(), strict=True)) for row in rows]

    silent = read(NO_CONTEXT)[0]
    assert (silent["hour_sin"], silent["hour_cos"]) == pytest.approx((1, 0), abs=1e-6)  # six in the morning
    assert [silent[name] for name in ("on_item_page", "is_subscriber", "device_phone", "device_tv")] == [0, 0, 0, 0]
    told = read(Context("tv", True, "b"), reading=1)
    assert [row["item_is_read"] for row in told] == [0, 1, 0]
    assert [told[0][name] for name in ("on_item_page", "is_subscriber", "device_phone", "device_tv")] == [1, 1, 0, 1]
    unheard = read(Context("car", False, "nowhere"))  # an unknown candidate is not the unknown page's item
    assert [row["item_is_read"] for row in unheard] == [0, 0, 0]
    assert [unheard[0][name] for name in ("on_item_page", "is_subscriber", "device_phone", "device_tv")] == [1, 0, 0, 0]


def test_every_column_has_a_name_of_its_own() -> None:
    full = replace(IN_LIST, context=True, devices=("phone",), coclick_rank=2)
    assert len(set(full.scalars)) == len(full.scalars)
    assert len(set(IN_LIST.scalars)) == len(IN_LIST.scalars)
    assert all(one != other for one, other in pairwise(IN_LIST.scalars))
