"""A show and a click of an item in a request, logged as two rows, become one; every row read is accounted for."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from features.sources.joined import APART, JOINED
from features.stages import histories, validate
from tests.features.raw_logs import digest, expectations, ingest_table, limits, read
from tests.features.small_log import history, request

HEADER = "user,item,at,click,req,pos,ses,id\n"
COLUMNS = {"user_id": "user", "item_id": "item", "occurred_at": "at", "label": "click", "impression_id": "req"}
PLACED = COLUMNS | {"position": "pos", "session_id": "ses"}
NAMED = PLACED | {"event_id": "id"}


def ingest(folder: Path, lines: list[str], columns: dict[str, str] = PLACED, **changes: Any) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.csv").write_text(HEADER + "".join(f"{line}\n" for line in lines))
    report = ingest_table(folder / "data" / "table", folder / "log.csv", columns, **changes)
    assert report["rows_read"] == len(lines) == report["rows_written"] + sum(report["dropped"].values())
    return report


def rows(folder: Path) -> list[tuple]:
    return sorted(
        (row["user_id"], row["item_id"], row["label"], row["occurred_at"].second, row["position"], row["session_id"])
        for row in read(folder / "data" / "table" / "interactions")
    )


SHOWN = ["u,a,2024-01-01T00:00:10Z,0,r,3,s,e1", "u,b,2024-01-01T00:00:10Z,0,r,4,s,e2"]


@pytest.mark.parametrize("columns", [PLACED, NAMED], ids=["named by us", "named"])
def test_a_show_and_its_click_are_one_row(tmp_path: Path, columns: dict[str, str]) -> None:
    report = ingest(tmp_path, [*SHOWN, "u,a,2024-01-01T00:00:25Z,1,r,,,e3"], columns)
    assert report["dropped"] == {JOINED: 1}
    assert rows(tmp_path) == [("u", "a", 1, 10, 3, "s"), ("u", "b", 0, 10, 4, "s")]
    [left] = read(tmp_path / "data" / "table" / "rejected")
    assert (left["file"], left["line"], left["reason"]) == ("log.csv", 4, JOINED)
    assert json.loads(left["raw"])["label"] == 1
    assert {row["line"] for row in read(tmp_path / "data" / "table" / "provenance")} == {2, 3}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["u,a,2024-01-01T00:00:05Z,1,r,,,e3"], ("u", "a", 1, 5, 3, "s")),  # a click before its show: a clock apart
        (["u,a,2024-01-01T00:00:25Z,1,r,9,t,e3"], ("u", "a", 1, 10, 3, "s")),  # the show's place and session
        (["u,a,2024-01-01T00:00:20Z,0,r,7,t,e3"], ("u", "a", 0, 10, 3, "s")),  # shown twice
        (["u,a,2024-01-01T00:00:25Z,1,r,,,e3", "u,a,2024-01-01T00:00:26Z,1,r,,,e4"], ("u", "a", 1, 10, 3, "s")),
        (["u,a,2024-01-01T00:00:10Z,1,r,3,s,e1"], ("u", "a", 1, 10, 3, "s")),  # a click of the show's own event_id
    ],
)
def test_the_larger_label_and_the_earliest_time_are_used(tmp_path: Path, more: list[str], expected: tuple) -> None:
    report = ingest(tmp_path, [*SHOWN, *more], NAMED)
    assert report["dropped"] == {JOINED: len(more)}
    assert rows(tmp_path)[0] == expected


def test_a_show_without_a_place_takes_that_of_its_click(tmp_path: Path) -> None:
    ingest(tmp_path, ["u,a,2024-01-01T00:00:10Z,0,r,,,e1", "u,a,2024-01-01T00:00:20Z,1,r,2,t,e2"])
    assert rows(tmp_path) == [("u", "a", 1, 10, 2, "t")]


@pytest.mark.parametrize("least_kept", [0, 5000], ids=["kept", "written at once"])
def test_a_day_whose_only_row_is_joined_to_the_day_before_is_not_a_partition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least_kept: int
) -> None:
    monkeypatch.setattr("features.sources.written.LEAST_KEPT", least_kept)
    report = ingest(tmp_path, [*SHOWN, "u,a,2024-01-01T23:59:50Z,0,z,,,e3", "u,a,2024-01-02T00:00:10Z,1,z,,,e4"])
    data = tmp_path / "data" / "table"
    assert report["num_partitions"] == len(list((data / "interactions").iterdir())) == 1
    assert validate.run(data, limits(), expectations())["rows_valid"] == 3


def test_rows_that_are_not_a_show_and_its_click_are_not_joined(tmp_path: Path) -> None:
    others = [
        "u,a,2024-01-01T00:00:11Z,1,q,,,",  # another request
        "v,a,2024-01-01T00:00:11Z,1,r,,,",  # another user's: validate holds the request back
        "u,a,2024-01-01T00:00:12Z,1,,,,",  # no request
        "u,,2024-01-01T00:00:12Z,1,r,,,",
        "u,a,2024-01-01T00:00:13Z,,r,,,",  # no label: validate holds it back
    ]
    assert ingest(tmp_path, [*SHOWN, *others])["dropped"] == {}


def test_exact_copies_of_a_show_are_left_for_validate_to_count_and_the_click_is_not_lost(tmp_path: Path) -> None:
    report = ingest(tmp_path, [SHOWN[0], SHOWN[0], "u,a,2024-01-01T00:00:25Z,1,r,,,e3", SHOWN[1]])
    assert report["dropped"] == {JOINED: 1}
    data = tmp_path / "data" / "table"
    checked = validate.run(data, limits(), expectations())
    assert (checked["rows_valid"], checked["rows_duplicated"]) == (2, 1)
    assert {row["item_id"]: row["label"] for row in read(data / "validated_interactions")} == {"a": 1, "b": 0}


def test_a_row_too_far_from_its_show_is_rejected_with_a_reason(tmp_path: Path) -> None:
    lines = [*SHOWN, "u,a,2024-01-01T00:01:11Z,1,r,,,e3"]
    assert ingest(tmp_path / "near", lines, join_s=61)["dropped"] == {JOINED: 1}
    assert ingest(tmp_path / "far", lines, join_s=60)["dropped"] == {APART: 1}
    assert rows(tmp_path / "far")[0] == ("u", "a", 0, 10, 3, "s")


def test_the_order_of_rows_does_not_matter_and_the_ledger_adds_up(tmp_path: Path) -> None:
    drawn = random.Random(1)
    lines = [
        f"u{user},i{drawn.randrange(6)},2024-01-01T00:{user:02}:{drawn.randrange(60):02}Z,{drawn.randrange(2)},r{user},,,"
        for user in range(30)
        for _ in range(8)
    ]
    report = ingest(tmp_path / "a", lines)
    ingest(tmp_path / "b", drawn.sample(lines, len(lines)))
    data = tmp_path / "a" / "data" / "table"
    assert digest(data / "interactions") == digest(tmp_path / "b" / "data" / "table" / "interactions")
    validate.run(data, limits(), expectations())
    histories.run(data, request(), history())
    assert sum(row["rows"] for row in read(data / "ledger")) == report["rows_read"] == 240
    kept = read(data / "validated_interactions")
    assert len(kept) == len({(row["user_id"], row["impression_id"], row["item_id"]) for row in kept})
    clicked = {tuple(line.split(",")[:2]) for line in lines if line.split(",")[3] == "1"}
    assert {(row["user_id"], row["item_id"]) for row in kept if row["label"] == 1} == clicked
