"""Unchanged partitions are neither split nor judged again, and the outs are those of a rebuild."""

import re
import shutil
from pathlib import Path

import pytest

from features.quality import figures, flaws, split
from features.stages import validate
from features.terms.rules import SHARED
from tests.features.planted import clean, write
from tests.features.raw_logs import COLUMNS, digest, expectations, ingest_table, limits

LATE = ["u1,i1,2024-01-02T23:00:00Z,1", ",i1,2024-01-02T23:00:01Z,1"]


def judged(root: Path) -> tuple[dict, dict[str, str]]:
    data = root / "data" / "table"
    report = dict(validate.run(data, limits(), expectations()))
    return report, {name: digest(data / name) for name in validate.OUTS}


def entries(root: Path) -> dict[str, int]:
    kept = root / ".cache" / "validate" / "table"
    return {path.name: path.stat().st_ino for path in kept.iterdir() if path.is_dir()}


def pages(root: Path) -> set[str]:
    """The batches that the Data Docs show."""
    docs = root / ".state" / "table" / "data_docs"
    told = "".join(path.read_text(encoding="utf-8") for path in sorted(docs.rglob("*.html")))
    return set(re.findall(r"2024-01-0\d_to_2024-01-0\d", told))


def test_only_late_rows_are_judged_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for room in (split, figures, flaws):
        monkeypatch.setattr(room, "BATCH_ROWS", 1)  # a partition a batch
    here, folder = tmp_path / "here", tmp_path / "log"
    write(folder / "log.csv", [*clean(90), *clean(90)[:4], "u1,,2024-01-03T05:00:00Z,1"])
    ingest_table(here / "data" / "table", folder)
    judged(here)
    first = entries(here)
    # marks, a judgement and figures a day; the rows of the repetitions and of the bad one, and their days split; the
    # flaws, counts and figures of the whole log, verdicts on it and its partitions, and what its Data Docs are
    assert len(first) == 3 + 3 + 3 + 2 + 2 + 3 + 3
    write(folder / "late.csv", [*LATE, *clean(90)[:1]])
    ingest_table(here / "data" / "table", folder)
    report, outs = judged(here)
    second = entries(here)
    # nothing of the third day is done again; the first has a repetition more, and the same valid rows
    assert len(first.items() & second.items()) == 5 + 1
    assert (report["rows_quarantined"], report["rows_duplicated"]) == (2, 5)
    assert pages(here) == {f"2024-01-0{day}_to_2024-01-0{day}" for day in (1, 2, 3)}
    shutil.copytree(here / "data", tmp_path / "other" / "data")
    assert judged(tmp_path / "other") == (report, outs)


def test_a_request_of_several_users_is_found_across_batches_and_leaves_when_one_of_them_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for room in (split, figures, flaws):
        monkeypatch.setattr(room, "BATCH_ROWS", 1)  # a partition a batch
    root, folder, mapped = tmp_path / "here", tmp_path / "log", COLUMNS | {"impression_id": "request"}
    header = "user,item,at,click,request"
    write(folder / "log.csv", [f"{row},r{place}" for place, row in enumerate(clean(90))], header)
    write(folder / "one.csv", ["u1,i1,2024-01-01T23:30:00Z,1,shared"], header)
    write(folder / "two.csv", ["u2,i2,2024-01-02T00:30:00Z,1,shared"], header)
    ingest_table(root / "data" / "table", folder, mapped)
    assert judged(root)[0]["quarantined_by_reason"] == {SHARED: 2}
    (folder / "two.csv").unlink()
    ingest_table(root / "data" / "table", folder, mapped)
    assert judged(root)[0]["quarantined_by_reason"] == {}
