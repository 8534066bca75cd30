"""A forgotten user's rows are left out by ingest, whatever the source; what is left out is counted and says nothing."""

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from contracts.errors import InputError
from features.sealed.files import live_of
from features.sealed.forgotten import add_forgotten, are_forgotten, hash_of, read_forgotten
from features.stages import histories
from features.stages.ingest import run
from features.stages.validate import run as validate
from tests.clones import real_data
from tests.ebnerd_log import of_some_users
from tests.features.live_log import HEADER, LINES, event, seal, write_table
from tests.features.raw_logs import SMALL, digest, expectations, ingest_table, limits, read, source
from tests.features.small_log import history, request


def texts_of(folder: Path) -> str:
    """All that the Parquet files of a folder say, as one text."""
    return "\n".join(str(pq.read_table(path).to_pylist()) for path in sorted(folder.rglob("*.parquet")))


def test_the_list_is_hashes_each_once_below_a_random_line_and_names_nobody(tmp_path: Path) -> None:
    live = tmp_path / "live" / "table"
    assert add_forgotten(live, ["b", "a", "b"]) == 2
    first = (live / "forgotten.txt").read_bytes()
    assert add_forgotten(live, ["a"]) == 0
    assert (live / "forgotten.txt").read_bytes() == first
    head, *others = first.decode().splitlines()
    assert head.startswith("# ")
    assert others == sorted([hash_of("a"), hash_of("b")])
    assert add_forgotten(live, ["0"]) == 1
    assert (live / "forgotten.txt").read_bytes() == first + f"{hash_of('0')}\n".encode()
    other = tmp_path / "live" / "other"
    add_forgotten(other, ["a", "b"])
    assert (other / "forgotten.txt").read_bytes() != first  # a digest of the list cannot be guessed from the ids
    assert read_forgotten(live) == {hash_of("a"), hash_of("b"), hash_of("0")}
    assert read_forgotten(tmp_path / "nowhere") == frozenset()


def test_a_line_that_is_no_hash_stops_the_run_and_is_named(tmp_path: Path) -> None:
    data = tmp_path / "data" / "table"
    add_forgotten(live_of(data), ["u1"])
    with (live_of(data) / "forgotten.txt").open("a") as handle:
        handle.write("u2\n")
    with pytest.raises(InputError, match=r"forgotten.txt line 3 is 'u2', not the SHA-256"):
        ingest_table(data, write_table(tmp_path / "log.csv"))
    assert not data.exists()


def test_an_id_that_begins_or_ends_like_a_forgotten_one_is_not_forgotten() -> None:
    users = pa.chunked_array([["u1", "u10", None, "xu1", "u1 ", "U1", "u"]])
    assert are_forgotten(users, frozenset([hash_of("u1")])).tolist() == [True, *[False] * 6]


IDS = [
    "Doe, John",
    'q"uote',
    "an id",
    "a;b",
    "a|b",
    "a::b",
    "o'neil",
    "a\\b",
    "[x]",
    "u:1",
    " lead",
    "é 🙂",
    "50%",
    "a.*",
]


