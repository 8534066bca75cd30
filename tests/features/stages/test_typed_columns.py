"""Parquet's types mean what they say or are refused by name: ids keep their digits, nulls are absent."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.features.raw_logs import COLUMNS, ingest_table, read, refusal


def parquet(path: Path, **columns: Any) -> Path:
    """Two rows; what is not given is valid."""
    usual = {"user": ["a", "b"], "item": ["x", "y"], "at": ["2024-01-01", "2024-01-02"], "click": [1, 0]}
    pq.write_table(pa.table(usual | columns), path)
    return path


@pytest.mark.parametrize(("kind", "exact"), [(pa.float64(), 2**53), (pa.float32(), 2**24)])
def test_float_ids_too_large_to_be_told_apart_are_refused(tmp_path: Path, kind: pa.DataType, exact: int) -> None:
    largest = parquet(tmp_path / "sound.parquet", item=pa.array([float(exact), float("nan")], kind))
    ingest_table(tmp_path / "sound", largest)
    assert [row["item_id"] for row in read(tmp_path / "sound" / "interactions")] == [str(exact), None]
    for bad in (1e30, -2.0 * exact):
        path = parquet(tmp_path / "log.parquet", item=pa.array([1.0, bad], kind))
        assert f"source.columns.item_id: the column holds {kind}, and 1 of 2 ids" in refusal(tmp_path, path)


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
def test_categories_that_are_no_names_are_refused(tmp_path: Path, categories: pa.Array) -> None:
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


def test_columns_of_nulls_hold_nothing(tmp_path: Path) -> None:
    names = {"position": "pos", "published_at": "out", "embedding": "vector", "session_id": "ses"}
    path = parquet(tmp_path / "log.parquet", click=pa.nulls(2), **{theirs: pa.nulls(2) for theirs in names.values()})
    report = ingest_table(tmp_path / "data", path, COLUMNS | names)
    assert report["dropped"] == {}
    rows = read(tmp_path / "data" / "interactions")
    assert [(row["label"], row["position"], row["session_id"]) for row in rows] == [(None, None, None)] * 2


def test_embeddings_of_half_floats_in_lists_of_one_size_are_read(tmp_path: Path) -> None:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.array([0.5, 1, 2, 3], np.float16)), 2)
    ingest_table(tmp_path / "data", parquet(tmp_path / "log.parquet", v=vectors), COLUMNS | {"embedding": "v"})
    assert [row["embedding"] for row in read(tmp_path / "data" / "items")] == [[0.5, 1], [2, 3]]
