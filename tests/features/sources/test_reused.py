"""An impression_id that a user reuses on another day names a new request; clicks go to the request of their show."""

import random
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from features.sealed.files import live_of
from features.sources.joined import APART, JOINED
from tests.features.live_log import event, seal, write_table
from tests.features.raw_logs import COLUMNS, ingest_table, read

HOUR, DAY = 3_600, 86_400


def at(seconds: float) -> str:
    return (datetime(2024, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).isoformat()


def ingest(folder: Path, rows: Sequence[tuple[str, str, float, Any, str]], **changes: Any) -> dict[str, Any]:
    """rows: user, item, seconds, label, request."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{user},{item},{at(seconds)},{label},{name}\n" for user, item, seconds, label, name in rows]
    (folder / "log.csv").write_text("user,item,at,click,req\n" + "".join(lines))
    report = ingest_table(folder / "table", folder / "log.csv", COLUMNS | {"impression_id": "req"}, **changes)
    assert report["rows_read"] == len(rows) == report["rows_written"] + sum(report["dropped"].values())
    return report


def requests(folder: Path) -> set[frozenset]:
    """The content of each request, without its name."""
    held = defaultdict(list)
    for row in read(folder / "table" / "interactions"):
        if None in (row["user_id"], row["impression_id"], row["label"]):
            continue
        held[row["user_id"], row["impression_id"]].append((row["item_id"], row["label"], row["occurred_at"]))
    return {frozenset([user, *rows]) for (user, _), rows in held.items()}


def items(folder: Path) -> list[str]:
    """Each request's items in order; a star marks clicked ones."""
    told = [sorted(f"{item}{'*' * int(label)}" for item, label, _ in each) for each in _rows(folder)]
    return sorted(" ".join(each) for each in told)


def _rows(folder: Path) -> list[list[tuple]]:
    return [[row for row in each if isinstance(row, tuple)] for each in requests(folder)]


def test_daily_request_counters_give_the_same_requests_as_unique_names(tmp_path: Path) -> None:
    drawn = random.Random(3)
    counted, named = [], []
    for user in ("u", "v", "é%"):
        for day in range(5):
            begins = day * DAY + drawn.randrange(8 * HOUR)
            for number in range(4):
                begins += drawn.randrange(600, 2 * HOUR)
                for item in drawn.sample("abcdef", 4):
                    rows = [(user, item, begins, 0)]
                    rows += [(user, item, begins + drawn.randrange(1, 500), 1)] * (drawn.random() < 0.4)
                    counted += [(*row, f"{user}{number}") for row in rows]
                    named += [(*row, f"{user}{day}-{number}") for row in rows]
    report = ingest(tmp_path / "counted", drawn.sample(counted, len(counted)))
    assert ingest(tmp_path / "named", named)["requests_named_apart"] == 0
    assert report["requests_named_apart"] == 3 * 4 * 4
    assert requests(tmp_path / "counted") == requests(tmp_path / "named")
    assert len(requests(tmp_path / "named")) == 3 * 5 * 4


SHOWN = [("u", "a", 0, 0, "1"), ("u", "b", 0, 0, "1")]


@pytest.mark.parametrize(
    ("more", "expected", "dropped"),
    [
        ([("u", "a", HOUR, 0, "1")], ["a b"], {JOINED: 1}),  # shown again at the limit: one request
        ([("u", "a", HOUR + 1, 0, "1")], ["a", "a b"], {}),
        ([("u", "a", 23 * HOUR, 1, "1")], ["a* b"], {JOINED: 1}),  # a late click is no request
        ([("u", "a", DAY + 1, 1, "1")], ["a b"], {APART: 1}),  # too late to be joined
        ([("u", "c", DAY + 1, 1, "1")], ["a b", "c*"], {}),  # nothing that was shown
        ([("u", "c", HOUR + 1, 0, "1"), ("u", "a", HOUR + 2, 1, "1")], ["a b", "a* c"], {}),
        ([("u", "c", 5 * DAY, 0, "2"), ("v", "c", 5 * DAY, 0, "3")], ["a b", "c", "c"], {}),  # other names
        ([("u", "c", (part + 1) * HOUR, 0, "1") for part in range(30)], ["a b c"], {JOINED: 24, APART: 5}),
    ],
)
def test_where_a_request_ends(tmp_path: Path, more: list, expected: list[str], dropped: dict[str, int]) -> None:
    assert ingest(tmp_path, [*SHOWN, *more])["dropped"] == dropped
    assert items(tmp_path) == expected


def test_rows_without_a_label_a_user_or_an_impression_id_are_unchanged(tmp_path: Path) -> None:
    rows = [("u", "a", 3 * DAY, "", "1"), ("", "a", 3 * DAY, 0, "1"), ("u", "a", 3 * DAY, 0, "")]
    report = ingest(tmp_path, [*SHOWN, *rows])
    assert (report["dropped"], report["requests_named_apart"]) == ({}, 1)
    assert items(tmp_path) == ["a b"]


def test_the_parameter_sets_the_limit_between_requests(tmp_path: Path) -> None:
    rows = [*SHOWN, ("u", "c", 10, 0, "1")]
    ingest(tmp_path / "one", rows, shown_s=10)
    ingest(tmp_path / "two", rows, shown_s=9)
    assert items(tmp_path / "one") == ["a b c"]
    assert items(tmp_path / "two") == ["a b", "c"]


def test_live_events_with_the_caller_s_own_impression_id_are_read_like_a_log(tmp_path: Path) -> None:
    live, own = live_of(tmp_path / "table"), {"impression_id": "posted-1", "position": 3}
    days = [number * DAY for number in (0, 1, 2)]
    for day in days:
        shown = [event(day + place, **own, item_id=item, label=0.0) for place, item in enumerate("ab")]
        seal(live / f"2024-01-{3 + day // DAY:02}.parquet", *shown, event(day + 60, **own, item_id="a"))
    report = ingest_table(tmp_path / "table", write_table(tmp_path / "log.csv"))
    assert report["dropped"] == {JOINED: 3}
    assert report["rows_read"] == report["rows_written"] + 3 == 60 + 9
    assert report["requests_named_apart"] == 2
    assert items(tmp_path) == ["a* b"] * 3
    late = [row for row in read(tmp_path / "table" / "interactions") if row["item_id"] == "a"]
    assert [row["known_at"] - row["occurred_at"] for row in late] == [timedelta(seconds=60)] * 3
