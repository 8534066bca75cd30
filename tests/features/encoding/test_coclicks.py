"""Candidates are compared by who clicked them before: against a slow definition, in time, together and alone."""

import math
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import InputError
from contracts.schema import COCLICK_CLICKS, ROLE_HISTORY, ROLE_IMPRESSION, TIME, coclick_factors
from features.counts.factors import LENGTH, leading, user_codes, user_factors, write_coclicks
from features.encoding.asked import NO_KEY, Asked, recent_clicks
from features.encoding.coclicks import CODE_LENGTH, SHRINKAGE, Clicks, Coclicks
from features.engine.engine import InProcess
from features.terms.convention import COCLICK_SPANS, RECENT, coclick_columns

SECOND = 1_000_000
NUM_ITEMS, NUM_USERS, RANK = 4, 3, 2
STARTS = (0, 100)
LAG = 10
COLUMNS = coclick_columns(RANK, context=True)

Click = tuple[int, int, int]  # item, second, user
clicks = st.lists(
    st.tuples(st.integers(0, NUM_ITEMS - 1), st.integers(0, 200), st.integers(0, NUM_USERS - 1)), max_size=20
)
factors = st.lists(st.integers(-127, 127), min_size=12, max_size=12).map(
    lambda flat: np.array(flat, np.int8).reshape(len(STARTS), NUM_USERS, RANK)
)
item = st.integers(NO_KEY, NUM_ITEMS)
requests = st.lists(
    st.tuples(
        st.integers(-1, NUM_USERS),
        st.integers(-20, 250),
        st.lists(item, min_size=RECENT, max_size=RECENT),
        item,
        st.lists(item, min_size=1, max_size=3),
    ),
    max_size=4,
)


def coclicks(log: list[Click], made: np.ndarray, history: list[Click] = ()) -> Coclicks:
    """Codes are the factors turned round, so that one is not taken for the other."""
    shown, others = (
        np.array(sorted(each), np.int64).reshape(-1, 3).T * [[1], [SECOND], [1]] for each in (log, history)
    )
    starts = np.array(STARTS, np.int64) * SECOND
    return Coclicks(*shown, starts, made, made[:, :, ::-1].copy(), Clicks(*others))


def ask(asked: list) -> Asked:
    users, at, recent, reading, _ = zip(*asked, strict=True) if asked else [()] * 5
    return Asked(
        np.array(users, np.int64),
        np.array(at, np.int64) * SECOND,
        np.array(recent, np.int64).reshape(-1, RECENT),
        np.array(reading, np.int64),
        np.zeros(len(users), bool),
        np.full(len(users), ""),
    )


def read(log: list[Click], made: np.ndarray, asked: list) -> np.ndarray:
    owner = np.array([number for number, each in enumerate(asked) for _ in each[4]], np.int64)
    items = np.array([key for each in asked for key in each[4]], np.int64)
    found = coclicks(log, made).columns(items, owner, ask(asked), LAG * SECOND)
    return np.stack([found[name] for name in COLUMNS], axis=1)


def slow(log: list[Click], made: np.ndarray, user: int, at: int, recent: list, reading: int, key: int) -> list[float]:
    """The definition, one click at a time."""
    periods = [number for number, start in enumerate(STARTS) if start <= at - LAG]
    if not periods:
        return [0.0] * len(COLUMNS)
    of_user = made[periods[-1]].astype(float)

    def vector(item: int) -> np.ndarray:
        readers = [of_user[user] for other, second, user in log if other == item and second < at - LAG]
        return np.sum(readers, axis=0) / (len(readers) + SHRINKAGE) if readers else np.zeros(RANK)

    def cosine(one: np.ndarray, other: np.ndarray) -> float:
        length = math.sqrt((one @ one) * (other @ other))
        return float(one @ other / length) if length else 0.0

    own = of_user[user] if 0 <= user < NUM_USERS else np.zeros(RANK)
    spans = [np.sum([vector(each) for each in recent[-span:]], axis=0) for span in COCLICK_SPANS]
    return [cosine(vector(key), other) for other in (own, *spans, vector(reading))]