@pytest.mark.parametrize("kind", [",", ";", "\t", "|", "parquet"])
def test_no_text_of_a_row_that_could_not_be_parsed_names_a_forgotten_user(tmp_path: Path, kind: str) -> None:
    rows = [(user, "x", "never", "1") for user in [*IDS, "v"]] + [("w", "x", "2024-01-01", "1")]
    path = tmp_path / ("log.parquet" if kind == "parquet" else "log.csv")
    if kind == "parquet":
        columns = dict(zip(("user", "item", "at", "click"), map(list, zip(*rows, strict=True)), strict=True))
        pq.write_table(pa.table(columns), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as handle:
            csv.writer(handle, delimiter=kind).writerows([("user", "item", "at", "click"), *rows])
    data = tmp_path / "data" / "table"
    add_forgotten(live_of(data), IDS)
    report = ingest_table(data, path)
    assert report["dropped"] == {"bad time": len(IDS) + 1}
    assert [row["raw"] != "" for row in read(data / "rejected")] == [False] * len(IDS) + [True]  # v is nobody's


def test_rows_of_a_forgotten_user_are_counted_with_their_place_and_without_their_text(tmp_path: Path) -> None:
    data = tmp_path / "data" / "table"
    more = ("u1,only theirs,2024-01-01,1\n", "u11,i1,2024-01-01,1\n", "u1,i1,never,1\n", "u11,i1,never,1\n")
    add_forgotten(live_of(data), ["u1"])
    report = ingest_table(data, write_table(tmp_path / "log.csv", *more))
    theirs = [number for number, line in enumerate(LINES, start=2) if line.startswith("u1,")] + [62]
    rejected = read(data / "rejected")
    assert [row["line"] for row in rejected if row["reason"] == "user forgotten"] == theirs
    unparsed = {row["line"]: row["raw"] for row in rejected if row["reason"] != "user forgotten"}
    assert unparsed == {64: "", 65: "u11,i1,never,1"}
    assert report["dropped"]["user forgotten"] == len(theirs)
    assert report["rows_read"] == 64 == report["rows_written"] + sum(report["dropped"].values())
    assert "'u1'" not in texts_of(data)
    assert "only theirs" not in texts_of(data / "items")
    assert "'u11'" in texts_of(data / "interactions")
    assert len(read(data / "provenance")) == report["rows_written"]


def test_the_ledger_adds_up_with_forgotten_users_and_live_events(tmp_path: Path) -> None:
    data = tmp_path / "data" / "table"
    add_forgotten(live_of(data), ["u1", "u2"])
    outcome = event(4, event_id="live-3", revision=1, user_id="u3")
    seal(live_of(data) / "2026-11-24.parquet", event(2), event(3, user_id="u3"), outcome)
    report = ingest_table(data, write_table(tmp_path / "log.csv", "u1,i1,never,1\n"))
    validate(data, limits(), expectations())
    histories.run(data, request(), history())
    ledger = {(row["stage"], row["what"]): row["rows"] for row in read(data / "ledger")}
    assert ledger["ingest", "user forgotten"] == 19  # 18 of 60 rows, and one live
    assert ledger["ingest", "outcome joined to its show"] == 1
    assert sum(ledger.values()) == report["rows_read"] == 64


def test_forgetting_users_without_rows_changes_no_byte(tmp_path: Path) -> None:
    data = tmp_path / "data" / "table"
    ingest_table(data, write_table(tmp_path / "log.csv", "u1,i1,never,1\n"))
    before = digest(data)
    add_forgotten(live_of(data), ["u", "i", "never there"])
    ingest_table(data, tmp_path / "log.csv")
    assert digest(data) == before


def test_what_a_forgotten_user_said_of_items_is_not_kept(tmp_path: Path) -> None:
    data = tmp_path / "data" / "table"
    (tmp_path / "log.csv").write_text("user,item,at,title\nu2,i,2024-01-01,theirs\nu1,i,2024-01-02,mine\n")
    columns = {"user_id": "user", "item_id": "item", "occurred_at": "at", "title": "title"}
    ingest_table(data, tmp_path / "log.csv", columns)
    assert [row["title"] for row in read(data / "items")] == ["mine"]
    add_forgotten(live_of(data), ["u1"])
    ingest_table(data, tmp_path / "log.csv", columns)
    assert [row["title"] for row in read(data / "items")] == ["theirs"]


def test_a_log_of_forgotten_users_alone_says_so(tmp_path: Path) -> None:
    data = tmp_path / "data" / "table"
    (tmp_path / "log.csv").write_text(HEADER + "u1,i,2024-01-01,1\n")
    add_forgotten(live_of(data), ["u1"])
    with pytest.raises(InputError, match=r"all 1 rows in .* are of users on live/table/forgotten.txt"):
        ingest_table(data, tmp_path / "log.csv")


def test_the_simulators_truth_forgets_as_well(tmp_path: Path) -> None:
    data = tmp_path / "data" / "simulator"
    run(data, 1, SMALL, source("simulator"))
    theirs = {row["event_id"] for row in read(data / "interactions") if row["user_id"] == "u00007"}
    add_forgotten(live_of(data), ["u00007"])
    run(data, 1, SMALL, source("simulator"))
    assert "u00007" not in texts_of(data)
    left = {row["event_id"] for row in read(data / "interactions")}
    assert theirs
    assert not theirs & left
    assert {row["event_id"] for row in pq.read_table(data / "truth" / "logits.parquet").to_pylist()} == left


def test_movielens_forgets_user_1_and_not_user_11(tmp_path: Path) -> None:
    data, path = tmp_path / "data" / "movielens", real_data("movielens-small")
    before = run(data, 1, SMALL, source("movielens", path, partition="year", label_threshold=4.0))
    users = pq.read_table(data / "interactions", columns=["user_id"])["user_id"]
    num = {user: pc.sum(pc.equal(users, user)).as_py() for user in ("1", "11")}
    add_forgotten(live_of(data), ["1"])
    after = run(data, 1, SMALL, source("movielens", path, partition="year", label_threshold=4.0))
    assert after["dropped"]["user forgotten"] == num["1"] > 0
    assert before["rows_read"] == after["rows_read"] == after["rows_written"] + sum(after["dropped"].values())
    users = pq.read_table(data / "interactions", columns=["user_id"])["user_id"]
    assert [pc.sum(pc.equal(users, user)).as_py() for user in ("1", "11")] == [0, num["11"]]
    assert before["items_read"] == after["items_read"]  # a catalogue is not derived from users


@pytest.mark.slow
def test_ebnerd_forgets_impressions_history_and_contexts(tmp_path: Path) -> None:
    data, path = tmp_path / "data" / "ebnerd", of_some_users(real_data("ebnerd-demo"), tmp_path / "log", 8)
    run(data, 1, SMALL, source("ebnerd", path, partition="month"))
    rows = pq.read_table(data / "interactions", columns=["user_id", "impression_id"])
    user = pc.mode(pc.cast(rows.filter(pc.is_valid(rows["impression_id"]))["user_id"], pa.int64()))[0]["mode"].as_py()
    theirs = rows.filter(pc.equal(rows["user_id"], str(user)))
    impressions = pc.drop_null(pc.unique(theirs["impression_id"]))
    contexts = len(pq.read_table(data / "contexts"))
    add_forgotten(live_of(data), [str(user)])
    report = run(data, 1, SMALL, source("ebnerd", path, partition="month"))
    assert report["dropped"]["user forgotten"] == len(theirs)
    rows = pq.read_table(data / "interactions", columns=["user_id"])
    assert not pc.any(pc.equal(rows["user_id"], str(user))).as_py()
    after = pq.read_table(data / "contexts")
    assert len(after) == contexts - len(impressions)
    assert not pc.any(pc.is_in(after["impression_id"], value_set=impressions)).as_py()
