"""What became known late changes nothing that was read before: training reads as of a time what serving read then."""

import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from contracts.schema import FIRST_INDEX, QUARANTINE, ROLE_HISTORY, ROLE_IMPRESSION
from features.encoding.asked import Asked, Context, recent_clicks
from features.encoding.counters import Counters
from features.encoding.encode import EncodedHistory, FeatureSpec, encode_one
from features.encoding.scalars import scalars_of_one
from features.live.absorb import absorb
from features.live.exposure import shows
from features.live.places import state_of
from features.live.sqlite import SqliteTail
from features.online.load import load
from features.online.snapshot import write_snapshot
from features.online.store import OnlineStore
from features.sealed.event import EVENT, OUTCOME, LiveEvent
from features.sealed.files import live_of, read_sealed
from features.sealed.known_logs import note
from features.stages import histories
from features.stages.statistics import run as run_statistics
from features.tables.histories import UserHistories
from features.terms.convention import RECENT
from tests.features.live_log import event, seal, show, write_table
from tests.features.raw_logs import COLUMNS, ingest_table, read
from tests.features.small_log import START, START_US, build, history, request, row, settings, statistics, write_log

SECOND = 1_000_000
NOW = START_US + 3 * 86_400 * SECOND
TOLD = statistics(shows_lag_s=10, clicks_lag_s=30, user_lag_s=10, coclick_rank=4)


def us(at_s: float) -> int:
    return START_US + round(at_s * SECOND)


def clicks(data: Path, item: str, at_s: float) -> tuple[int, int]:
    """(shows, clicks) of an item in the tables strictly before a time."""
    stored = UserHistories.open(data / "user_histories")
    items = stored.vocabulary["item_id"]
    counters = Counters.from_folder(data, items, stored.user_ids)
    key = items.to_pylist().index(item)
    found = counters.item_counters.read([key], us(at_s))
    return int(found[0][0]), int(found[1][0])


def test_a_click_that_became_known_later_is_not_in_an_earlier_read(tmp_path: Path) -> None:
    """The issue's case: as of 5,400 s serving read 7 clicks; one acknowledged at 6,000 s, on a show at 5,000 s."""
    known = [row("u1", "i1", 100 * n, impression_id=f"r{n}") for n in range(7)]
    late = row("u2", "i1", 5_000, impression_id="r8", known_at=START + timedelta(seconds=6_000))
    build(tmp_path, [*known, late], statistics())
    assert clicks(tmp_path, "i1", 5_400) == (8, 7)  # the show was known
    assert clicks(tmp_path, "i1", 6_000) == (8, 7)
    assert clicks(tmp_path, "i1", 6_000.000001) == (8, 8)


