"""Every event is stored once, in order; a request sees exactly what was strictly before it."""

import hashlib
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from contracts.errors import InputError
from contracts.schema import IMPRESSIONS, LEDGER, QUARANTINE, REJECTED, REQUESTS, SESSIONS, USERS, VOCABULARY
from features.history.blocks import block_starts
from features.stages import histories as stage
from features.tables.histories import UserHistories
from tests.features.small_log import START, START_US, Row, history, random_log, request, row, write_log

SECOND = 1_000_000


def made(data: Path, rows: list[Row], history_changes: dict[str, Any] | None = None, **request_changes: Any) -> dict:
    write_log(data, rows)
    return dict(stage.run(data, request(**request_changes), history(**(history_changes or {}))))


def requests_of(data: Path) -> list[tuple]:
    """(name, user_id, seconds, end_offset, [(item_id, label), ...]) of each request, in order."""
    stored = UserHistories.open(data / "user_histories")
    table = pq.read_table(data / "impressions" / "impressions.parquet").to_pylist()
    names = pq.read_table(data / "impressions" / "requests.parquet")["impression_id"].to_pylist()
    found: dict[int, tuple] = {}
    for line in table:
        seconds = (line["occurred_at"] - START).total_seconds()
        key = line["request_index"]
        head = (names[key], stored.user_ids[line["user_index"]].as_py(), seconds, line["end_offset"], [])
        item_id = stored.vocabulary["item_id"][line["item_index"] - 2].as_py()
        found.setdefault(key, head)[4].append((item_id, line["label"]))
        assert found[key][:4] == head[:4]
    assert list(found) == list(range(len(names)))
    return list(found.values())


def events_of(data: Path) -> dict[str, list[tuple]]:
    """user_id -> [(item_id, seconds, label, session), ...] as stored."""
    stored = UserHistories.open(data / "user_histories")
    items = stored.vocabulary["item_id"].take(pa.array(stored.item_index - 2)).to_pylist()
    seconds = ((stored.occurred_at - START_US) / SECOND).tolist()
    lines = list(zip(items, seconds, stored.label.tolist(), stored.session.tolist(), strict=True))
    bounds = stored.offsets
    return {user.as_py(): lines[bounds[n] : bounds[n + 1]] for n, user in enumerate(stored.user_ids)}


def slow_requests(rows: list[Row], lag_s: float, labels: str) -> list[tuple]:
    """The definition for a log with impressions, request by request."""
    names = sorted({each["impression_id"] for each in rows if each["impression_id"]})
    found = []
    for name in names:
        own = [each for each in rows if each["impression_id"] == name]
        at = min(each["occurred_at"] for each in own)
        user = own[0]["user_id"]
        before = [
            each
            for each in rows
            if each["user_id"] == user
            and (each["label"] >= 0.5 or each["role"] == "history" or labels == "all")
            and (at - each["occurred_at"]).total_seconds() > lag_s
        ]
        own.sort(key=lambda each: (each["position"], each["item_id"]))
        candidates = [(each["item_id"], each["label"]) for each in own]
        found.append((name, user, (at - START).total_seconds(), len(before), candidates))
    return sorted(found, key=lambda each: (each[2], each[1], each[0]))


@pytest.mark.parametrize(("seed", "lag_s", "labels"), [(1, 0, "clicked"), (2, 60, "clicked"), (3, 0.5, "all")])
def test_requests_and_their_offsets_are_their_slow_definition(
    tmp_path: Path, seed: int, lag_s: float, labels: str
) -> None:
    rows = random_log(seed)
    report = made(tmp_path, rows, {"lag_s": lag_s, "labels": labels})
    expected = slow_requests(rows, lag_s, labels)
    assert requests_of(tmp_path) == expected
    assert report["num_requests"] == len(expected)
    assert report["num_impressions"] == sum(len(each[4]) for each in expected)


def test_ranges_of_users_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = random_log(4)
    made(tmp_path / "whole", rows)
    monkeypatch.setattr(stage, "RANGE_ROWS", 20)
    made(tmp_path / "ranges", rows)
    assert digests(tmp_path / "ranges") == digests(tmp_path / "whole")


