"""A partition's figures do not depend on the other partitions in its batch, nor on the order of arrival."""

from pathlib import Path

import pytest

from features.quality import figures
from features.stages import validate
from tests.features.planted import clean, write
from tests.features.raw_logs import expectations, ingest_table, limits, read

HEADER = "user,item,at,click"


def profiled(root: Path, folder: Path) -> list[dict]:
    ingest_table(root / "data" / "table", folder)
    validate.run(root / "data" / "table", limits(), expectations())
    return read(root / "data" / "table" / "profile")


def test_a_partition_counted_alone_has_the_same_figures_as_among_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "log"
    write(
        folder / "log.csv", ["u1,i1,2024-01-01T00:00:01Z,1", *clean(60, day=2), "-3,i1,2024-01-09T00:00:01Z,1"], HEADER
    )
    whole = profiled(tmp_path / "whole", folder)
    monkeypatch.setattr(figures, "BATCH_ROWS", 1)
    alone = profiled(tmp_path / "alone", folder)
    assert alone == whole
    # by hand: what one partition alone cannot know. i1 is of the first day; the clean rows end on the fourth, 22:58:58
    last = {row["partition"]: row for row in whole if "longest_gap_s" in row}["2024-01-09"]
    assert (last["new_item_share"], last["missing_before"], last["negative_ids"]) == (0.0, 4, 1)
    newest = max(row["last_at"] for row in whole if row["last_at"] and row["partition"] < "2024-01-09")
    assert last["longest_gap_s"] == (last["first_at"] - newest).total_seconds() > 4 * 86_400
