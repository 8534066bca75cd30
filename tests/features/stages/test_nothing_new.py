"""Where nothing has changed, validate loads no Great Expectations, reads no rows and writes no page again."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from features.stages import validate
from tests.clones import ROOT
from tests.features.planted import clean, write
from tests.features.raw_logs import digest, ingest_table

GX = "great_expectations"


def apart(data: Path, **changes: Any) -> tuple[dict[str, Any], list[str]]:
    """(report, heavy modules that were loaded) of a run in a process of its own."""
    command = [sys.executable, "-m", "tests.features.validated_apart", str(data), json.dumps(changes)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    told = json.loads(done.stdout.splitlines()[-1])
    return told["report"], told["loaded"]


def outs(data: Path) -> dict[str, str]:
    return {name: digest(data / name) for name in validate.OUTS}


def site(data: Path) -> dict[str, tuple[bytes, int]]:
    """File -> (content, time of change) of the Data Docs."""
    docs = data.parent.parent / ".state" / "table" / "data_docs"
    files = {path.relative_to(docs).as_posix(): path for path in docs.rglob("*") if path.is_file()}
    return {name: (path.read_bytes(), path.stat().st_mtime_ns) for name, path in files.items()}


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """(the data of a log that was validated, its report); three days, two rows that repeat others, one without item."""
    root = tmp_path_factory.mktemp("nothing_new")
    write(root / "log" / "log.csv", [*clean(90), *clean(90)[:2], "u1,,2024-01-03T05:00:00Z,1"])
    data = root / "data" / "table"
    ingest_table(data, root / "log")
    report, loaded = apart(data)
    assert GX in loaded
    return data, report


@pytest.fixture
def again(judged: tuple[Path, dict[str, Any]], tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A copy of it, in which nothing has changed."""
    shutil.copytree(judged[0].parent.parent, tmp_path / "root")
    return tmp_path / "root" / "data" / "table", judged[1]


def test_with_nothing_new_no_judge_is_opened_and_nothing_differs(again: tuple[Path, dict[str, Any]]) -> None:
    data, report = again
    outs_before, site_before = outs(data), site(data)
    assert apart(data) == (report, [])
    assert (outs(data), site(data)) == (outs_before, site_before)


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"limits": {"max_partition_duplicated_share": 0.001, "min_partition_rows": 1}}, True),
        ({"validate": {"max_quarantined_share": 0.5}}, False),
        ({"versions": {GX: "0"}}, False),
        ({"versions": {"duckdb": "0"}}, False),
    ],
    ids=["a limit of the suite", "a param", "Great Expectations", "a library that counts"],
)
def test_what_a_verdict_depends_on_is_judged_again(
    changes: dict[str, Any], differs: bool, again: tuple[Path, dict[str, Any]]
) -> None:
    data, report = again
    found, loaded = apart(data, **changes)
    assert GX in loaded
    assert (found != report) == differs
    assert apart(data, **changes) == (found, [])


def test_a_page_that_is_gone_or_damaged_is_built_again(again: tuple[Path, dict[str, Any]]) -> None:
    data, report = again
    docs = data.parent.parent / ".state" / "table" / "data_docs"
    first = site(data)
    (docs / "expectations" / "rows.html").unlink()
    (docs / "index.html").write_text("damaged", encoding="utf-8")
    found, loaded = apart(data)
    assert (found, GX in loaded) == (report, True)
    second = site(data)
    assert second.keys() == first.keys()
    assert second["index.html"][0] == first["index.html"][0]
    assert apart(data) == (report, [])


def test_a_damaged_verdict_is_found_again(again: tuple[Path, dict[str, Any]]) -> None:
    data, report = again
    notes = list((data.parent.parent / ".cache" / "validate" / "table").glob("*/note.json"))
    assert len(notes) == 4  # verdicts on the log and on its partitions, the totals, and the files of the Data Docs
    for note in notes:
        note.write_text("{}", encoding="utf-8")
    found, loaded = apart(data)
    assert (found, GX in loaded) == (report, True)