def digests(data: Path) -> dict[str, str]:
    files = [path for name in stage.OUTS for path in sorted((data / name).iterdir())]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_shuffled_rows_give_the_same_bytes(tmp_path: Path) -> None:
    rows = [{**each, "event_id": f"e{number}"} for number, each in enumerate(random_log(5))]
    made(tmp_path / "one", rows)
    random.Random(0).shuffle(rows)
    made(tmp_path / "other", rows)
    assert digests(tmp_path / "one") == digests(tmp_path / "other")


def test_a_history_holds_clicks_and_history_rows_in_time_order(tmp_path: Path) -> None:
    rows = [
        row("u", "b", 20, event_id="late"),
        row("u", "c", 10, label=0),
        row("u", "d", 10, event_id="z"),
        row("u", "a", 10, event_id="y"),
        row("u", "e", 5, label=0, role="history"),
        row("v", "a", 0),
    ]
    made(tmp_path, rows)
    assert [each[:3] for each in events_of(tmp_path)["u"]] == [("e", 5, 0), ("a", 10, 1), ("d", 10, 1), ("b", 20, 1)]
    made(tmp_path, rows, {"labels": "all"})
    assert [each[0] for each in events_of(tmp_path)["u"]][-1] == "b"
    assert len(events_of(tmp_path)["u"]) == 5


def test_a_session_ends_after_a_gap_of_more_than_the_limit(tmp_path: Path) -> None:
    rows = [row("u", "a", at) for at in (0, 1800, 3600.000001, 5401)] + [row("v", "a", 0)]
    report = made(tmp_path, rows)
    assert [each[3] for each in events_of(tmp_path)["u"]] == [0, 0, 1, 2]
    assert report["num_sessions"] == 4
    sessions = pq.read_table(tmp_path / "sessions" / "sessions.parquet").to_pylist()
    assert [(each["user_index"], each["session"], each["num_events"]) for each in sessions] == [
        (0, 0, 2),
        (0, 1, 1),
        (0, 2, 1),
        (1, 0, 1),
    ]
    assert (sessions[0]["ended_at"] - sessions[0]["started_at"]).total_seconds() == 1800


def test_the_log_s_own_sessions_come_before_the_gap(tmp_path: Path) -> None:
    named = [(0, "s1"), (10, "s2"), (5000, "s2"), (5010, None), (9000, None)]
    rows = [row("u", "a", at, session_id=name) for at, name in named] + [row("v", "a", 0)]
    made(tmp_path, rows)
    assert [each[3] for each in events_of(tmp_path)["u"]] == [0, 1, 1, 1, 2]


def test_events_without_an_impression_become_blocks(tmp_path: Path) -> None:
    times = [0, 10, 20, 600, 601, 1300, 1301, 1302, 1303]
    rows = [row("u", f"i{number}", at, label=number % 2) for number, at in enumerate(times)] + [row("v", "i0", 0)]
    made(tmp_path, rows, {"labels": "all"}, block_size=3, block_s=600, min_user_events=2)
    found = [(name, at, end, [item for item, _ in items]) for name, _, at, end, items in requests_of(tmp_path)]
    assert found == [
        ("u/0", 0, 0, ["i0", "i1", "i2"]),
        ("u/1", 600, 3, ["i3", "i4"]),
        ("u/2", 1300, 5, ["i5", "i6", "i7"]),
        ("u/3", 1303, 8, ["i8"]),
    ]


def test_a_log_whose_requests_hold_one_item_each_says_so_and_how_to_change_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [row("u", f"i{number}", number * 1000, label=number % 2) for number in range(8)] + [row("v", "i0", 0)]
    made(tmp_path / "apart", rows, {"labels": "all"}, block_size=3, block_s=600, min_user_events=2)
    assert "The 8 requests hold 1.00 items on average" in caplog.text
    assert "request.block_s, now 600 s" in caplog.text
    caplog.clear()
    made(tmp_path / "together", rows, {"labels": "all"}, block_size=3, block_s=6000, min_user_events=2)
    assert "items on average" not in caplog.text


def test_a_block_holds_an_event_exactly_block_s_later() -> None:
    starts = block_starts(np.array([0, 0, 0, 1]), np.array([0, 600, 601, 601]), size=8, span_us=600)
    assert starts.tolist() == [0, 2, 3]


