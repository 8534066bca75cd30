"""A table is read by its content, not its name; rows that are dropped or changed are reported and counted."""

import bz2
import gzip
import logging
import lzma
import os
import struct
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.sealed.forgotten import fields_of
from orchestration.configure import main as configure
from tests.features.raw_logs import COLUMNS, digest, ingest_table, read, refusal

HEADER = "user,item,at,click"
ROWS = ("a,x,2024-01-01,1", "b,y,2024-01-02,0")
CSV = "\n".join([HEADER, *ROWS, ""])


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def users(data: Path) -> list[str | None]:
    return [row["user_id"] for row in read(data / "interactions")]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("csv")
    ingest_table(folder / "data", write(folder / "log.csv", CSV))
    return digest(folder / "data" / "interactions")


def as_pzstd(data: bytes) -> bytes:
    """As pzstd writes it: each piece is a frame, with a frame of its length before it that holds nothing."""
    pieces = [pa.compress(part, codec="zstd", asbytes=True) for part in (data[:99], data[99:])]
    return b"".join(b"\x50\x2a\x4d\x18" + struct.pack("<II", 4, len(piece)) + piece for piece in pieces)


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|", "::", "\x01"])
@pytest.mark.parametrize("name", ["log.inter", "log.dat", "log.txt", "log.csv"])
def test_the_delimiter_is_detected_from_the_header(tmp_path: Path, expected: str, name: str, delimiter: str) -> None:
    ingest_table(tmp_path / "data", write(tmp_path / name, CSV.replace(",", delimiter)))
    assert digest(tmp_path / "data" / "interactions") == expected


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("log.csv", gzip.compress),
        ("log.csv.gz", bytes),
        ("log.csv", lambda data: pa.compress(data, codec="zstd", asbytes=True)),
        ("log.csv.zst", lambda data: pa.compress(data, codec="zstd", asbytes=True)),
        ("log.csv.zst", lambda data: as_pzstd(data)),
        ("log.csv", bz2.compress),
        ("log.csv.xz", lzma.compress),
        ("log.tsv", gzip.compress),
    ],
)
def test_compressed_files_are_recognised_by_their_first_bytes(
    tmp_path: Path, expected: str, name: str, pack: Any
) -> None:
    ingest_table(tmp_path / "data", write(tmp_path / name, pack(CSV.encode())))
    assert digest(tmp_path / "data" / "interactions") == expected


def test_a_configured_format_overrides_the_name_and_the_header(tmp_path: Path, expected: str) -> None:
    text = CSV.replace(",", ";").replace("user", "us,er,s")
    columns = COLUMNS | {"user_id": "us,er,s"}
    ingest_table(tmp_path / "a", write(tmp_path / "log.export", text), columns, format="semicolon")
    ingest_table(tmp_path / "b", write(tmp_path / "folder" / "part-0000", CSV.replace(",", "\t")).parent, format="tsv")
    table = pa.table({"user": ["a", "b"], "item": ["x", "y"], "at": ["2024-01-01", "2024-01-02"], "click": [1, 0]})
    pq.write_table(table, tmp_path / "log.bin")
    ingest_table(tmp_path / "c", tmp_path / "log.bin", format="parquet")
    pq.write_table(table, tmp_path / "log.csv")  # Parquet under another name
    ingest_table(tmp_path / "d", tmp_path / "log.csv")
    assert {digest(tmp_path / name / "interactions") for name in "abcd"} == {expected}
    assert 'make set ARGS="source.format=csv"' in refusal(tmp_path / "no", tmp_path / "log.export")


