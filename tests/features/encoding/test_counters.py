"""A cumulative count is read strictly before a time, per key, exactly."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.schema import TIME, USER_ITEM_COUNTERS, counters
from features.encoding import counters as counting
from features.encoding.as_of import END_OF_TIME, AsOfCounter
from features.encoding.counters import PAIR_RADIX, Counters, from_parquet
from tests.features.small_log import build, random_log, statistics

events = st.lists(st.tuples(st.integers(0, 4), st.integers(-5, 20), st.booleans()), max_size=30)


def cumulative(events: list[tuple[int, int, bool]]) -> AsOfCounter:
    """Cumulative rows of (key, time, clicked), as the stage statistics makes them."""
    rows = []
    for key, at in sorted({(key, at) for key, at, _ in events}):
        upto = [clicked for other, time, clicked in events if other == key and time <= at]
        rows.append((key, at, len(upto), sum(upto)))
    columns = np.array(rows, np.int64).reshape(-1, 4).T
    return AsOfCounter.from_rows(*columns)


@given(events, st.lists(st.tuples(st.integers(-1, 6), st.integers(-7, 22)), min_size=1, max_size=10))
def test_a_read_counts_what_happened_strictly_before(events, queries) -> None:
    keys, at = np.array(queries, np.int64).T
    shows, clicks = cumulative(events).read(keys, at)
    assert shows.tolist() == [sum(k == key and time < t for k, time, _ in events) for key, t in queries]
    assert clicks.tolist() == [sum(k == key and time < t and hit for k, time, hit in events) for key, t in queries]


@given(events, st.integers(0, 5), st.integers(-7, 30), st.integers(0, 5), st.integers(1, 9))
def test_a_window_holds_its_start_and_not_its_end(events, key, at, lag, width) -> None:
    shows, clicks = cumulative(events).window([key], [at], lag, width)
    inside = [hit for k, time, hit in events if k == key and at - lag - width <= time < at - lag]
    assert (shows.tolist(), clicks.tolist()) == ([len(inside)], [sum(inside)])


@given(events, st.integers(-1, 6))
def test_first_seen_is_the_earliest_row(events, key) -> None:
    times = [time for k, time, _ in events if k == key]
    assert cumulative(events).first_seen([key]).tolist() == [min(times, default=END_OF_TIME)]


@given(events, st.lists(st.tuples(st.integers(-1, 6), st.integers(-7, 22)), min_size=1, max_size=10))
def test_the_last_event_and_the_last_click_are_the_newest_strictly_before(events, queries) -> None:
    keys, at = np.array(queries, np.int64).T
    table = cumulative(events)
    seen = [max((time for k, time, _ in events if k == key and time < t), default=END_OF_TIME) for key, t in queries]
    clicked = [max((time for k, time, hit in events if k == key and time < t and hit), default=END_OF_TIME)
               for key, t in queries]  # fmt: skip
    assert table.last_seen(keys, at).tolist() == seen
    assert table.last_clicked(keys, at).tolist() == clicked


def test_keys_and_times_broadcast() -> None:
    table = cumulative([(0, 5, True), (1, 7, False)])
    shows, _ = table.read([0, 1], np.array([[6], [8]]))
    assert shows.tolist() == [[1, 0], [1, 1]]


def test_microseconds_are_exact_over_decades() -> None:
    late = 4_000_000_000_000_000  # 2096, in microseconds
    table = AsOfCounter.from_rows(np.array([0, 0]), np.array([1, late]), np.array([1, 2]), np.array([0, 0]))
    assert table.read([0, 0, 0], [late, late + 1, 2])[0].tolist() == [1, 2, 1]


def test_large_pair_keys_do_not_overflow() -> None:
    users, items = 3_000_000, 2_000_000
    keys = np.array([users * items - 1, 5], np.int64)
    table = AsOfCounter.from_rows(keys, np.array([10, 20]), np.array([1, 1]), np.array([1, 0]))
    assert table.read(keys, [11, 21])[0].tolist() == [1, 1]
    assert table.read(keys + 1, [11, 21])[0].tolist() == [0, 0]


def write(folder: Path, keys: list[str], rows: list[dict]) -> None:
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, counters(*keys)), folder / "part.parquet")


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    at = {"occurred_at": datetime(1970, 1, 1, microsecond=3, tzinfo=UTC), "shows": 4, "clicks": 1}
    write(tmp_path / "item_counters", ["item_id"], [{"item_id": "b", **at}])
    write(tmp_path / "user_counters", ["user_id"], [{"user_id": "v", **at}])
    write(tmp_path / "user_item_counters", ["user_id", "item_id"], [{"user_id": "v", "item_id": "b", **at}])
    return tmp_path


def test_the_three_tables_number_items_and_users_alike(tables: Path) -> None:
    read = Counters.from_folder(tables, ["a", "b", "c"], ["u", "v"])
    assert read.item_counters.read([0, 1, 2], 4)[0].tolist() == [0, 4, 0]
    assert read.user_counters.read([0, 1], 4)[1].tolist() == [0, 1]
    pairs = read.pair_key([0, 1, 1, 1, -1, 1], [1, 1, 0, 3, 1, -1])
    assert read.user_item_counters.read(pairs, 4)[0].tolist() == [0, 4, 0, 0, 0, 0]


def test_what_belongs_to_items_is_saved_and_loaded_and_nothing_of_users(tables: Path, tmp_path: Path) -> None:
    made = Counters.from_folder(tables, ["a", "b", "c"], ["u", "v"])
    made.save(tmp_path)
    again = Counters.load(tmp_path)
    for key, value in vars(made.item_counters).items():
        np.testing.assert_array_equal(value, vars(again.item_counters)[key])
        assert value is None or not vars(again.item_counters)[key].flags.writeable
    assert [len(vars(again)[name].packed) for name in ("user_counters", "user_item_counters")] == [0, 0]


def test_a_click_that_became_known_later_is_loaded_as_such(tmp_path: Path) -> None:
    """Of three rows the second is a click alone: last_seen passes over it, on the loaded side too."""
    table = AsOfCounter.from_rows(*(np.array(each) for each in ([4, 4, 4], [1, 2, 3], [1, 1, 2], [0, 1, 1])))
    assert table.shown_row is not None
    Counters.of_table(table).save(tmp_path)
    again = Counters.load(tmp_path).item_counters
    at = np.arange(6)
    np.testing.assert_array_equal(again.last_seen([4], at), table.last_seen([4], at))
    np.testing.assert_array_equal(again.last_clicked([4], at), table.last_clicked([4], at))


def test_co_clicks_are_read_and_loaded_with_the_counters(tmp_path: Path) -> None:
    stored = build(tmp_path / "log", random_log(2), statistics(coclick_rank=4))
    made = Counters.from_folder(tmp_path / "log", stored.vocabulary["item_id"], stored.user_ids)
    assert made.coclicks is not None
    assert made.coclicks.rank == 4
    assert made.coclicks.factors.any()
    assert len(made.coclicks.times)
    made.save(tmp_path)
    again = Counters.load(tmp_path).coclicks
    assert again is not None
    for name, value in made.coclicks.arrays().items():
        np.testing.assert_array_equal(value, again.arrays()[name])
        assert value.dtype == again.arrays()[name].dtype


def test_a_log_counted_without_co_clicks_has_none(tables: Path, tmp_path: Path) -> None:
    made = Counters.from_folder(tables, ["a", "b", "c"], ["u", "v"])
    made.save(tmp_path)
    assert (made.coclicks, Counters.load(tmp_path).coclicks) == (None, None)


def test_an_id_outside_the_vocabulary_is_named(tables: Path) -> None:
    with pytest.raises(ValueError, match="'b' is not in the vocabulary"):
        from_parquet(tables / "item_counters", {"item_id": ["a"]})


@pytest.mark.parametrize("at_once", [1, 2, 1 << 20])
def test_a_table_is_the_same_read_some_rows_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    stored = build(tmp_path, random_log(4))
    folder, ids = tmp_path / "user_item_counters", {"user_id": stored.user_ids, "item_id": stored.vocabulary["item_id"]}
    rows = pq.read_table(folder).to_pylist()
    keys = [
        ids["user_id"].index(row["user_id"]).as_py() * PAIR_RADIX + ids["item_id"].index(row["item_id"]).as_py()
        for row in rows
    ]
    at = pa.array([row["occurred_at"] for row in rows], TIME).cast(pa.int64()).to_numpy()
    counts = (np.array([row[name] for row in rows]) for name in ("shows", "clicks"))
    expected = AsOfCounter.from_rows(np.array(keys), at, *counts)
    for path in folder.iterdir():
        pq.write_table(pq.read_table(path), path, row_group_size=3)
    monkeypatch.setattr(counting, "ROWS_AT_ONCE", at_once)
    found = from_parquet(folder, ids)
    assert len(rows) > 30
    for name, values in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), values)
        assert getattr(found, name).dtype == values.dtype


def test_a_folder_without_counters_is_no_empty_table(tmp_path: Path) -> None:
    with pytest.raises(pa.ArrowInvalid, match=r"No match"):
        from_parquet(tmp_path, {"item_id": ["a"]})


def test_an_empty_table_reads_zero() -> None:
    nothing = np.zeros(0, np.int64)
    table = AsOfCounter.from_rows(nothing, nothing, nothing, nothing)
    assert table.read([0, 5], [1, 1])[0].tolist() == [0, 0]
    assert table.first_seen([0]).tolist() == table.last_seen([0], 5).tolist() == [END_OF_TIME]
    assert table.last_clicked([0], [5]).tolist() == [END_OF_TIME]
    assert USER_ITEM_COUNTERS.names == ["user_id", "item_id", "occurred_at", "shows", "clicks"]
