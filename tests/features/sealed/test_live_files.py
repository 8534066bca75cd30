"""Sealed live events come in through the same door as any log: each row is an event, or rejected with its reason."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.errors import InputError
from contracts.schema import CONTEXTS, LIVE
from features.sealed.event import LiveEvent
from features.sealed.files import newest_seq, read_sealed, sealed_files, sealed_name, writing
from features.sealed.files import write_sealed as write
from features.sealed.forgotten import add_forgotten
from features.sources.live import read_live
from features.stages.ingest import run
from features.stages.validate import run as validate
from tests.features.ebnerd_bundle import write_bundle
from tests.features.live_log import event, seal, show, write_table
from tests.features.raw_logs import SMALL, digest, expectations, ingest_table, limits, read, source
from tests.features.sources.test_movielens import write as write_movielens


def data_of(root: Path, name: str = "table") -> tuple[Path, Path]:
    """data/<source> and live/<source> under one root."""
    return root / "data" / name, root / "live" / name


def named(data: Path, out: str, key: str) -> dict[str, dict]:
    return {row[key]: row for row in read(data / out)}


def test_the_columns_are_seq_and_the_fields_of_a_live_event_but_in_history() -> None:
    assert ["seq", *(name for name in LiveEvent._fields if name != "in_history")] == LIVE.names


def test_a_log_without_live_events_is_read_as_before_and_says_seq_0(tmp_path: Path) -> None:
    data, live = data_of(tmp_path)
    report = ingest_table(data, write_table(tmp_path / "log.csv"))
    assert (report["rows_read"], report["num_live_events"], report["num_files"]) == (60, 0, 1)
    assert (data / "absorbed" / "absorbed.json").read_text() == '{\n  "redis": 0,\n  "sqlite": 0\n}\n'
    before = digest(data)
    live.mkdir(parents=True)
    ingest_table(data, tmp_path / "log.csv")
    assert digest(data) == before


def test_live_events_become_interactions_with_the_sealed_file_as_their_place(tmp_path: Path) -> None:
    data, live = data_of(tmp_path)
    seal(live / "2026-11-24.parquet", event(5), event(7, item_id="only live", session_id="s", position=3))
    seal(live / "2026-11-25.parquet", event(11, user_id="new user", role="history"))
    report = ingest_table(data, write_table(tmp_path / "log.csv"))
    assert (report["rows_read"], report["rows_written"], report["dropped"]) == (63, 63, {})
    assert (report["num_live_events"], report["num_files"]) == (3, 3)
    places = {name: (row["file"], row["line"]) for name, row in named(data, "provenance", "event_id").items()}
    assert places["live-7"] == ("live/table/2026-11-24.parquet", 2)
    assert places["live-11"] == ("live/table/2026-11-25.parquet", 1)
    row = named(data, "interactions", "event_id")["live-7"]
    assert (row["item_id"], row["session_id"], row["position"]) == ("only live", "s", 3)
    assert "only live" in named(data, "items", "item_id")
    assert (data / "absorbed" / "absorbed.json").read_text() == '{\n  "redis": 0,\n  "sqlite": 11\n}\n'


def test_an_outcome_joins_its_show_in_whichever_file_and_the_rows_add_up(tmp_path: Path) -> None:
    data, live = data_of(tmp_path)
    outcome = event(9, event_id="a", revision=1, label=1.0)
    seal(live / "2026-11-24.parquet", show(5, "a"), show(6, "b"), event(7, event_id="alone", revision=1))
    seal(live / "2026-11-25.parquet", outcome, show(10, "b", label=1.0))
    report = ingest_table(data, write_table(tmp_path / "log.csv"))
    rows = named(data, "interactions", "event_id")
    assert [rows[name]["label"] for name in ("a", "b", "alone")] == [1.0, 1.0, 1.0]
    assert (rows["a"]["position"], rows["a"]["impression_id"]) == (2, "live-request-a")
    assert rows["a"]["occurred_at"].second == 5  # the show's time
    assert report["dropped"] == {"outcome joined to its show": 1, "live event repeated": 1}
    assert (report["rows_read"], report["rows_written"]) == (65, 63)
    left = {(row["file"], row["line"], row["reason"]) for row in read(data / "rejected")}
    assert left == {
        ("live/table/2026-11-25.parquet", 1, "outcome joined to its show"),
        ("live/table/2026-11-25.parquet", 2, "live event repeated"),
    }
    assert all('"event_id"' in row["raw"] for row in read(data / "rejected"))


def test_an_outcome_that_was_sealed_before_its_show_joins_it_all_the_same(tmp_path: Path) -> None:
    seal(tmp_path / "2026-11-24.parquet", event(5, event_id="a", revision=1))
    seal(tmp_path / "2026-11-25.parquet", show(6, "a"))
    events = read_live(tmp_path, frozenset()).events.to_pylist()
    assert [(row["event_id"], row["label"], row["position"]) for row in events] == [("a", 1.0, 2)]


def test_an_event_has_the_session_that_its_click_stated_as_its_history_had_online(tmp_path: Path) -> None:
    of_thief = event(8, event_id="a", revision=1, user_id="thief", session_id="t")
    seal(tmp_path / "2026-11-24.parquet", show(5, "a"), show(6, "b", session_id="own"), show(7, "c", session_id="own"))
    clicks = event(9, event_id="a", revision=1, session_id="s"), event(10, event_id="b", revision=1, session_id="s")
    seal(tmp_path / "2026-11-25.parquet", of_thief, *clicks)
    events = read_live(tmp_path, frozenset()).events.to_pylist()
    assert {row["event_id"]: row["session_id"] for row in events} == {"a": "s", "b": "s", "c": "own"}


def test_a_row_of_another_user_says_nothing_of_an_event(tmp_path: Path) -> None:
    seal(tmp_path / "2026-11-24.parquet", show(5, "a", user_id="hers"), event(6, event_id="a", user_id="thief"))
    live = read_live(tmp_path, frozenset())
    assert [(row["event_id"], row["user_id"], row["label"]) for row in live.events.to_pylist()] == [("a", "hers", 0.0)]
    assert live.rejected["reason"].to_pylist() == ["live event repeated"]


def test_a_served_request_has_one_context_and_one_that_said_nothing_has_none(tmp_path: Path) -> None:
    data, live = data_of(tmp_path)
    said = {"device": "2", "is_subscriber": False}
    shows = [show(number, name, impression_id="r1", **said) for number, name in enumerate("abc", start=1)]
    silent = show(8, "d", impression_id="r2")
    seal(live / "2026-11-24.parquet", *shows, silent, event(9, event_id="a", revision=1, impression_id="r1"))
    ingest_table(data, write_table(tmp_path / "log.csv"))
    assert read(data / "contexts") == [
        {"impression_id": "r1", "device": "2", "is_subscriber": False, "reading_item_id": None}
    ]


def test_if_log_and_tail_have_an_event_the_log_s_row_is_used(tmp_path: Path) -> None:
    data, live = data_of(tmp_path)
    (tmp_path / "log.csv").write_text(
        "id,user,item,at,click\nlive-5,u1,i1,2024-01-03T00:00:05,1\nx,u2,i2,2024-01-01,1\n"
    )
    earlier = {"occurred_at": datetime(2023, 1, 1, tzinfo=UTC), "user_id": "thief", "impression_id": "r", "device": "1"}
    seal(live / "2026-11-24.parquet", event(5, **earlier), event(6, impression_id="s", device="1"))
    columns = {"event_id": "id", "user_id": "user", "item_id": "item", "occurred_at": "at", "label": "click"}
    made = ingest_table(data, tmp_path / "log.csv", columns)
    assert (made["rows_read"], made["rows_written"], made["num_live_events"]) == (4, 3, 1)
    assert made["dropped"] == {"live event that the log has": 1}
    assert [(row["file"], row["line"]) for row in read(data / "rejected")] == [("live/table/2026-11-24.parquet", 1)]
    assert [row["impression_id"] for row in read(data / "contexts")] == ["s"]
    report = validate(data, limits(), expectations())
    assert (report["rows_valid"], report["rows_duplicated"]) == (3, 0)
    rows = {row["event_id"]: row["user_id"] for row in read(data / "validated_interactions")}
    assert rows == {"live-5": "u1", "x": "u2", "live-6": "u1"}


def test_a_live_event_with_the_name_that_ingest_gave_a_logged_row_is_left_out_too(tmp_path: Path) -> None:
    data, live = data_of(tmp_path)
    ingest_table(data, write_table(tmp_path / "log.csv"))
    logged = read(data / "interactions")
    seal(live / "2026-11-24.parquet", event(5, event_id=logged[0]["event_id"], user_id="thief"))
    assert ingest_table(data, tmp_path / "log.csv")["dropped"] == {"live event that the log has": 1}
    assert read(data / "interactions") == logged


def test_each_engine_has_its_own_files_and_its_own_newest_seq(tmp_path: Path) -> None:
    data, live = data_of(tmp_path)
    seal(live / sealed_name("2026-11-24", "redis"), event(9), event(11))
    seal(live / sealed_name("2026-11-24", "sqlite"), event(5))
    report = ingest_table(data, write_table(tmp_path / "log.csv"))
    assert (report["num_live_events"], report["num_files"]) == (3, 3)
    assert json.loads((data / "absorbed" / "absorbed.json").read_text()) == {"sqlite": 5, "redis": 11}
    places = {row["event_id"]: (row["file"], row["line"]) for row in read(data / "provenance")}
    assert places["live-11"] == ("live/table/2026-11-24.redis.parquet", 2)
    assert places["live-5"] == ("live/table/2026-11-24.parquet", 1)


@pytest.mark.parametrize("name", ["simulator", "movielens", "ebnerd"])
def test_live_events_stand_beside_every_source(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "log"
    if name == "movielens":
        write_movielens(folder, "7,1,4.0,789652009\n8,1,3.0,789652010\n", "1,Film,War\n")
    if name == "ebnerd":
        write_bundle(folder)
    path = None if name == "simulator" else folder
    data, live = data_of(tmp_path, name)
    seal(live / "2026-11-24.parquet", show(5, "a", device="1"), event(6, event_id="a", revision=1))
    report = run(data, 1, SMALL, source(name, path, partition="year"))
    assert report["num_live_events"] == 1
    assert report["rows_read"] == report["rows_written"] + sum(report["dropped"].values())
    assert named(data, "provenance", "event_id")["a"]["file"] == f"live/{name}/2026-11-24.parquet"
    contexts = pq.read_table(data / "contexts")
    assert contexts.schema.equals(CONTEXTS)
    assert contexts["impression_id"].to_pylist().count("live-request-a") == 1


def test_a_damaged_sealed_file_is_named_with_what_to_do_and_nothing_is_written(tmp_path: Path) -> None:
    data, live = data_of(tmp_path)
    seal(live / "2026-11-24.parquet", event(5))
    whole = (live / "2026-11-24.parquet").read_bytes()
    for text in (whole[: len(whole) // 2], b"", b"not Parquet"):
        (live / "2026-11-24.parquet").write_bytes(text)
        with pytest.raises(InputError, match=r"2026-11-24.parquet is not a complete file .* move it away"):
            ingest_table(data, write_table(tmp_path / "log.csv"))
    pq.write_table(pa.table({"seq": [1], "more": [2]}), live / "2026-11-24.parquet")
    with pytest.raises(InputError, match=r"not known: \['more'\]"):
        ingest_table(data, tmp_path / "log.csv")
    assert not data.exists()


def test_seq_must_increase(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([event(5), event(5)], schema=LIVE), tmp_path / "2026-11-24.parquet")
    with pytest.raises(InputError, match="seq does not increase"):
        read_live(tmp_path, frozenset())


def test_the_newest_seq_survives_the_rows_that_had_it(tmp_path: Path) -> None:
    path = tmp_path / "2026-11-24.parquet"
    seal(path, event(5), event(9, user_id="u2"))
    table = read_sealed(path)
    write(path, table.slice(0, 1), newest_seq=newest_seq([table]))
    write(path, read_sealed(path).slice(0, 0), newest_seq=newest_seq([read_sealed(path)]))
    assert len(read_sealed(path)) == 0
    assert read_live(tmp_path, frozenset()).newest_seq == {"sqlite": 9, "redis": 0}


def test_a_killed_writer_s_file_is_not_a_sealed_file_and_is_removed_by_the_next_writer(tmp_path: Path) -> None:
    live = tmp_path / "live" / "table"
    seal(live / "2026-11-24.parquet", event(5))
    (live / ".2026-11-25.parquet.123").write_bytes(b"half")
    assert [path.name for path in sealed_files(live)] == ["2026-11-24.parquet"]
    with writing(live):
        assert sorted(path.name for path in live.iterdir()) == ["2026-11-24.parquet"]


def test_sealed_rows_of_a_forgotten_user_are_left_out_before_anything_is_joined(tmp_path: Path) -> None:
    data, live = data_of(tmp_path)
    add_forgotten(live, ["u1"])
    shown = show(5, "a", device="1")
    seal(live / "2026-11-24.parquet", shown, event(6, event_id="a", revision=1), event(7, user_id="u10"))
    report = ingest_table(data, write_table(tmp_path / "log.csv"))
    assert report["num_live_events"] == 1
    left = [row for row in read(data / "rejected") if row["file"].startswith("live/")]
    assert [(row["line"], row["reason"], row["raw"]) for row in left] == [
        (1, "user forgotten", ""),
        (2, "user forgotten", ""),
    ]
    assert read(data / "contexts") == []
    assert report["rows_read"] == report["rows_written"] + sum(report["dropped"].values()) == 63
