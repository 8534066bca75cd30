"""Ingest loses no row silently, and its data bytes depend on nothing but the events."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.errors import InputError
from contracts.schema import CONTEXTS, INTERACTIONS, ITEMS, PROVENANCE, REJECTED
from features.stages.ingest import run
from features.terms.params import SourceParams
from tests.features.raw_logs import SMALL, digest, ingest_table, read, source

LINES = [f"u{n % 7},i{n % 11},2024-01-{1 + n % 9:02d}T{n % 24:02d}:00:00,{n % 2}\n" for n in range(60)]
HEADER = "user,item,at,click\n"


def test_the_simulator_writes_every_out_in_the_contracts_schema(tmp_path: Path) -> None:
    report = run(tmp_path, 1, SMALL, source("simulator"))
    outs = {"interactions": INTERACTIONS, "items": ITEMS, "contexts": CONTEXTS}
    outs |= {"rejected": REJECTED, "provenance": PROVENANCE}
    for name, schema in outs.items():
        for file in (tmp_path / name).iterdir():
            assert pq.read_schema(file).equals(schema), name
    assert sorted(path.stem for path in (tmp_path / "truth").iterdir()) == [
        "items",
        "logits",
        "propensities",
        "requests",
        "users",
    ]
    rows = read(tmp_path / "interactions")
    assert report["rows_read"] == report["rows_written"] == len(rows) == len({row["event_id"] for row in rows})
    assert rows == sorted(rows, key=lambda row: (row["occurred_at"], row["event_id"]))


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(tmp_path / name, 1, SMALL, source("simulator"))
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_shuffled_and_split_input_gives_the_same_data_bytes(tmp_path: Path) -> None:
    lines = LINES + LINES[:5]  # repeated events stay: validate owns them
    (tmp_path / "one.csv").write_text(HEADER + "".join(lines))
    shuffled = random.Random(1).sample(lines, len(lines))
    for part in range(3):
        (tmp_path / "parts" / str(part)).mkdir(parents=True)
        (tmp_path / "parts" / str(part) / "log.csv").write_text(HEADER + "".join(shuffled[part::3]))
    first = ingest_table(tmp_path / "a", tmp_path / "one.csv")
    second = ingest_table(tmp_path / "b", tmp_path / "parts")
    assert (first["num_files"], second["num_files"]) == (1, 3)
    assert first["rows_written"] == second["rows_written"] == 65
    for out in ("interactions", "items", "rejected"):
        assert digest(tmp_path / "a" / out) == digest(tmp_path / "b" / out)
    came_from = {(row["file"], row["line"]) for row in read(tmp_path / "b" / "provenance")}
    assert len(came_from) == 65
    assert {file for file, _ in came_from} == {"0/log.csv", "1/log.csv", "2/log.csv"}


def test_equal_rows_get_equal_event_ids_and_others_do_not(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(HEADER + LINES[0] + LINES[0] + LINES[1] + ",i0,2024-01-01,1\nu0,,2024-01-01,1\n")
    ingest_table(tmp_path / "data", tmp_path / "log.csv")
    ids = [row["event_id"] for row in read(tmp_path / "data" / "interactions")]
    assert (len(ids), len(set(ids))) == (5, 4)
    assert all(len(event_id) == 32 for event_id in ids)
    assert len(read(tmp_path / "data" / "provenance")) == 5


@pytest.mark.parametrize(
    ("partition", "expected"),
    [
        ("day", ["2023-12-31", "2024-01-01", "2024-02-01"]),
        ("month", ["2023-12", "2024-01", "2024-02"]),
        ("year", ["2023", "2024"]),
    ],
)
def test_partitions_are_days_months_or_years_in_utc(tmp_path: Path, partition: str, expected: list[str]) -> None:
    times = ["2023-12-31T23:59:59.999999Z", "2024-01-01T01:00:00+01:00", "2024-02-01"]
    (tmp_path / "log.csv").write_text(HEADER + "".join(f"u,i,{time},1\n" for time in times))
    ingest_table(tmp_path / "data", tmp_path / "log.csv", partition=partition)
    assert sorted(file.stem for file in (tmp_path / "data" / "interactions").iterdir()) == expected


def test_a_source_may_name_its_own_events_requests_and_sessions(tmp_path: Path) -> None:
    table = {"user": ["a"], "item": ["x"], "at": ["2024-01-01"], "id": ["e1"], "req": [5], "pos": [3], "ses": ["s"]}
    pq.write_table(pa.table(table), tmp_path / "log.parquet")
    columns = {"user_id": "user", "item_id": "item", "occurred_at": "at", "event_id": "id"}
    columns |= {"impression_id": "req", "position": "pos", "session_id": "ses"}
    ingest_table(tmp_path / "data", tmp_path / "log.parquet", columns)
    row = read(tmp_path / "data" / "interactions")[0]
    assert [row[key] for key in ("event_id", "impression_id", "position", "session_id")] == ["e1", "5", 3, "s"]


def test_a_failed_ingest_leaves_the_last_good_outs(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(HEADER + "".join(LINES))
    ingest_table(tmp_path / "data", tmp_path / "log.csv")
    before = digest(tmp_path / "data")
    (tmp_path / "log.csv").write_text(HEADER + "a,b,never,1\n")
    with pytest.raises(InputError, match="none of the 1 rows"):
        ingest_table(tmp_path / "data", tmp_path / "log.csv")
    assert digest(tmp_path / "data") == before


def test_a_source_without_a_path_says_so(tmp_path: Path) -> None:
    for name in ("movielens", "table"):
        with pytest.raises(InputError, match=r"source.path is not set"):
            run(tmp_path, 1, SMALL, _without_path(name))


def _without_path(name: str) -> SourceParams:
    return source(name, None, {"user_id": "u", "item_id": "i", "occurred_at": "t"})


FIELD = st.sampled_from(
    ["", "u1", "i 2", '"quoted, with comma"', '"two\nlines"', "2024-01-01", "1", "0", "x", "1e400", "é🙂"]
)
ROW = st.one_of(
    st.tuples(st.sampled_from(["a", "b", ""]), FIELD, st.sampled_from(["2024-01-01", "2024-05-01", "bad", ""]), FIELD),
    st.lists(FIELD, min_size=1, max_size=6),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROW, min_size=1, max_size=12))
def test_every_row_of_a_dirty_table_is_written_or_rejected(tmp_path: Path, rows: list[list[str]]) -> None:
    lines = [",".join(row) for row in rows]
    (tmp_path / "log.csv").write_text(HEADER + "a,i,2024-01-01,1\n" + "\n".join(lines) + "\n")
    report = ingest_table(tmp_path / "data", tmp_path / "log.csv")
    given_rows = 1 + sum(line != "" for line in lines)
    rejected, provenance = read(tmp_path / "data" / "rejected"), read(tmp_path / "data" / "provenance")
    assert report["rows_read"] == given_rows == report["rows_written"] + sum(report["dropped"].values())
    assert (len(provenance), len(rejected)) == (report["rows_written"], sum(report["dropped"].values()))
    starts = [2]
    for line in ["a,i,2024-01-01,1", *lines]:
        starts.append(starts[-1] + 1 + line.count("\n"))
    texts = dict(zip(starts, ["a,i,2024-01-01,1", *lines], strict=False))
    assert all(texts[row["line"]] == row["raw"] for row in rejected)
    assert {row["line"] for row in [*rejected, *provenance]} <= texts.keys()