def test_users_with_few_events_only_extend_histories(tmp_path: Path) -> None:
    rows = [row("few", "a", at) for at in range(3)] + [row("many", "a", at) for at in range(4)]
    report = made(tmp_path, rows, min_user_events=4)
    assert {user for _, user, *_ in requests_of(tmp_path)} == {"many"}
    assert len(events_of(tmp_path)["few"]) == 3
    assert report["num_users"] == 2


def test_files_are_exactly_what_the_contracts_say(tmp_path: Path) -> None:
    report = made(tmp_path, random_log(6))
    for name, schema in [
        ("user_histories/users", USERS),
        ("user_histories/vocabulary", VOCABULARY),
        ("impressions/impressions", IMPRESSIONS),
        ("impressions/requests", REQUESTS),
        ("sessions/sessions", SESSIONS),
        ("ledger/ledger", LEDGER),
    ]:
        assert pq.read_schema(tmp_path / f"{name}.parquet").equals(schema), name
    stored = UserHistories.open(tmp_path / "user_histories")
    kinds = [str(column.dtype) for column in (stored.item_index, stored.occurred_at, stored.label, stored.session)]
    assert kinds == ["int32", "int64", "float32", "int32"]
    assert stored.offsets[-1] == len(stored.item_index) == report["num_events"]
    assert stored.vocabulary["item_index"].to_pylist() == list(range(2, 2 + report["num_items"]))
    lengths = np.diff(stored.offsets)
    assert report["history_length"] == {
        "median": np.median(lengths),
        "p95": np.percentile(lengths, 95),
        "max": lengths.max(),
    }


def test_the_ledger_accounts_for_every_row_read(tmp_path: Path) -> None:
    rows = random_log(7)
    write_log(tmp_path, rows)
    log = pq.read_table(tmp_path / "validated_interactions" / "2024-01.parquet")
    pq.write_table(log.slice(4), tmp_path / "validated_interactions" / "2024-01.parquet")
    bad = log.slice(0, 3).append_column(QUARANTINE.field("reason"), pa.array(["no item_id", "no item_id", "too early"]))
    for name, column in (("file", pa.array(["log.csv"] * 3)), ("line", pa.array([2, 3, 4]))):
        bad = bad.append_column(QUARANTINE.field(name), column)
    pq.write_table(bad.cast(QUARANTINE), tmp_path / "quarantine" / "quarantine.parquet")
    lost = [{"file": "log.csv", "line": 7, "reason": "not a time", "raw": "x"}]
    pq.write_table(pa.Table.from_pylist(lost, REJECTED), tmp_path / "rejected" / "2024-01.parquet")
    stage.run(tmp_path, request(), history())
    ledger = pq.read_table(tmp_path / "ledger" / "ledger.parquet")
    lines = {(each["stage"], each["what"]): each["rows"] for each in ledger.to_pylist()}
    assert pc.sum(ledger["rows"]).as_py() == len(rows) + 1
    assert lines[("ingest", "not a time")] == 1
    assert lines[("validate", "no item_id")] == 2
    assert lines[("validate", "duplicated")] == 1
    assert lines[("histories", "in a history only")] == 10


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([row("u", "a", 0)], "1 user"),
        ([row("u", "a", 0, label=0), row("v", "a", 0, label=0)], "is a click"),
        ([row("u", "a", 0), row("v", "a", 0)], "No request"),
    ],
)
def test_a_log_that_nothing_can_be_learned_from_is_refused_and_the_last_outs_stay(
    tmp_path: Path, rows: list[Row], says: str
) -> None:
    made(tmp_path, random_log(8))
    before = digests(tmp_path)
    with pytest.raises(InputError, match=says):
        made(tmp_path, rows, min_user_events=2)
    assert digests(tmp_path) == before
    assert not list(tmp_path.glob(".staging*"))


def test_ids_may_be_any_text(tmp_path: Path) -> None:
    rows = [row("🎬 it's", "ü/1", 0), row("🎬 it's", 'a"b', 5), row("z", "ü/1", 9)]
    made(tmp_path, rows)
    assert [each[0] for each in events_of(tmp_path)["🎬 it's"]] == ["ü/1", 'a"b']
    assert requests_of(tmp_path)[0][0] == "🎬 it's/0"
