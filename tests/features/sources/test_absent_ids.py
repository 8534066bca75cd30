"""Placeholders of missing ids are null, with any spaces around them; otherwise all such users would share a history."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.features.raw_logs import ingest_table, read

ABSENT = ["NULL", " NULL", "NULL ", "\tnan ", "None\u00a0", "", " ", "   ", "\u3000", "\u00a0\u2003"]
PRESENT = ["NULLs", "a NULL", "nano", "N ULL", "0", "x y"]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("column", ["user", "item"])
def test_spaces_and_null_words_are_not_ids(tmp_path: Path, kind: str, column: str) -> None:
    ids = [*ABSENT, *PRESENT]
    at = [f"2024-01-01T00:00:{number:02}Z" for number in range(len(ids))]
    table = pa.table({"user": ["u"] * len(ids), "item": ["i"] * len(ids), "at": at, "click": [1] * len(ids)})
    table = table.set_column(table.column_names.index(column), column, pa.array(ids))
    if kind == "csv":
        lines = [",".join(f'"{value}"' for value in row.values()) for row in table.to_pylist()]
        (tmp_path / "log.csv").write_text("\n".join([",".join(table.column_names), *lines]))
    else:
        pq.write_table(table, tmp_path / "log.parquet")
    report = ingest_table(tmp_path / "data", tmp_path / f"log.{kind}")
    assert report["rows_written"] == len(ids)
    assert report["null_words"] == {f"{column}_id": 5}
    assert [row[f"{column}_id"] for row in read(tmp_path / "data" / "interactions")] == [None] * len(ABSENT) + PRESENT