@given(clicks, factors, requests)
def test_a_candidate_s_vector_is_the_sum_of_its_readers_factors(log, made, asked) -> None:
    found = iter(read(log, made, asked).tolist())
    for user, at, recent, reading, listed in asked:
        for key in listed:
            assert next(found) == pytest.approx(slow(log, made, user, at, recent, reading, key), abs=1e-9)


@given(clicks, factors, requests, st.integers(0, 50))
def test_later_clicks_change_nothing(log, made, asked, later) -> None:
    until = max((at for _, at, *_ in asked), default=0)
    future = [(item, until - LAG + later, user) for item, _, user in log]
    np.testing.assert_array_equal(read(log, made, asked), read(log + future, made, asked))


@given(clicks, factors, requests)
def test_requests_read_alike_together_and_one_by_one(log, made, asked) -> None:
    alone = [read(log, made, [each]) for each in asked]
    together = read(log, made, asked)
    np.testing.assert_array_equal(together, np.concatenate([np.zeros((0, len(COLUMNS))), *alone]))


def read_codes(log: list[Click], made: np.ndarray, history: list[Click], asked: list[tuple[int, int]]) -> np.ndarray:
    items, at = np.array(asked, np.int64).reshape(-1, 2).T
    return coclicks(log, made, history).item_codes(items, at * SECOND)


asked_items = st.lists(st.tuples(item, st.integers(-20, 250)), max_size=6)


@given(clicks, clicks, factors, asked_items)
def test_an_items_code_is_the_mean_of_all_its_readers_each_as_of_when_they_read(log, history, made, asked) -> None:
    found = read_codes(log, made, history, asked)
    assert found.shape == (len(asked), RANK)
    for code, (key, at) in zip(found, asked, strict=True):
        readers = [(second, user) for other, second, user in (*log, *history) if other == key and second < at]
        periods = [int(second >= STARTS[1]) for second, _ in readers]
        total = sum(
            (made[p, user, ::-1].astype(float) for p, (_, user) in zip(periods, readers, strict=True)), np.zeros(RANK)
        )
        wanted = total / (CODE_LENGTH * (len(readers) + SHRINKAGE)) if at >= STARTS[0] else np.zeros(RANK)
        np.testing.assert_allclose(code, wanted, atol=1e-6)


@given(clicks, clicks, factors, asked_items, st.integers(0, 50))
def test_later_clicks_change_no_code(log, history, made, asked, later) -> None:
    until = max((at for _, at in asked), default=0)
    future = [(item, until + later, user) for item, _, user in log]
    before = read_codes(log, made, history, asked)
    np.testing.assert_array_equal(read_codes(log + future, made, history + future, asked), before)


def test_codes_of_two_periods_are_of_one_space_and_factors_are_not() -> None:
    """Two tastes; in the second period there are more users and clicks of each."""
    draw = np.random.default_rng(0)
    users, items = np.repeat(np.arange(60), 8), draw.integers(0, 25, 480)
    items += (users % 2) * 25
    pairs = np.unique(np.stack([users, items]), axis=1)
    early = pairs[:, (pairs[0] < 40) & (draw.random(pairs.shape[1]) < 0.7)]
    periods = [
        (np.unique(each[0]), *(np.unique(side, return_inverse=True)[1] for side in each)) for each in (early, pairs)
    ]
    codes, known = np.zeros((0, 4), np.int8), np.zeros(0, np.int64)
    made = []
    for names, users, items in periods:
        codes = user_codes(leading(users, items, 4), np.searchsorted(names, known), codes, 4)
        known = names
        made.append((names, codes.astype(float) / LENGTH))
    (first, one), (second, other) = made
    both = np.searchsorted(second, first)
    assert (one * other[both]).sum(axis=1).mean() > 0.7
    alone = user_codes(leading(*periods[1][1:], 4), np.zeros(0, np.int64), np.zeros((0, 4), np.int8), 4) / LENGTH
    assert (one * alone[both]).sum(axis=1).mean() < 0.6  # each period's own directions, not turned
    np.testing.assert_allclose(alone @ alone.T, other @ other.T, atol=0.05)  # turning changes no angle between users