def test_recbole_s_headers_are_mapped_by_their_full_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        tmp_path / "ml" / "ml.inter",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n1\t2\t5\t881250949\n",
    )
    write(tmp_path / "ml" / "ml.item", "item_id:token\ttitle:token_seq\n2\tFilm\n")
    write(tmp_path / "ml" / "README.txt", "Read me.\n")
    columns = {"user_id": "user_id:token", "item_id": "item_id:token", "occurred_at": "timestamp:float"}
    report = ingest_table(tmp_path / "data", tmp_path / "ml", columns, time_unit="s")
    assert (report["num_files"], report["rows_written"]) == (1, 1)
    assert read(tmp_path / "data" / "interactions")[0]["occurred_at"] == datetime(1997, 12, 4, 15, 55, 49, tzinfo=UTC)
    write(tmp_path / "params.yaml", Path("params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["configure", "source.columns.user_id=user_id:token"])
    configure()
    assert "user_id: user_id:token" in (tmp_path / "params.yaml").read_text()


@pytest.mark.parametrize(
    "header",
    ['"us,er"\titem\tat\tclick', '"us\ter",item,at,click', '"us;;;;er",item,at,click', '"us,,er";item;at;click'],
)
def test_a_delimiter_inside_a_quoted_name_is_no_delimiter(tmp_path: Path, header: str) -> None:
    delimiter = next(each for each in "\t,;" if f"{each}item" in header)
    name = header.split('"')[1]
    write(tmp_path / "log.csv", "\n".join([header, ROWS[0].replace(",", delimiter), ""]))
    ingest_table(tmp_path / "data", tmp_path / "log.csv", COLUMNS | {"user_id": name})
    assert users(tmp_path / "data") == ["a"]


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (r'"say \"hi\""', 'say "hi"'),
        (r'"12\""', '12"'),
        (r'"\"a\", \"b\""', '"a", "b"'),
        (r'"two\\"', "two\\"),
    ],
)
def test_quotes_escaped_as_spark_does_are_text(tmp_path: Path, field: str, expected: str) -> None:
    spark = r'"a \"b\" c"'
    write(tmp_path / "log.csv", f"{HEADER}\n{field},x,2024-01-01,1\nbad\n{spark},y,2024-01-02,1\n")
    report = ingest_table(tmp_path / "data", tmp_path / "log.csv")
    assert users(tmp_path / "data") == [expected, 'a "b" c']
    assert report["dropped"] == {"wrong number of fields": 1}
    assert [(row["line"], row["raw"]) for row in read(tmp_path / "data" / "rejected")] == [(3, "bad")]


def test_a_backslash_is_text_where_quotes_are_doubled(tmp_path: Path) -> None:
    write(tmp_path / "log.csv", f'{HEADER}\n"C:\\",x,2024-01-01,1\nb\\c,y,2024-01-02,1\n"say ""\\""",z,2024-01-03,1\n')
    ingest_table(tmp_path / "data", tmp_path / "log.csv")
    assert users(tmp_path / "data") == ["C:\\", "b\\c", 'say "\\"']


@pytest.mark.parametrize("word", ["NULL", "\\N", "None", "nan"])
def test_a_null_word_is_not_a_user(tmp_path: Path, caplog: pytest.LogCaptureFixture, word: str) -> None:
    write(
        tmp_path / "log.csv",
        f"{HEADER}\n{word},x,2024-01-01,1\na,{word},2024-01-02,{word}\nb,y,{word},1\nNULLA,z,2024-01-03,0\n",
    )
    report = ingest_table(tmp_path / "data", tmp_path / "log.csv")
    rows = [(row["user_id"], row["item_id"], row["label"]) for row in read(tmp_path / "data" / "interactions")]
    assert rows == [(None, "x", 1), ("a", None, None), ("NULLA", "z", 0)]
    assert report["dropped"] == {"no time": 1}
    assert report["null_words"] == {"item_id": 1, "label": 1, "occurred_at": 1, "user_id": 1}
    assert "1 values of user_id are words for null (source.null_words) and were read as null" in caplog.messages
    ingest_table(tmp_path / "all", tmp_path / "log.csv", null_words=())
    assert word in users(tmp_path / "all")


def test_null_words_are_null_in_parquet_too(tmp_path: Path) -> None:
    table = {
        "user": pa.array(["None", "a"]).dictionary_encode(),
        "item": ["x", "nan"],
        "at": ["2024-01-01"] * 2,
        "click": [1, 0],
    }
    pq.write_table(pa.table(table), tmp_path / "log.parquet")
    assert ingest_table(tmp_path / "data", tmp_path / "log.parquet")["null_words"] == {"item_id": 1, "user_id": 1}


@pytest.mark.parametrize(
    ("text", "zoned"),
    [
        ("2024-01-01 00:00:00 +00:00", True),
        ("2024-01-01 02:00:00 +0200", True),
        ("2023-12-31 19:00:00.000 -05", True),
        ("2024-01-01T00:00:00 Z", True),
        ("2024-01-01 00:00:00 UTC", True),
        ("2024-01-01 00:00:00,000+00:00", True),
        ("2024-01-01T00:00Z", True),
        ("2024-01-01 00:00:00,000", False),
        ("2024-01-01 00:00", False),
        ("2024-01-01", False),
    ],
)
def test_times_are_read_with_a_space_before_their_offset_and_noted_without_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, zoned: bool
) -> None:
    write(tmp_path / "log.csv", f'{HEADER}\na,x,"{text}",1\n')
    with caplog.at_level(logging.INFO, "leitmotif"):
        report = ingest_table(tmp_path / "data", tmp_path / "log.csv")
    assert read(tmp_path / "data" / "interactions")[0]["occurred_at"] == datetime(2024, 1, 1, tzinfo=UTC)
    assert report["times_without_zone"] == (0 if zoned else 1)
    assert ("1 times have no time zone and were read as UTC" in caplog.text) is not zoned


