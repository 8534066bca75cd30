"""Bad files of every kind give one error with the next step, or a count; the last good outputs stay."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from contracts.errors import InputError
from tests.clones import ROOT
from tests.features.planted import HEADER, clean, taken, write
from tests.features.raw_logs import digest, ingest_table

GOOD = ("interactions", "rejected", "items", "provenance")


def cut(folder: Path) -> None:
    pq.write_table(pyarrow.csv.read_csv(folder / "log.csv"), folder / "more.parquet")
    (folder / "more.parquet").write_bytes((folder / "more.parquet").read_bytes()[:-400])


def open_quote(folder: Path) -> None:
    write(folder / "more.csv", [*clean(9, day=5), 'u1,"i1,2024-01-02T00:00:00Z,1', *clean(9, day=6)])


def other_delimiter(folder: Path) -> None:
    write(folder / "more.csv", [row.replace(",", "#") for row in clean(9)], "user#item#at#click")


def renamed(folder: Path) -> None:
    write(folder / "more.csv", clean(9), "user_id,item,at,click")


def of_floats(folder: Path) -> None:
    table = pyarrow.csv.read_csv(folder / "log.csv")
    ids = pa.array([2.0**53 + 2 * n for n in range(len(table))])
    pq.write_table(table.set_column(0, "user", ids), folder / "more.parquet")


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated Parquet": (cut, r"more\.parquet cannot be read: .*\. Export the file again, or move it away"),
    "a quote that is never closed": (open_quote, r"more\.csv line 11: a quote is opened and never closed .* Close it"),
    "an unknown delimiter": (other_delimiter, r"source\.columns\.user_id: more\.csv has no column 'user'\. It has: "),
    "a renamed column": (renamed, r"more\.csv has no column 'user'\. It has: user_id, item.* Did you mean 'user_id'\?"),
    "float ids too large": (of_floats, r"120 of 120 values .* two of them can be equal\. Write them as text"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_cannot_be_used_is_one_error_and_the_last_good_state_stays(fault: str, tmp_path: Path) -> None:
    plant, said = FAULTS[fault]
    write(tmp_path / "log" / "log.csv", clean())
    data = tmp_path / "data" / "table"
    ingest_table(data, tmp_path / "log")
    good = {name: digest(data / name) for name in GOOD}
    plant(tmp_path / "log")
    with pytest.raises(InputError, match=said):
        ingest_table(data, tmp_path / "log")
    assert {name: digest(data / name) for name in GOOD} == good
    assert not list(data.glob(".*"))


def test_a_file_in_another_format_than_configured_is_refused_by_its_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "log.csv", [row.replace(",", ";") for row in clean()], "user;item;at;click")
    with pytest.raises(InputError, match=r"log\.csv has no column 'user'\. It has: user;item;at;click"):
        ingest_table(tmp_path / "data" / "table", path, format="csv")
    assert ingest_table(tmp_path / "data" / "table", path, format="semicolon")["rows_written"] == len(clean())


def test_a_new_column_changes_nothing(tmp_path: Path) -> None:
    ingest_table(tmp_path / "data" / "table", write(tmp_path / "log.csv", clean()))
    ingest_table(
        tmp_path / "data" / "more",
        write(tmp_path / "log.csv", [f"{n},{row}" for n, row in enumerate(clean())], f"new,{HEADER}"),
    )
    for name in GOOD:
        assert digest(tmp_path / "data" / "table" / name) == digest(tmp_path / "data" / "more" / name)


def test_empty_files_are_counted_and_the_others_are_read(tmp_path: Path) -> None:
    write(tmp_path / "log" / "log.csv", clean())
    (tmp_path / "log" / "empty.csv").write_bytes(b"")
    (tmp_path / "log" / "empty.parquet").write_bytes(b"")
    write(tmp_path / "log" / "header.csv", [])
    report = ingest_table(tmp_path / "data" / "table", tmp_path / "log")
    assert (report["num_empty_files"], report["num_files"], report["rows_read"]) == (3, 4, 120)
    (tmp_path / "log" / "log.csv").unlink()
    good = digest(tmp_path / "data" / "table" / "interactions")
    with pytest.raises(InputError, match=r"has no rows\. Set source\.path to a log with events"):
        ingest_table(tmp_path / "data" / "table", tmp_path / "log")
    assert digest(tmp_path / "data" / "table" / "interactions") == good


FULL = """
import resource, sys
from pathlib import Path
from features.stages import ingest, validate
from tests.features.raw_logs import COLUMNS, SMALL, expectations, limits, source
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
data = Path(sys.argv[1])
try:
    if sys.argv[4] == "ingest":
        ingest.run(data, 1, SMALL, source("table", Path(sys.argv[2]), COLUMNS))
    else:
        validate.run(data, limits(), expectations())
except Exception as error:
    print(f"{type(error).__name__}: {error}")
    sys.exit(getattr(error, "exit_code", 1))
"""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root whose log was ingested and validated."""
    root = tmp_path_factory.mktemp("good")
    assert taken(root, write(root / "log.csv", clean())) == ({}, 0)
    return root


@pytest.mark.parametrize("stage", ["ingest", "validate"])
def test_a_full_disk_is_one_error_and_the_last_good_state_stays(stage: str, good: Path, tmp_path: Path) -> None:
    """A limit on file sizes simulates a full disk."""
    data, path, limit = tmp_path / "data" / "table", write(tmp_path / "log.csv", clean(3000)), 4096
    shutil.copytree(good / "data", tmp_path / "data")
    if stage == "validate":
        ingest_table(data, path)
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    command = [sys.executable, "-c", FULL, str(data), str(path), str(limit), stage]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    (said,) = done.stdout.splitlines()
    assert said.startswith("InputError: ")
    assert "Free space on its disk, then run again" in said
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before
    assert not list(data.glob(".*"))