def test_a_row_that_came_late_is_in_no_earlier_read_and_in_the_partition_of_its_time(tmp_path: Path) -> None:
    late = START + timedelta(days=2, seconds=5)
    rows = [row("u1", "i1", 0), row("u2", "i1", 50, arrived_at=late, known_at=late), row("u2", "i2", 60)]
    build(tmp_path, rows, statistics(bucket_s=60))
    assert clicks(tmp_path, "i1", 2 * 86_400) == (1, 1)
    assert clicks(tmp_path, "i1", 2 * 86_400 + 61) == (2, 2)
    write_log(tmp_path, rows, by_day=True)
    run_statistics(tmp_path, statistics())
    assert [path.stem for path in sorted((tmp_path / "item_counters").glob("*.parquet"))][-1] == "2024-01-03"
    assert clicks(tmp_path, "i1", 2 * 86_400 + 5) == (1, 1)
    assert clicks(tmp_path, "i1", 2 * 86_400 + 6) == (2, 2)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("clicked", [("i2", 10, 1.0), ("i3", 40, 1.0), ("i1", 90, 1.0)]),
        # a show from its time on, and its click, as an event of its own, from when that was known
        ("all", [("i1", 0, 0.0), ("i2", 10, 1.0), ("i3", 40, 1.0), ("i1", 90, 1.0)]),
    ],
)
def test_a_history_is_in_the_order_in_which_it_became_known(tmp_path: Path, labels: str, expected: list) -> None:
    moment = START + timedelta(seconds=40)
    rows = [
        row("u1", "i1", 0, impression_id="a", known_at=START + timedelta(seconds=90)),
        row("u1", "i2", 10, impression_id="b"),
        row("u1", "i3", 5, impression_id="c", known_at=moment, arrived_at=moment),
        *[row("u1", "i1", at, 0, impression_id=f"ask {at}", role="impression") for at in (20, 40, 60, 100)],
        row("u2", "i1", 1, impression_id="d"),
    ]
    stored = build(tmp_path, rows, statistics(), labels=labels)
    names = stored.vocabulary["item_id"].to_pylist()
    own = slice(stored.offsets[0], stored.offsets[1])
    items = [names[index - FIRST_INDEX] for index in stored.item_index[own]]
    found = list(zip(items, ((stored.occurred_at[own] - START_US) // SECOND).tolist(), stored.label[own].tolist(),
                     strict=True))  # fmt: skip
    asked = {20, 40, 60, 100}
    assert [each for each in found if labels == "clicked" or each[1] not in asked or each[0] != "i1"] == expected
    if labels == "clicked":
        table = pq.read_table(tmp_path / "impressions" / "impressions.parquet").to_pylist()
        ends = {(each["occurred_at"] - START).seconds: each["end_offset"] for each in table if not each["user_index"]}
        assert [ends[at] for at in (20, 40, 60, 100)] == [1, 1, 2, 3]


def test_a_request_s_labels_are_known_when_the_last_of_them_is(tmp_path: Path) -> None:
    later = [START + timedelta(seconds=each) for each in (500, 900)]
    rows = [
        row("u1", "i1", 0, impression_id="a", known_at=later[0]),
        row("u1", "i2", 0, impression_id="a", known_at=later[1]),
        row("u1", "i3", 0, 0, impression_id="a"),
        row("u1", "i1", 10, impression_id="b"),
        *[row("u2", "i1", 100 + n, known_at=later[0] if n == 1 else None) for n in range(3)],
    ]
    write_log(tmp_path, rows)
    histories.run(tmp_path, request(block_size=2), history())
    table = pq.read_table(tmp_path / "impressions" / "requests.parquet").to_pylist()
    assert {each["impression_id"]: each["known_at"] for each in table} == {
        "a": later[1], "b": None, "u2/0": later[0], "u2/1": None,
    }  # fmt: skip


def test_a_request_whose_rows_lie_on_two_days_is_known_with_the_later_of_them(tmp_path: Path) -> None:
    later = START + timedelta(days=3)
    rows = [row("u1", "i1", 86_390, impression_id="a"), row("u1", "i2", 86_410, impression_id="a", known_at=later)]
    write_log(tmp_path, [*rows, row("u2", "i1", 0, impression_id="b")], by_day=True)
    histories.run(tmp_path, request(), history())
    table = pq.read_table(tmp_path / "impressions" / "requests.parquet").to_pylist()
    assert {each["impression_id"]: each["known_at"] for each in table} == {"a": later, "b": None}


def test_a_column_of_a_table_says_when_clicks_were_known(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(
        "user,item,at,click,told\nu1,i1,2024-01-01T00:00:00,1,2024-01-01T00:10:00\nu1,i2,2024-01-01T00:00:01,0,\n"
        "u2,i1,2024-01-01T00:00:02,1,soon\n"
    )
    report = ingest_table(tmp_path / "data" / "t", tmp_path / "log.csv", COLUMNS | {"known_at": "told"})
    found = read(tmp_path / "data" / "t" / "interactions")
    told = [(each["known_at"], each["arrived_at"]) for each in found]
    assert told == [(START + timedelta(minutes=10), None), (None, None)]
    assert report["dropped"] == {"bad known_at": 1}


def test_a_click_logged_apart_from_its_show_is_known_from_its_own_time(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(
        "user,item,at,click,request\nu1,i1,2024-01-01T00:00:00,0,r\nu1,i1,2024-01-01T00:10:00,1,r\n"
        "u2,i1,2024-01-01T00:00:00,1,q\n"
    )
    ingest_table(tmp_path / "data" / "t", tmp_path / "log.csv", COLUMNS | {"impression_id": "request"})
    found = {each["impression_id"]: each for each in read(tmp_path / "data" / "t" / "interactions")}
    assert (found["r"]["occurred_at"], found["r"]["label"]) == (START, 1)
    assert {name: each["known_at"] for name, each in found.items()} == {"r": START + timedelta(minutes=10), "q": None}


def test_sealed_events_say_when_they_were_known_and_older_files_do_not(tmp_path: Path) -> None:
    data = tmp_path / "data" / "table"
    at = [START + timedelta(days=4, seconds=each) for each in range(10)]
    seal(
        live_of(data) / "2026-11-24.parquet",
        show(1, "a", known_at=at[1]),
        event(2, event_id="late", known_at=at[6]),
        event(3, event_id="a", revision=OUTCOME, known_at=at[7]),
        show(4, "b", known_at=at[2]),
    )
    older = live_of(data) / "2026-11-23.parquet"
    seal(older, event(0, event_id="older"))
    pq.write_table(pq.read_table(older).drop_columns("known_at"), older)
    note(live_of(data), [older])
    assert read_sealed(older)["known_at"].null_count == 1
    ingest_table(data, write_table(tmp_path / "log.csv"))
    found = {each["event_id"]: (each["known_at"], each["arrived_at"]) for each in read(data / "interactions")}
    told = {name: found[name] for name in ("a", "late", "b", "older")}
    assert told == {"a": (at[7], at[1]), "late": (at[6], at[6]), "b": (at[2], at[2]), "older": (None, None)}


def test_a_tail_of_the_version_before_is_taken_over_with_its_events(tmp_path: Path) -> None:
    path = tmp_path / "live.db"
    tail = SqliteTail(path)
    told = LiveEvent("a", EVENT, "u", "i", NOW, 1.0, ROLE_IMPRESSION, True)
    tail.append([told])
    tail.close()
    with sqlite3.connect(path) as database:  # as version 1 wrote it
        database.executescript(
            "DROP INDEX by_user; ALTER TABLE log DROP COLUMN known_at; PRAGMA user_version = 1;"
            "CREATE INDEX by_user ON log (user_id, current, occurred_at, item_id, event_key);"
        )
    database.close()
    tail = SqliteTail(path)
    late = LiveEvent("b", EVENT, "u", "i", NOW - 50, 1.0, ROLE_IMPRESSION, True, known_at=NOW + 5)
    tail.append([late])
    assert tail.histories(["u"], 5) == [[told, late]]
    assert [event for _, event in tail.since(0)] == [told, late]
    tail.close()


def make(data: Path, log: Path, labels: str) -> UserHistories:
    """The tables of a log and of what has come live; all its rows are valid."""
    ingest_table(data, log)
    shutil.rmtree(data / "validated_interactions", ignore_errors=True)
    shutil.copytree(data / "interactions", data / "validated_interactions")
    (data / "quarantine").mkdir(exist_ok=True)
    pq.write_table(QUARANTINE.empty_table(), data / "quarantine" / "quarantine.parquet")
    histories.run(data, request(), history(labels=labels))
    run_statistics(data, TOLD)
    return UserHistories.open(data / "user_histories")


def live_hours(random: np.random.Generator, labels: str) -> Iterator[tuple[list[LiveEvent], str, int]]:
    """Shows, clicks on them some time after, events that come late; and who asks at what time after each."""
    open_: list[LiveEvent] = []
    at = NOW
    for number in range(100):
        at += int(random.integers(2, 90 * SECOND))
        user, item = f"u{random.integers(7)}", f"i{random.integers(11)}"
        kind = random.random()
        if kind < 0.4:
            came = shows(f"request-{number}", user, at, [item, "only live"], Context(), in_history=labels == "all")
            open_ += came
        elif kind < 0.7 and open_:
            shown = open_.pop(random.integers(len(open_)))
            came = [shown._replace(revision=OUTCOME, label=1.0, in_history=True, known_at=at)]
        else:
            label, role = float(random.random() < 0.7), [ROLE_IMPRESSION, ROLE_HISTORY][random.integers(2)]
            in_history = labels == "all" or label > 0 or role == ROLE_HISTORY
            late = at - int(random.choice([0, 5 * SECOND, 3_000 * SECOND]))
            came = [LiveEvent(f"e{number}", EVENT, user, item, late, label, role, in_history, known_at=at)]
        yield came, f"u{random.integers(7)}", at + int(random.integers(2))


@pytest.mark.parametrize("labels", ["clicked", "all"])
def test_what_serving_read_is_what_training_reads_once_it_has_been_absorbed(tmp_path: Path, labels: str) -> None:
    data, log = tmp_path / "data" / "table", write_table(tmp_path / "log.csv")
    stored = make(data, log, labels)
    told = settings(labels=labels) | {"statistics": TOLD.model_dump(mode="json")}
    (data / "feature_snapshot").mkdir()
    write_snapshot(data, stored, 200, told | {"max_length": 200}, data / "feature_snapshot")
    load(data, state_of(data))
    store = OnlineStore.open(state_of(data))
    spec = FeatureSpec.of(history(labels=labels), TOLD, 60)
    items = [f"i{number}" for number in range(11)]
    served: list[tuple[str, int, np.ndarray, dict[str, Any]]] = []
    for came, user, at in live_hours(np.random.default_rng(5), labels):
        store.append(came)
        found, counted = store.read(user)
        assert found is not None
        events = (found.item_ids, found.occurred_at, found.label, found.session)
        key, counters = store.counters_of(user, counted)
        served.append((user, at, *asked_of(spec, counters, key, store.item_keys, events, items, at)))
        assert (
            store.log_end == came[0].counts_from + 1
        )  # whoever asks by this clock sees what has just been acknowledged
    absorb(store.tail, live_of(data))
    store.tail.close()
    stored = make(data, log, labels)
    names, users = stored.vocabulary["item_id"].to_pylist(), stored.user_ids.to_pylist()
    counters = Counters.from_folder(data, stored.vocabulary["item_id"], stored.user_ids)
    known = {name: place for place, name in enumerate(names)}
    num_clicks = 0

    def keys_of(ids: list[str]) -> np.ndarray:
        return np.array([known[each] for each in ids], np.int64)

    for user, at, scalars, tensors in served:
        index = users.index(user)
        own = slice(stored.offsets[index], stored.offsets[index + 1])
        events = ([names[each - FIRST_INDEX] for each in stored.item_index[own]], stored.occurred_at[own],
                  stored.label[own], stored.session[own])  # fmt: skip
        training, expected = asked_of(spec, counters, index, keys_of, events, items, at)
        for name, tensor in expected.items():
            np.testing.assert_array_equal(tensors[name], tensor, f"{user} at {at - NOW}: {name}")
        for name, ours, theirs in zip(spec.scalars, scalars.T, training.T, strict=True):
            if not name.startswith("coclick"):  # the factors of users are those of the last run
                np.testing.assert_array_equal(ours, theirs, f"{user} at {at - NOW}: {name}")
        num_clicks += int(tensors["label"].sum())
    assert num_clicks > 500


def asked_of(
    spec: FeatureSpec, counters: Counters, user: int, item_keys: Any, events: Any, items: list[str], at: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """Scalars of all items, and tensors of the user's history with items by their names' numbers."""
    ids, times, labels, sessions = events
    number = {name: place + FIRST_INDEX for place, name in enumerate([*items, "only live"])}
    encoded = encode_one(spec, np.array([number[each] for each in ids], np.int32), times, labels, sessions, at)
    end = int(np.searchsorted(times, at))
    recent = recent_clicks(item_keys(ids[max(0, end - RECENT) : end]), labels[max(0, end - RECENT) : end])
    asked = Asked.of_one(user, at, recent, -1, Context())
    scalars = scalars_of_one(spec, counters, item_keys(items), asked)
    return scalars, {each.name: getattr(encoded, each.name) for each in fields(EncodedHistory)}
