"""Any CSV or Parquet file with a column mapping becomes a log; rows that cannot be parsed are kept with their place."""

import gzip
import logging
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.sources.parse import MAX_ID_CHARACTERS
from tests.features.raw_logs import COLUMNS, ingest_table, read, refusal

HEADER = "user,item,at,click\n"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def at(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type]


def test_odd_names_epoch_milliseconds_and_emoji_are_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "log.csv",
        "\ufeffwho 🙂,the;thing,when_ms,x,♥\n👤1,🍕,1704067200123,?,1\n👤2,🍔,1704067200124.5,?,0\n",
    )
    columns = {"user_id": "who 🙂", "item_id": "the;thing", "occurred_at": "when_ms", "label": "♥"}
    report = ingest_table(tmp_path / "data", path, columns, time_unit="ms")
    rows = read(tmp_path / "data" / "interactions")
    assert [(row["user_id"], row["item_id"], row["label"]) for row in rows] == [("👤1", "🍕", 1), ("👤2", "🍔", 0)]
    assert [row["occurred_at"] for row in rows] == [at(2024, 1, 1, 0, 0, 0, 123000), at(2024, 1, 1, 0, 0, 0, 124500)]
    assert (report["rows_read"], report["rows_written"], report["dropped"]) == (2, 2, {})


@pytest.mark.parametrize(
    ("unit", "text", "expected"),
    [
        ("s", "1704067200", at(2024, 1, 1)),
        ("s", "1704067200.25", at(2024, 1, 1, 0, 0, 0, 250000)),
        ("ms", "1704067200001", at(2024, 1, 1, 0, 0, 0, 1000)),
        ("us", "1704067200000001", at(2024, 1, 1, 0, 0, 0, 1)),
        ("iso", "2024-01-01", at(2024, 1, 1)),
        ("iso", "2024-01-01 10:00:00", at(2024, 1, 1, 10)),  # no zone: UTC
        ("iso", "2024-01-01T10:00:00+02:00", at(2024, 1, 1, 8)),
        ("iso", "2024-01-01T10:00:00.5Z", at(2024, 1, 1, 10, 0, 0, 500000)),
    ],
)
def test_times_are_read_as_the_mapping_says(tmp_path: Path, unit: str, text: str, expected: datetime) -> None:
    path = write(tmp_path / "log.csv", f"{HEADER}u,i,{text},1\n")
    ingest_table(tmp_path / "data", path, time_unit=unit)
    assert [row["occurred_at"] for row in read(tmp_path / "data" / "interactions")] == [expected]


def test_rows_that_cannot_be_parsed_are_kept_with_file_line_text_and_reason(tmp_path: Path) -> None:
    path = write(
        tmp_path / "log.csv",
        "user,item,at,click,note\n"
        'a,i,2024-01-01,1,"two\nlines"\n'  # lines 2 and 3
        "b,i,yesterday,1,\n"  # 4
        "\n"  # 5: no row
        'c,i,2024-01-02,maybe,"more\nlines"\n'  # 6 and 7
        "d,i\n"  # 8
        "e,i,,1,\n"  # 9
        "f,i,infinity,1,\n"  # 10
        ',i,2024-01-03,,"no user, no label: for validate to judge"\n',  # 11
    )
    report = ingest_table(tmp_path / "data", path)
    assert [tuple(row.values()) for row in read(tmp_path / "data" / "rejected")] == [
        ("log.csv", 4, "bad time", "b,i,yesterday,1,"),
        ("log.csv", 6, "bad label", 'c,i,2024-01-02,maybe,"more\nlines"'),
        ("log.csv", 8, "wrong number of fields", "d,i"),
        ("log.csv", 9, "no time", "e,i,,1,"),
        ("log.csv", 10, "bad time", "f,i,infinity,1,"),
    ]
    assert {row["line"] for row in read(tmp_path / "data" / "provenance")} == {2, 11}
    assert report["rows_read"] == 7 == report["rows_written"] + sum(report["dropped"].values())
    held = read(tmp_path / "data" / "interactions")[-1]
    assert (held["user_id"], held["label"]) == (None, None)


