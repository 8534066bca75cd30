"""Parquet's types are read as what they are or refused by name: ids keep their digits, nulls are absent values."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.features.raw_logs import COLUMNS, ingest_table, read, refusal


def parquet(path: Path, **columns: Any) -> Path:
    """Two rows; columns that are not given are valid."""
    usual = {"user": ["a", "b"], "item": ["x", "y"], "at": ["2024-01-01", "2024-01-02"], "click": [1, 0]}
    pq.write_table(pa.table(usual | columns), path)
    return path


@pytest.mark.parametrize(
    ("kind", "exact"), [(pa.float64(), 2**53 - 1), (pa.float32(), 2**24 - 1), (pa.float16(), 2**11 - 1)]
)
def test_float_ids_too_large_to_be_exact_are_refused(tmp_path: Path, kind: pa.DataType, exact: int) -> None:
    largest = parquet(tmp_path / "sound.parquet", item=pa.array([float(exact), float("nan")], kind))
    ingest_table(tmp_path / "sound", largest)
    assert [row["item_id"] for row in read(tmp_path / "sound" / "interactions")] == [str(exact), None]
    for bad in (-2.0 * exact, exact + 1.0, exact + 2.0):  # the last two are one number, where it is stored
        path = parquet(tmp_path / "log.parquet", item=pa.array([1.0, bad], kind))
        assert f"source.columns.item_id: the column holds {kind}, and 1 of 2 values" in refusal(tmp_path, path)


def test_times_in_floats_of_32_bits_are_refused_and_in_64_bits_read(tmp_path: Path) -> None:
    seconds = [1_706_720_400.0, 1_706_720_401.0]
    ingest_table(tmp_path / "sound", parquet(tmp_path / "sound.parquet", at=pa.array(seconds)), time_unit="s")
    assert [row["occurred_at"].second for row in read(tmp_path / "sound" / "interactions")] == [0, 1]
    path = parquet(tmp_path / "log.parquet", at=pa.array(seconds, pa.float32()))
    said = refusal(tmp_path, path, time_unit="s")
    assert "source.columns.occurred_at: the column holds float, and 2 of 2 values are at or beyond 16,777,216" in said


def test_half_floats_and_decimals_without_a_fraction_are_ids(tmp_path: Path) -> None:
    ids = pa.array([Decimal(12345678901234567890123), None], pa.decimal128(38, 0))
    wide = pa.array([Decimal("1" + "0" * 49 + "1"), Decimal(7)], pa.decimal256(60, 0))
    half = pa.array(np.array([1, 0], np.float16))
    ingest_table(tmp_path / "a", parquet(tmp_path / "log.parquet", user=ids, item=wide, click=half))
    rows = [(row["user_id"], row["item_id"], row["label"]) for row in read(tmp_path / "a" / "interactions")]
    assert rows == [("12345678901234567890123", "1" + "0" * 49 + "1", 1), (None, "7", 0)]
    ingest_table(tmp_path / "b", parquet(tmp_path / "log.parquet", user=pa.array(np.array([1, 2], np.float16))))
    assert [row["user_id"] for row in read(tmp_path / "b" / "interactions")] == ["1", "2"]


@pytest.mark.parametrize(
    "categories",
    [
        pa.array([[{"name": "p"}], []]),
        pa.array([[["p"]], []]),
        pa.array([[0.5], []]),
        pa.array([{"name": "p"}, None]),
    ],
    ids=["structs", "lists", "floats", "struct"],
)
def test_categories_that_are_not_names_are_refused(tmp_path: Path, categories: pa.Array) -> None:
    path = parquet(tmp_path / "log.parquet", genres=categories)
    said = refusal(tmp_path, path, COLUMNS | {"categories": "genres"})
    assert said.startswith(f"source.columns.categories: the column holds {categories.type}, not text, or lists of text")


@pytest.mark.parametrize(
    ("categories", "expected"),
    [
        (pa.array([["p", "q"], None], pa.list_(pa.string())), [["p", "q"], []]),
        (pa.array([["p", "q"], None], pa.list_(pa.string(), 2)), [["p", "q"], []]),
        (pa.array([[3], [4]], pa.large_list(pa.int32())), [["3"], ["4"]]),
        (pa.array([[], [None]]), [[], []]),
        (pa.nulls(2), [[], []]),
    ],
    ids=["text", "of one size", "whole numbers", "lists of nulls", "nulls"],
)
def test_categories_may_be_lists_of_any_kind(tmp_path: Path, categories: pa.Array, expected: list) -> None:
    path = parquet(tmp_path / "log.parquet", genres=categories)
    ingest_table(tmp_path / "data", path, COLUMNS | {"categories": "genres"})
    assert [row["categories"] for row in read(tmp_path / "data" / "items")] == expected


def test_columns_of_nulls_are_treated_as_absent(tmp_path: Path) -> None:
    names = {"position": "pos", "published_at": "out", "embedding": "vector", "session_id": "ses"}
    path = parquet(tmp_path / "log.parquet", click=pa.nulls(2), **{theirs: pa.nulls(2) for theirs in names.values()})
    report = ingest_table(tmp_path / "data", path, COLUMNS | names)
    assert report["dropped"] == {}
    rows = read(tmp_path / "data" / "interactions")
    assert [(row["label"], row["position"], row["session_id"]) for row in rows] == [(None, None, None)] * 2


def test_embeddings_of_half_floats_in_fixed_size_lists_are_read(tmp_path: Path) -> None:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.array([0.5, 1, 2, 3], np.float16)), 2)
    ingest_table(tmp_path / "data", parquet(tmp_path / "log.parquet", v=vectors), COLUMNS | {"embedding": "v"})
    assert [row["embedding"] for row in read(tmp_path / "data" / "items")] == [[0.5, 1], [2, 3]]


VIEWS = {
    "text": pa.array(["7", "NULL"], pa.string_view()),
    "bytes": pa.array([b"7", b"NULL"], pa.binary_view()),
    "dictionary": pa.array(["7", "NULL"]).dictionary_encode(),
}


@pytest.mark.parametrize("kind", VIEWS)
def test_view_types_of_newer_writers_are_read_like_plain_types(tmp_path: Path, kind: str) -> None:
    ids = VIEWS[kind]
    bad = parquet(tmp_path / "log.parquet", user=ids, click=pa.array(["1", "perhaps"], pa.string_view()))
    report = ingest_table(tmp_path / "data", bad)
    assert report["dropped"] == {"bad label": 1}
    assert [row["user_id"] for row in read(tmp_path / "data" / "interactions")] == ["7"]
    assert '"perhaps"' in read(tmp_path / "data" / "rejected")[0]["raw"]


@pytest.mark.parametrize("lists", [pa.list_, pa.large_list, lambda kind: pa.list_(kind, 2)])
def test_lists_of_views_are_categories(tmp_path: Path, lists: Any) -> None:
    column = pa.array([["a", "b"], ["c", "d"]], lists(pa.string_view()))
    path = parquet(tmp_path / "log.parquet", categories=column)
    ingest_table(tmp_path / "data", path, COLUMNS | {"categories": "categories"})
    assert [row["categories"] for row in read(tmp_path / "data" / "items")] == [["a", "b"], ["c", "d"]]


NANOSECONDS = 1_704_067_200_123_456_789


@pytest.mark.parametrize(
    ("far", "told"),
    [
        (pa.array([NANOSECONDS, 0], pa.timestamp("us", "UTC")), "+"),  # nanoseconds that are called microseconds
        (pa.array([NANOSECONDS // 1_000, 0], pa.timestamp("s")), "+"),
        (pa.array([2**63 - 1, 0], pa.timestamp("us")), "294247-01-10"),
        (pa.array([1 - 2**63, 0], pa.timestamp("ms", "Mars/Olympus")), "-"),
        (pa.array([2**31 - 1, 0], pa.date32()), "5881580-07-11"),
    ],
)
def test_a_time_beyond_the_calendar_is_rejected_and_does_not_stop_the_run(
    tmp_path: Path, far: pa.Array, told: str
) -> None:
    report = ingest_table(tmp_path / "data", parquet(tmp_path / "log.parquet", at=far))
    assert (report["rows_written"], report["dropped"]) == (1, {"bad time": 1})
    [left] = read(tmp_path / "data" / "rejected")
    assert told.strip("+") in left["raw"]


def test_a_row_is_the_same_whether_its_nanoseconds_are_text_or_parquet_s(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    texts = ["2024-01-01T00:00:00.123456789Z", "1969-12-31T23:59:59.999999999Z", "2024-01-01T00:00:00.9999999Z"]
    lines = [f"a,x,{text},1" for text in texts]
    (tmp_path / "logs" / "a.csv").write_text("\n".join(["user,item,at,click", *lines]))
    at = pa.array([NANOSECONDS, -1, NANOSECONDS // 10**9 * 10**9 + 999_999_900], pa.timestamp("ns", "UTC"))
    pq.write_table(
        pa.table({"user": ["a"] * 3, "item": ["x"] * 3, "at": at, "click": [1] * 3}), tmp_path / "logs" / "b.parquet"
    )
    ingest_table(tmp_path / "data", tmp_path / "logs")
    rows = [row for day in sorted((tmp_path / "data").glob("interactions/*")) for row in pq.read_table(day).to_pylist()]
    assert len(rows) == 6
    assert len({(row["event_id"], row["occurred_at"]) for row in rows}) == 3