def test_only_rows_that_are_taken_count_as_times_without_a_zone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two are taken, one of them without a zone; no text of the others was read as UTC into anything."""
    times = ["2024-01-01", "2024-01-02T00:00Z", "yesterday", "2024-13-45", "12:30", "", "infinity"]
    rows = "".join(f'a,x{number},"{text}",1\n' for number, text in enumerate(times))
    write(tmp_path / "log.csv", f"{HEADER}\n{rows}b,y,2024-01-03,often\n")
    with caplog.at_level(logging.INFO, "leitmotif"):
        report = ingest_table(tmp_path / "data", tmp_path / "log.csv")
    assert report["dropped"] == {"bad label": 1, "bad time": 4, "no time": 1}
    assert len(read(tmp_path / "data" / "interactions")) == 2
    assert report["times_without_zone"] == 1
    assert "1 times have no time zone and were read as UTC" in caplog.text


def test_typed_times_out_of_range_are_not_times_without_a_zone(tmp_path: Path) -> None:
    at = pa.array([0, 2**61, None], pa.timestamp("us"))
    table = {"user": ["a", "b", "c"], "item": ["x", "y", "z"], "at": at, "click": [1, 0, 1]}
    pq.write_table(pa.table(table), tmp_path / "l.parquet")
    report = ingest_table(tmp_path / "data", tmp_path / "l.parquet")
    assert (report["dropped"], report["times_without_zone"]) == ({"bad time": 1, "no time": 1}, 1)


def test_typed_times_without_a_zone_are_noted(tmp_path: Path) -> None:
    for zone, noted in ((None, 2), ("UTC", 0), ("Asia/Tokyo", 0)):
        at = pa.array([datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 2, tzinfo=UTC)], pa.timestamp("ms", zone))
        pq.write_table(
            pa.table({"user": ["a", "b"], "item": ["x", "y"], "at": at, "click": [1, 0]}), tmp_path / "l.parquet"
        )
        assert ingest_table(tmp_path / "data", tmp_path / "l.parquet")["times_without_zone"] == noted


def test_a_few_fractions_among_whole_ids_are_told_since_they_part_7_from_7_0(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = [f"{number % 5}.0,x{number},2024-01-01,1" for number in range(150)]
    for name, rows in (("few", [*whole, "3.5,y,2024-01-01,1"]), ("versions", [*whole[:90], "1.5,x,2024-01-01,1"])):
        caplog.clear()
        with caplog.at_level("WARNING", logger="leitmotif"):
            report = ingest_table(tmp_path / name, write(tmp_path / f"{name}.csv", "\n".join([HEADER, *rows, ""])))
        assert report["ids_without_decimals"] == {}
        told = [text for text in caplog.messages if "with a fraction" in text]
        assert [text[: text.index(",")] for text in told] == (
            ["150 values of user_id are whole numbers with decimals"] if name == "few" else []
        )


def test_whole_ids_have_one_form_in_text_and_parquet_and_in_every_file(tmp_path: Path) -> None:
    write(tmp_path / "csv" / "a.csv", f"{HEADER}\n17850.0,x1,2024-01-01,1\n,x2,2024-01-02,1\n")
    write(
        tmp_path / "csv" / "b.csv",
        f"{HEADER}\n17850,1.0,2024-01-03,1\n17851.00,1.5,2024-01-04,1\nguest,2.0,2024-01-05,0\n",
    )
    report = ingest_table(tmp_path / "data", tmp_path / "csv")
    assert users(tmp_path / "data") == ["17850", None, "17850", "17851", "guest"]
    assert report["ids_without_decimals"] == {"user_id": 2}
    items = [row["item_id"] for row in read(tmp_path / "data" / "interactions")]
    assert items == ["x1", "x2", "1.0", "1.5", "2.0"]  # versions are left as they are
    table = {"user": [17850.0, None], "item": ["x1", "x2"], "at": ["2024-01-01", "2024-01-02"], "click": [1, 1]}
    pq.write_table(pa.table(table), tmp_path / "log.parquet")
    ingest_table(tmp_path / "parquet", tmp_path / "log.parquet")
    assert users(tmp_path / "parquet") == ["17850", None]
    assert "17850" in fields_of("17850.0,x,never,1")  # a forgotten user's rows without a time are found by either


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.array([b"a", "ü🎬".encode()], pa.binary()), ["a", "ü🎬"]),
        (pa.array([b"a", None], pa.large_binary()), ["a", None]),
        (pa.array([b"\x00\xff", b"ab"], pa.binary(2)), ["00ff", "6162"]),
        (pa.array([Decimal("17850.00"), None], pa.decimal128(10, 2)), ["17850", None]),
        (pa.array([Decimal("17850.50"), Decimal("1.00")], pa.decimal128(10, 2)), ["17850.50", "1"]),
        (pa.array([uuid.UUID(int=1).bytes, uuid.UUID(int=2**127).bytes], pa.uuid()),
         ["00000000-0000-0000-0000-000000000001", "80000000-0000-0000-0000-000000000000"]),
    ],
    ids=["binary", "large", "fixed", "decimal", "fraction", "uuid"],
)  # fmt: skip
def test_bytes_decimals_and_uuids_are_ids(tmp_path: Path, ids: pa.Array, expected: list[str | None]) -> None:
    table = {"user": ids, "item": [b"x", b"y"], "at": [b"2024-01-01", b"2024-01-02"], "click": [1, 0]}
    pq.write_table(pa.table(table), tmp_path / "log.parquet")
    ingest_table(tmp_path / "data", tmp_path / "log.parquet")
    assert users(tmp_path / "data") == expected
    assert [row["item_id"] for row in read(tmp_path / "data" / "interactions")] == ["x", "y"]


def test_bytes_that_are_not_text_are_refused_by_name(tmp_path: Path) -> None:
    table = {"user": [b"\xff", b"a"], "item": ["x", "y"], "at": ["2024-01-01"] * 2, "click": [1, 0]}
    pq.write_table(pa.table(table), tmp_path / "log.parquet")
    assert "source.columns.user_id: the column holds binary that is not UTF-8" in refusal(
        tmp_path, tmp_path / "log.parquet"
    )


@pytest.mark.parametrize("bad", ["e\x00", "e\x1b[31m", "e\x7f", "e\x85", "\x9f"])
@pytest.mark.parametrize("name", ["event_id", "impression_id", "session_id"])
def test_control_characters_in_names_are_rejected(tmp_path: Path, name: str, bad: str) -> None:
    write(tmp_path / "log.csv", f"{HEADER},id\na,x,2024-01-01,1,é¿ß\nb,y,2024-01-02,0,{bad}\n")
    report = ingest_table(tmp_path / "data", tmp_path / "log.csv", COLUMNS | {name: "id"})
    assert report["dropped"] == {f"{name} has control characters": 1}
    assert users(tmp_path / "data") == ["a"]


@pytest.mark.parametrize("empty", [b"", f"{HEADER}\n".encode(), b"\xef\xbb\xbf", b"\n\n", gzip.compress(b"", mtime=0)])
def test_a_file_without_rows_does_not_affect_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, expected: str, empty: bytes
) -> None:
    write(tmp_path / "days" / "1.csv", "\n".join([HEADER, ROWS[0], ""]))
    write(tmp_path / "days" / "2.csv", empty)
    write(tmp_path / "days" / "3.csv", "\n".join([HEADER, ROWS[1], ""]))
    report = ingest_table(tmp_path / "data", tmp_path / "days")
    assert digest(tmp_path / "data" / "interactions") == expected
    assert (report["num_files"], report["num_empty_files"]) == (3, 1)
    assert "2.csv has no rows and is ignored" in caplog.messages


def test_parquet_without_rows_does_not_affect_the_others(tmp_path: Path) -> None:
    table = pa.table({"user": ["a"], "item": ["x"], "at": ["2024-01-01"], "click": [1]})
    (tmp_path / "days").mkdir()
    pq.write_table(table, tmp_path / "days" / "1.parquet")
    pq.write_table(table.slice(0, 0), tmp_path / "days" / "2.parquet")
    write(tmp_path / "days" / "3.parquet", b"")
    assert ingest_table(tmp_path / "data", tmp_path / "days")["num_empty_files"] == 2
    write(tmp_path / "only" / "1.csv", f"{HEADER}\n")
    assert "has no rows" in refusal(tmp_path / "none", tmp_path / "only")


def test_broken_links_and_links_to_folders_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "logs" / "a.csv", CSV)
    write(tmp_path / "away" / "deep" / "b.csv", CSV)
    write(tmp_path / "away" / "notes" / "c.md", "")
    os.symlink("gone.md", tmp_path / "logs" / "d.md")
    os.symlink(tmp_path / "away" / "notes", tmp_path / "logs" / "notes")
    os.symlink(tmp_path / "away" / "deep" / "b.csv", tmp_path / "logs" / "b.csv")  # to a file: read
    assert ingest_table(tmp_path / "data", tmp_path / "logs")["num_files"] == 2
    assert "Ignored d.md, a link to gone.md" in caplog.messages
    assert f"Ignored notes, a link to {tmp_path / 'away' / 'notes'}" in caplog.messages
    os.symlink(tmp_path / "away", tmp_path / "logs" / "more")
    said = refusal(tmp_path / "no", tmp_path / "logs")
    assert f"more is a link to {tmp_path / 'away'}, a folder. DVC does not follow such links" in said
    (tmp_path / "logs" / "more").unlink()
    os.symlink("gone.csv", tmp_path / "logs" / "more.csv")
    said = refusal(tmp_path / "no", tmp_path / "logs")
    assert "more.csv is a link to gone.csv, which does not exist. Restore its target, remove the link" in said