def test_a_quote_inside_a_field_is_text(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", f'{HEADER}a,12" vinyl,2024-01-01,1\nb,"say ""hi""",2024-01-02,1\n')
    ingest_table(tmp_path / "data", path)
    assert [row["item_id"] for row in read(tmp_path / "data" / "interactions")] == ['12" vinyl', 'say "hi"']


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".tsv", ".parquet", ".parquet.gz"])
def test_every_format_gives_the_same_log(tmp_path: Path, suffix: str) -> None:
    table = pa.table({"user": ["a", "b"], "item": ["x", "y"], "at": ["2024-01-01", "2024-01-02"], "click": ["1", "0"]})
    path = tmp_path / f"log{suffix}"
    if "parquet" in suffix:
        pq.write_table(table, path)
    else:
        delimiter = "\t" if suffix == ".tsv" else ","
        lines = [table.column_names, *(list(row.values()) for row in table.to_pylist())]
        path.write_text("".join(delimiter.join(line) + "\n" for line in lines))
    if suffix.endswith(".gz"):
        path.write_bytes(gzip.compress(path.read_bytes()))
    ingest_table(tmp_path / "data", path)
    rows = read(tmp_path / "data" / "interactions")
    assert [(row["user_id"], row["item_id"], row["label"]) for row in rows] == [("a", "x", 1), ("b", "y", 0)]


def test_typed_parquet_columns_become_ids_and_times(tmp_path: Path) -> None:
    table = pa.table(
        {
            "user": pa.array([1.0, None]),  # what pandas makes of whole numbers with a null
            "item": pa.array([7, 8]),
            "at": pa.array([datetime(2024, 1, 1, 1), datetime(2024, 1, 1, 2)], pa.timestamp("ms")),
            "click": pa.array([True, False]),
        }
    )
    pq.write_table(table, tmp_path / "log.parquet")
    ingest_table(tmp_path / "data", tmp_path / "log.parquet")
    rows = [
        tuple(row[key] for key in ("user_id", "item_id", "occurred_at", "label"))
        for row in read(tmp_path / "data/interactions")
    ]
    assert rows == [("1", "7", at(2024, 1, 1, 1), 1.0), (None, "8", at(2024, 1, 1, 2), 0.0)]


