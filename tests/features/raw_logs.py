"""Raw logs small enough to read, and the params that go with them."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.errors import InputError
from contracts.params import load_params
from contracts.schema import INTERACTIONS, ITEMS, PROVENANCE, REJECTED
from features.stages.ingest import run
from features.terms.params import ColumnParams, ExpectationParams, SimulatorParams, SourceParams, ValidateParams
from tests.clones import ROOT

SMALL = SimulatorParams(
    preference="item", num_days=3, num_users=40, num_items=200, num_themes=12, num_sessions=8, item_life_days=20.0
)
READING = {
    "format": "auto",
    "null_words": ["NULL", "\\N", "None", "nan"],
    "join_s": 86_400,
    "shown_s": 3_600,
    "negatives": 0,
    "negatives_from": "popularity",
}
COLUMNS = {"user_id": "user", "item_id": "item", "occurred_at": "at", "label": "click"}


def source(name: str, path: Path | None = None, columns: dict[str, str] | None = None, **changes: Any) -> SourceParams:
    """Params of a source; columns not given are not mapped."""
    mapped = ColumnParams(**(dict.fromkeys(ColumnParams.model_fields) | (columns or {})))
    told = {"id": name, "same_as": None, "time_unit": "iso", "label_threshold": 1.0, "partition": "day"}
    values = told | READING | changes
    return SourceParams.model_validate({"name": name, "path": str(path or ""), "columns": mapped} | values)


def ingest_table(data: Path, path: Path, columns: dict[str, str] | None = None, **changes: Any) -> dict[str, Any]:
    """Ingest a table with the columns user, item, at and click, or others as given."""
    return dict(run(data, 1, SMALL, source("table", path, COLUMNS if columns is None else columns, **changes)))


def refusal(tmp_path: Path, path: Path, columns: dict[str, str] | None = None, **changes: Any) -> str:
    """What an InputError says; nothing may have been written."""
    with pytest.raises(InputError) as caught:
        ingest_table(tmp_path / "data", path, columns, **changes)
    assert not (tmp_path / "data").exists()
    return str(caught.value)


def limits(**changes: Any) -> ValidateParams:
    """Validation params that let almost anything pass."""
    values = {
        "earliest": "1990-01-01T00:00:00Z",
        "latest": "2100-01-01T00:00:00Z",
        "max_silence_s": None,
        "max_id_length": 20,
        "max_quarantined_share": 1.0,
        "max_duplicated_share": 1.0,
        "min_users": 1,
        "min_items": 1,
        "min_clicks": 1,
        "min_unclicked": 0,
    }
    return ValidateParams.model_validate(values | changes)


def expectations(**limits: float) -> ExpectationParams:
    """What partitions are compared with, as params.yaml has it, but for these limits."""
    told: ExpectationParams = load_params(ROOT / "params.yaml")["expectations"]
    return ExpectationParams(trailing=told.trailing, limits=dict(told.limits) | limits)


def read(folder: Path) -> list[dict[str, Any]]:
    """All rows of an out, file by file."""
    tables = [pq.read_table(file) for file in sorted(folder.glob("*.parquet"))]
    return pa.concat_tables(tables).to_pylist() if tables else []


def digest(folder: Path) -> str:
    """One hash of an out: its files' names and bytes."""
    total = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(file.name.encode())
        total.update(file.read_bytes())
    return total.hexdigest()[:16]


def write_interactions(data: Path, rows: list[dict[str, Any]], partition: str = "2024-01-01") -> None:
    """An ingested log of one partition; what a row does not say is a valid impression."""
    (data / "interactions").mkdir(parents=True, exist_ok=True)
    blank = dict.fromkeys(INTERACTIONS.names) | {"role": "impression"}
    table = pa.Table.from_pylist([blank | row for row in rows], schema=INTERACTIONS)
    pq.write_table(table, data / "interactions" / f"{partition}.parquet")
    (data / "provenance").mkdir(exist_ok=True)
    names = [row["event_id"] for row in rows]
    places = {"event_id": names, "file": ["log.csv"] * len(names), "line": list(range(2, 2 + len(names)))}
    pq.write_table(pa.table(places, schema=PROVENANCE), data / "provenance" / f"{partition}.parquet")
    for name, schema in (("items", ITEMS), ("rejected", REJECTED)):
        (data / name).mkdir(exist_ok=True)
        pq.write_table(schema.empty_table(), data / name / f"{name}.parquet")
