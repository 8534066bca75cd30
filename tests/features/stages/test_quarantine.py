"""`make quarantine`: what is held back is listed, exported as it stood, and comes back repaired through ingest."""

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.errors import InputError
from contracts.schema import REJECTED
from features.pages.quality import _reasons
from features.quality.record import held_back
from features.sources.originals import originals
from features.sources.tombstones import REASON
from features.stages import validate
from features.stages.quarantine import export, listing, take_back
from features.tables.ledger import ROWS as ROWS_FILE
from tests.features.raw_logs import COLUMNS, expectations, ingest_table, limits, read, source

ROWS = ["a,x,2024-01-01,1", ",x y,2024-01-01,1", 'b,"x, y",2024-01-02,0', "b,,2024-01-02,1", "c,z,never,1", "c,z"]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A folder with one file; it has been validated."""
    folder = tmp_path / "log"
    folder.mkdir()
    (folder / "day.csv").write_text("\n".join(["user,item,at,click", *ROWS, ""]))
    run(tmp_path)
    return folder


def run(root: Path) -> dict:
    ingest_table(root / "data" / "table", root / "log")
    return dict(validate.run(root / "data" / "table", limits(), expectations()))


def test_reasons_are_listed_with_their_rows_as_they_stood(log: Path) -> None:
    data = log.parent / "data" / "table"
    told = "\n".join(listing(data / "rejected", data / "quarantine", source("table", log, COLUMNS)))
    assert "1  user_id missing (validate)" in told
    assert "day.csv line 3: ',x y,2024-01-01,1'" in told
    assert "1  wrong number of fields (ingest)" in told
    assert "day.csv line 7: 'c,z'" in told


def test_rows_are_exported_mended_and_taken_back_through_ingest(log: Path, tmp_path: Path) -> None:
    data, told, held = log.parent / "data" / "table", source("table", log, COLUMNS), tmp_path / "held.csv"
    assert export(data / "rejected", data / "quarantine", told, held) == f"4 rows are in {held}."
    with held.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [(row["_line"], row["user"], row["item"]) for row in rows] == [
        ("3", "", "x y"),
        ("5", "b", ""),
        ("6", "c", "z"),
        ("7", "c", "z"),
    ]
    with pytest.raises(InputError, match=r"4 rows are not repaired \(line 4: .*none was taken"):
        take_back(told, limits(), held)
    assert not list(log.glob("repaired*"))
    mended = [
        row | {"user": row["user"] or "a", "item": row["item"] or "x", "at": "2024-01-03", "click": "1"} for row in rows
    ]
    with held.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(mended[:3])
    assert take_back(told, limits(), held) == f"3 repaired rows are in {log / 'repaired-001.csv'}. Next: make run."
    report = run(log.parent)
    assert (report["rows_in"], report["rows_valid"], report["rows_quarantined"]) == (7, 5, 2)
    assert {row["file"] for row in read(data / "quarantine")} == {"day.csv"}


def test_a_log_of_one_file_is_told_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item,at,click\na,x,2024-01-01,1\n")
    with pytest.raises(InputError, match="Move the log's file into a folder"):
        take_back(source("table", tmp_path / "log.csv", COLUMNS), limits(), tmp_path / "log.csv")


def test_the_rows_of_a_forgotten_user_stay_without_their_text(log: Path, tmp_path: Path) -> None:
    data, told = log.parent / "data" / "table", source("table", log, COLUMNS)
    rejected = pq.read_table(data / "rejected" / ROWS_FILE)
    buried = pa.table({"file": ["day.csv"], "line": [2], "reason": [REASON], "raw": [""]}, schema=REJECTED)
    pq.write_table(pa.concat_tables([rejected, buried]), data / "rejected" / ROWS_FILE)
    listed = "\n".join(listing(data / "rejected", data / "quarantine", told))
    assert "1  user forgotten (ingest)\n            day.csv line 2: (text left out)" in listed
    reasons = held_back(data / "rejected", data / "quarantine", lambda places: originals(told, places))
    page = _reasons({"reasons": reasons, "rows_read": 6})
    assert "(text left out)" in page
    export(data / "rejected", data / "quarantine", told, tmp_path / "held.csv")
    assert "a,x,2024-01-01,1" not in listed + page + (tmp_path / "held.csv").read_text()
