"""`make quarantine` lists quarantined rows, exports them in the log's format, and adds repaired ones to the log."""

import csv
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.errors import InputError
from contracts.schema import QUARANTINE, REJECTED
from features.pages.quality import _reasons
from features.quality.record import held_back
from features.sources.joined import JOINED
from features.sources.originals import originals
from features.sources.tombstones import REASON
from features.stages import validate
from features.stages.quarantine import _newest, export, listing, take_back
from features.tables.ledger import ROWS as ROWS_FILE
from tests.features.raw_logs import COLUMNS, expectations, ingest_table, limits, read, source

ROWS = ["a,x,2024-01-01,1", ",x y,2024-01-01,1", 'b,"x, y",2024-01-02,0', "b,,2024-01-02,1", "c,z,never,1", "c,z"]


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a log of one file that has been validated, once for all tests here."""
    root = tmp_path_factory.mktemp("validated") / "root"
    (root / "log").mkdir(parents=True)
    (root / "log" / "day.csv").write_text("\n".join(["user,item,at,click", *ROWS, ""]))
    run(root)
    return root


@pytest.fixture
def log(validated: Path, tmp_path: Path) -> Path:
    """A copy of that log's folder, with the outs of the stages beside it."""
    return shutil.copytree(validated, tmp_path, dirs_exist_ok=True) / "log"


def run(root: Path) -> dict:
    ingest_table(root / "data" / "table", root / "log")
    return dict(validate.run(root / "data" / "table", limits(), expectations()))


def test_reasons_are_listed_with_the_original_rows(log: Path) -> None:
    data = log.parent / "data" / "table"
    told = "\n".join(listing(data / "rejected", data / "quarantine", source("table", log, COLUMNS)))
    assert "1  user_id missing (validate)" in told
    assert "day.csv line 3: ',x y,2024-01-01,1'" in told
    assert "1  wrong number of fields (ingest)" in told
    assert "day.csv line 7: 'c,z'" in told


def test_rows_are_exported_repaired_and_taken_back_by_ingest(log: Path, tmp_path: Path) -> None:
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
    with pytest.raises(InputError, match=r"4 rows are still not valid \(line 4: .*none was taken"):
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


def test_for_a_log_of_one_file_the_error_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item,at,click\na,x,2024-01-01,1\n")
    with pytest.raises(InputError, match="Move the log's file into a folder"):
        take_back(source("table", tmp_path / "log.csv", COLUMNS), limits(), tmp_path / "log.csv")


def test_rejected_rows_of_a_forgotten_user_have_no_text(log: Path, tmp_path: Path) -> None:
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


def rejected_of(root: Path, *rows: tuple[str, int, str]) -> tuple[Path, Path]:
    """The outs of a log whose rejected rows are (file, line, reason); nothing is in quarantine."""
    for name in ("rejected", "quarantine"):
        (root / name).mkdir(parents=True)
    told = [dict(zip(REJECTED.names, (*row, "its text"), strict=True)) for row in rows]
    pq.write_table(pa.Table.from_pylist(told, schema=REJECTED), root / "rejected" / ROWS_FILE)
    pq.write_table(QUARANTINE.empty_table(), root / "quarantine" / "quarantine.parquet")
    return root / "rejected", root / "quarantine"


def test_rows_of_text_files_are_exported_whole_and_others_are_counted(log: Path, tmp_path: Path) -> None:
    (log / "commas.csv").write_bytes(b'\xef\xbb\xbfuser,item,at,click\na,"1;2;3;4;5;6",never,1\nb,x,2024-01-02,1\n')
    (log / "long.csv").write_text(f"user,item,at,click\na,{'i' * 200_000},never,1\n")
    (log / "spark.csv").write_text('user,item,at,click\na,"an \\"inch\\", or two",never,1\n')
    pq.write_table(pa.table({"user": ["a"], "item": ["x"], "at": ["never"], "click": [1]}), log / "day.parquet")
    bad = [(name, 2, "no time") for name in ("commas.csv", "long.csv", "spark.csv", "day.parquet", "gone.csv")]
    outs = rejected_of(tmp_path / "made", *bad, ("commas.csv", 3, JOINED))
    held = tmp_path / "held.csv"
    assert export(*outs, source("table", log, COLUMNS), held) == (
        f"3 rows are in {held}; 1 are rows of Parquet files and are not exported; "
        "1 are in text files that no longer exist."
    )
    with held.open(newline="") as handle:
        told = {row["_file"]: row["item"] for row in csv.DictReader(handle)}
    assert told == {"commas.csv": "1;2;3;4;5;6", "long.csv": "i" * 200_000, "spark.csv": 'an "inch", or two'}
    with pytest.raises(InputError, match="Name a file in an existing folder"):
        export(*outs, source("table", log, COLUMNS), tmp_path / "nowhere" / "held.csv")


def test_a_repair_never_replaces_an_earlier_one(log: Path, tmp_path: Path) -> None:
    (log / "repaired-002.csv").write_text("user,item,at,click\na,x,2024-01-01,1\n")
    mended = tmp_path / "mended.csv"
    mended.write_text("user,item,at,click\nb,x,2024-01-02,1\n")
    assert f"1 repaired rows are in {log / 'repaired-003.csv'}." in take_back(
        source("table", log, COLUMNS), limits(), mended
    )
    assert (log / "repaired-002.csv").read_text().endswith("a,x,2024-01-01,1\n")


def test_repaired_rows_are_written_in_the_format_that_ingest_reads(tmp_path: Path) -> None:
    log, mended = tmp_path / "log", tmp_path / "mended.csv"
    log.mkdir()
    (log / "day.tsv").write_text("user\titem\tat\tclick\na\tx\t2024-01-01\t1\n")
    mended.write_text('user,item,at,click\nb,"x, y",2024-01-02,1\n')
    take_back(source("table", log, COLUMNS, format="tsv"), limits(), mended)
    assert (log / "repaired-001.csv").read_text().splitlines() == ["user\titem\tat\tclick", "b\tx, y\t2024-01-02\t1"]
    for form in ("double_colon", "parquet"):
        with pytest.raises(InputError, match=f"source.format={form}.* Save it in this format"):
            take_back(source("table", log, COLUMNS, format=form), limits(), mended)
    assert sorted(path.name for path in log.iterdir()) == ["day.tsv", "repaired-001.csv"]


def test_the_refused_attempt_of_another_log_is_not_taken_for_this_one(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    attempt = tmp_path / "attempts" / "validate"
    (attempt / "made" / "quarantine").mkdir(parents=True)
    data = Path("data") / "table"
    for name, standing in (("other", data / "quarantine"), ("table", Path("attempts/validate/made/quarantine"))):
        (attempt / "failure.json").write_text(json.dumps({"source": name}))
        assert _newest(data) == standing