def test_sums_that_wrap_have_the_same_differences() -> None:
    log = [(0, second, 0) for second in range(20)] + [(1, 3, 1)]
    made = np.zeros((len(STARTS), NUM_USERS, RANK), np.int8)
    made[0] = [[127, 0], [60, 80], [0, 0]]
    one = coclicks(log, made)
    asked = [(1, 50, [NO_KEY] * RECENT, NO_KEY, [0, 1])]
    wanted = read(log, made, asked)
    logged = one._logged
    logged._sums[0] = logged._running_sums(0, made[0]) + np.int32(
        2**31 - 1 - 60
    )  # as after millions of clicks before these
    owner, items = np.zeros(2, np.int64), np.array([0, 1])
    found = one.columns(items, owner, ask(asked), LAG * SECOND)
    np.testing.assert_array_equal(np.stack([found[name] for name in COLUMNS], axis=1), wanted)


def test_users_of_one_taste_have_near_factors_and_others_far_ones() -> None:
    users = np.repeat(np.arange(40), 6)
    items = (users % 2) * 50 + np.random.default_rng(0).integers(0, 20, len(users))
    pairs = np.unique(np.stack([users, items]), axis=1)
    made = user_factors(pairs[0], np.unique(pairs[1], return_inverse=True)[1], 4).astype(float)
    cosines = made @ made.T / LENGTH**2
    same = (np.arange(40)[:, None] % 2) == (np.arange(40) % 2)
    assert cosines[same].mean() > 0.5
    assert abs(cosines[~same].mean()) < 0.05
    assert np.linalg.norm(made, axis=1) == pytest.approx(LENGTH, rel=0.02)
    assert not user_factors(np.array([0, 1]), np.array([0, 0]), 8)[:, 1:].any()


def test_other_names_of_items_change_no_factor_beyond_rounding() -> None:
    draw = np.random.default_rng(0)
    users, items = np.unique(np.stack([draw.integers(0, 60, 400), draw.integers(0, 90, 400)]), axis=1)
    items = np.unique(items, return_inverse=True)[1]
    dealt = draw.permutation(int(items.max()) + 1)
    one, other = (user_factors(users, each, 16).astype(int) for each in (items, dealt[items]))
    assert np.abs(one - other).max() <= 1


def rows(log: list[tuple[str, str, float, float, str]]) -> pa.Table:
    users, items, days, labels, roles = zip(*log, strict=True)
    at = pa.array([round(day * 86_400 * SECOND) for day in days], pa.int64()).cast(TIME)
    return pa.table({"user_id": users, "item_id": items, "occurred_at": at, "label": labels, "role": roles})


LOG = [
    ("u1", "a", 0.5, 1.0, ROLE_IMPRESSION),
    ("u2", "a", 0.6, 1.0, ROLE_HISTORY),
    ("u2", "b", 0.7, 0.0, ROLE_IMPRESSION),
    ("u2", "b", 1.5, 1.0, ROLE_IMPRESSION),
    ("u1", "b", 1.6, 1.0, ROLE_IMPRESSION),
]