def test_a_label_is_a_click_from_the_threshold_on_and_no_label_column_means_all_clicks(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", f"{HEADER}a,x,2024-01-01,3.5\na,y,2024-01-02,4\na,z,2024-01-03,true\n")
    ingest_table(tmp_path / "data", path, label_threshold=4.0)
    assert [row["label"] for row in read(tmp_path / "data" / "interactions")] == [0, 1, 0]
    ingest_table(tmp_path / "all", path, {k: v for k, v in COLUMNS.items() if k != "label"})
    assert [row["label"] for row in read(tmp_path / "all" / "interactions")] == [1, 1, 1]


def test_items_take_the_latest_title_and_categories_and_every_item_is_listed(tmp_path: Path) -> None:
    path = write(
        tmp_path / "log.csv",
        "user,item,at,click,title,genres\na,x,2024-01-02,1,New,p|q\na,x,2024-01-01,1,Old,r\na,y,2024-01-01,1,,\n",
    )
    ingest_table(tmp_path / "data", path, COLUMNS | {"title": "title", "categories": "genres"})
    items = [(row["item_id"], row["title"], row["categories"]) for row in read(tmp_path / "data" / "items")]
    assert items == [("x", "New", ["p", "q"]), ("y", None, [])]


def test_a_missing_column_is_named_with_those_that_exist_and_a_guess(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", HEADER)
    said = refusal(tmp_path, path, COLUMNS | {"label": "clicked"})
    assert said == (
        "source.columns.label: log.csv has no column 'clicked'. It has: user, item, at, click. Did you mean 'click'?"
    )


def test_a_column_that_only_a_folders_name_has_is_said_to_be_there(tmp_path: Path) -> None:
    """Hive's partitions, as Spark writes them."""
    folder = tmp_path / "log" / "at=2024-01-01"
    folder.mkdir(parents=True)
    (folder / "part-0.csv").write_text("user,item,click\nu,i,1\n")
    said = refusal(tmp_path, tmp_path / "log")
    assert "at=2024-01-01/part-0.csv has no column 'at'. It has: user, item, click." in said
    assert "The folder's name says at=2024-01-01; names of folders are not read." in said
    assert "hive_partitioning" in said


def test_an_unmapped_column_says_how_to_map_it(tmp_path: Path) -> None:
    said = refusal(tmp_path, write(tmp_path / "log.csv", HEADER), {"user_id": "user", "item_id": "item"})
    assert "occurred_at not mapped" in said
    assert "make set" in said


def test_a_column_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path, write(tmp_path / "log.csv", "user,user,item,at,click\na,b,i,2024-01-01,1\n"))
    assert "2 columns called 'user'" in said


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("log.csv", b"", "log.csv has no rows"),
        ("log.csv", HEADER.encode(), "log.csv has no rows"),
        ("log.csv", HEADER.encode("utf-16"), "log.csv line 1 is not UTF-8 text (byte 0xff at 0)"),
        ("log.csv", HEADER.encode() + b"\xff,i,2024-01-01,1\n", "log.csv line 2 is not UTF-8 text (byte 0xff at 0)"),
        (
            "log.csv",
            HEADER.encode() + b'"a,i,2024-01-01,1\nb,i,2024-01-01,1\n',
            "line 2: a quote is opened and never closed",
        ),
        ("log.csv", b"x" * 20_000 + b"\n\xff\n", "log.csv has no column 'user'. It has: xxx"),
        ("log.csv.gz", b"not gzip", "log.csv.gz has no column 'user'. It has: not gzip."),
        ("log.csv", b"PK\x03\x04rest", "log.csv is a zip archive. Unpack it"),
        ("log.dat", b"1::2::3::4\n", "Its first line looks like data: add a header line"),
        ("log.csv.gz", gzip.compress(HEADER.encode() * 99, mtime=0)[:40], "log.csv.gz cannot be read"),
        ("log.parquet", b"not parquet", "log.parquet cannot be read"),
        ("log.json", b"{}", "log.json is neither .csv, .tsv nor .parquet"),
        ("log.csv", HEADER.encode() + b"a,i,1704067200000,1\n", "none of the 1 rows"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value[-24:],
)
def test_a_file_that_cannot_be_used_gives_one_message(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert expected in refusal(tmp_path, tmp_path / name)


def test_a_path_that_does_not_exist_gives_one_message(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "has no data file" in refusal(tmp_path, tmp_path / "empty")


def test_a_time_unit_that_the_column_contradicts_is_refused(tmp_path: Path) -> None:
    rows = {"user": ["a"], "item": ["i"], "click": [1.0]}
    pq.write_table(pa.table(rows | {"at": pa.array([1], pa.timestamp("us"))}), tmp_path / "typed.parquet")
    pq.write_table(pa.table(rows | {"at": [1]}), tmp_path / "number.parquet")
    assert "Set source.time_unit: iso" in refusal(tmp_path, tmp_path / "typed.parquet", time_unit="ms")
    assert "Set source.time_unit: s, ms or us" in refusal(tmp_path, tmp_path / "number.parquet")


def test_a_column_of_lists_is_not_an_id(tmp_path: Path) -> None:
    pq.write_table(pa.table({"user": [["a"]], "item": ["i"], "at": ["2024"], "click": [1]}), tmp_path / "log.parquet")
    assert "source.columns.user_id: the column holds list" in refusal(tmp_path, tmp_path / "log.parquet")


def test_items_keep_their_latest_time_of_publication_and_embedding(tmp_path: Path) -> None:
    path = write(
        tmp_path / "log.csv",
        "user,item,at,click,out,vector\n"
        'a,x,2024-01-02,1,2024-01-01T01:00:00+01:00,"[0.5, -1]"\n'
        'a,x,2024-01-01,1,2023-01-01,"[9, 9]"\n'
        "a,y,2024-01-03,1,,\n"
        "a,z,2024-01-03,1,soon,\n"
        'a,z,2024-01-03,1,,"[1, nan]"\n',
    )
    columns = COLUMNS | {"published_at": "out", "embedding": "vector"}
    report = ingest_table(tmp_path / "data", path, columns)
    assert report["dropped"] == {"bad published_at": 1, "bad embedding": 1}
    items = {row["item_id"]: (row["published_at"], row["embedding"]) for row in read(tmp_path / "data" / "items")}
    assert items == {"x": (at(2024, 1, 1), [0.5, -1.0]), "y": (None, None)}


def test_embeddings_of_several_lengths_are_refused(tmp_path: Path) -> None:
    columns = {"user": ["a", "a"], "item": ["x", "y"], "at": ["2024-01-01"] * 2, "click": [1, 1]}
    pq.write_table(pa.table(columns | {"vector": [[0.5, 1.0], [0.5]]}), tmp_path / "log.parquet")
    said = refusal(tmp_path, tmp_path / "log.parquet", COLUMNS | {"embedding": "vector"})
    assert "differ in length (1 of 2, 1 of 1)" in said


@pytest.mark.parametrize("name", ["user", "item"])
def test_a_row_with_an_enormous_id_is_rejected_and_its_text_cut(tmp_path: Path, name: str) -> None:
    row = {"user": "a", "item": "x"}
    sound, bad = (row | {name: "é" * (MAX_ID_CHARACTERS + more)} for more in (0, 1))
    lines = [f"{ids['user']},{ids['item']},2024-01-01,1\n" for ids in (sound, bad)]
    report = ingest_table(tmp_path / "data", write(tmp_path / "log.csv", HEADER + "".join(lines)))
    assert (report["rows_written"], report["dropped"]) == (1, {"id too large": 1})
    [held] = read(tmp_path / "data" / "rejected")
    assert (held["file"], held["line"]) == ("log.csv", 3)
    assert len(held["raw"]) < MAX_ID_CHARACTERS + 30
    assert held["raw"].endswith("... (10,016 characters)")


def test_other_files_in_a_folder_are_ignored_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "logs" / "a.csv", HEADER + "a,x,2024-01-01,1\n")
    (tmp_path / "logs" / "b.CSV.GZ").write_bytes(gzip.compress((HEADER + "b,y,2024-01-02,1\n").encode()))
    write(tmp_path / "logs" / "readme.txt", "Read me.")
    write(tmp_path / "logs" / "old" / "LICENSE", "Yours.")
    with caplog.at_level(logging.INFO, "leitmotif"):
        assert ingest_table(tmp_path / "data", tmp_path / "logs")["num_files"] == 2
    assert "Ignored 2 files that are neither .csv, .tsv nor .parquet: old/LICENSE, readme.txt" in caplog.messages
    for name in ("a.csv", "b.CSV.GZ"):
        (tmp_path / "logs" / name).unlink()
    assert "has no data file (but 2 of other kinds: old/LICENSE, readme.txt)" in refusal(
        tmp_path / "none", tmp_path / "logs"
    )
    assert "readme.txt has no column 'user'" in refusal(tmp_path / "none", tmp_path / "logs" / "readme.txt")
    assert "LICENSE is neither .csv" in refusal(tmp_path / "none", tmp_path / "logs" / "old" / "LICENSE")