def test_what_is_written_is_read_back_by_the_numbers_of_the_vocabulary(tmp_path: Path) -> None:
    counts = write_coclicks(InProcess(), ibis.memtable(rows(LOG)), 2, 86_400, tmp_path, tmp_path)
    wanted = {"num_coclick_clicks": 3, "num_coclick_history_clicks": 1, "num_coclick_factors": 4}
    assert counts == wanted  # days 1 and 2; of day 0 nothing is before it
    made = Coclicks.from_folder(tmp_path, ["a", "b", "c"], ["u1", "u2", "u3"])
    assert made is not None
    assert (made.items.tolist(), made.users.tolist()) == ([0, 1, 1], [0, 1, 0])  # the history's click is nobody's
    assert [datetime.fromtimestamp(start / SECOND, UTC).day for start in made.starts] == [2, 3]
    assert np.linalg.norm(made.factors[0, 1].astype(float)) == pytest.approx(LENGTH, rel=0.02)  # but makes a factor
    assert not made.factors[:, 2].any()
    assert pq.read_schema(tmp_path / "clicks.parquet").equals(COCLICK_CLICKS)
    assert (made.history.items.tolist(), made.history.users.tolist()) == ([0], [1])
    assert made.codes.shape == (2, 3, 2)
    assert pq.read_schema(tmp_path / "history_clicks.parquet").equals(COCLICK_CLICKS)
    assert pq.read_schema(tmp_path / "factors.parquet").equals(coclick_factors(2, 2))
    assert Coclicks.from_folder(tmp_path / "nowhere", [], []) is None
    with pytest.raises(InputError, match="item_id"):
        Coclicks.from_folder(tmp_path, ["a"], ["u1", "u2"])


def test_later_rows_change_no_earlier_factor(tmp_path: Path) -> None:
    """Nor do they where the first user clicks again what others clicked, which comes first in order of the ids then."""
    draw = np.random.default_rng(0)

    def clicks_from(day: float, number: int) -> list[tuple[str, str, float, float, str]]:
        drawn = zip(draw.integers(40, size=number), draw.integers(50, size=number), draw.random(number), strict=True)
        return [(f"u{user:02}", f"i{item:02}", day + part, 1.0, ROLE_IMPRESSION) for user, item, part in drawn]

    log = clicks_from(0, 300)
    later = [*clicks_from(1, 200), ("t", "i49", 1.5, 1.0, ROLE_IMPRESSION), ("u00", "h", 1.6, 1.0, ROLE_IMPRESSION)]
    for name, each in (("whole", log), ("more", later + log)):
        (tmp_path / name).mkdir()
        write_coclicks(InProcess(), ibis.memtable(rows(each)), 8, 86_400, tmp_path / name, tmp_path)
    whole, more = (pq.read_table(tmp_path / name / "factors.parquet") for name in ("whole", "more"))
    assert len(more) > len(whole) >= 39
    assert more.slice(0, len(whole)).equals(whole)


def test_the_order_of_rows_changes_no_byte(tmp_path: Path) -> None:
    for name, log in (("whole", LOG), ("turned", LOG[::-1])):
        (tmp_path / name).mkdir()
        write_coclicks(InProcess(), ibis.memtable(rows(log)), 2, 86_400, tmp_path / name, tmp_path)
    for file in ("factors.parquet", "clicks.parquet", "history_clicks.parquet"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "turned" / file).read_bytes()


def test_a_period_too_short_for_the_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"coclick_period_s.*Raise it"):
        write_coclicks(InProcess(), ibis.memtable(rows(LOG)), 2, 1, tmp_path, tmp_path)


def test_only_clicks_are_recent() -> None:
    assert recent_clicks([5, 6, 7], [1, 0, 1]).tolist() == [NO_KEY] * (RECENT - 3) + [5, NO_KEY, 7]
    assert recent_clicks(range(20), np.ones(20)).tolist() == list(range(10, 20))


def test_a_spec_without_the_item_being_read_has_no_column_of_it() -> None:
    assert set(COLUMNS) - set(coclick_columns(RANK, context=False)) == {"coclick_read"}
    assert coclick_columns(0, context=True) == ()
    assert replace(ask([]), at=np.zeros(0, np.int64)).recent.shape == (0, RECENT)
