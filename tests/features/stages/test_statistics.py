"""Counts are cumulative per key, one row per time with an event, and buckets move events only into the future."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from contracts.errors import InputError
from contracts.schema import ITEM_COUNTERS, USER_COUNTERS, USER_ITEM_COUNTERS
from features.encoding.counters import Counters
from features.stages.statistics import run
from tests.features.small_log import START, START_US, random_log, row, statistics, write_log

SECOND = 1_000_000


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """The folder data/log; the cache is two folders above it."""
    return tmp_path / "data" / "log"


def lines(data: Path, name: str) -> list[tuple]:
    rows = pq.read_table(data / name).to_pylist()
    return [
        tuple((value - START).total_seconds() if key == "occurred_at" else value for key, value in each.items())
        for each in rows
    ]


def test_counts_at_a_time_include_this_time(tmp_path: Path) -> None:
    rows = [row("u", "a", 0, 0), row("u", "b", 0), row("v", "a", 5), row("u", "a", 5), row("u", "a", 9, 0)]
    report = run(write_log(tmp_path, rows), statistics())
    assert lines(tmp_path, "item_counters") == [("a", 0, 1, 0), ("a", 5, 3, 2), ("a", 9, 4, 2), ("b", 0, 1, 1)]
    assert lines(tmp_path, "user_counters") == [("u", 0, 2, 1), ("u", 5, 3, 2), ("u", 9, 4, 2), ("v", 5, 1, 1)]
    assert lines(tmp_path, "user_item_counters")[:3] == [("u", "a", 0, 1, 0), ("u", "a", 5, 2, 1), ("u", "a", 9, 3, 1)]
    assert report["num_interactions"] == 5
    assert report["num_item_counters"] == 4


def test_a_row_that_only_extends_a_history_counts_for_the_user_and_not_for_the_item(tmp_path: Path) -> None:
    rows = [row("u", "a", 0), row("u", "a", 5, role="history"), row("u", "b", 9, role="history")]
    run(write_log(tmp_path, rows), statistics())
    assert lines(tmp_path, "item_counters") == [("a", 0, 1, 1)]
    assert lines(tmp_path, "user_counters") == [("u", 0, 1, 1), ("u", 5, 2, 2), ("u", 9, 3, 3)]
    assert lines(tmp_path, "user_item_counters") == [("u", "a", 0, 1, 1), ("u", "a", 5, 2, 2), ("u", "b", 9, 1, 1)]


def test_buckets_are_stamped_at_their_end(tmp_path: Path) -> None:
    rows = [row("u", "a", at) for at in (0, 59.9, 60, 130)] + [row("v", "a", 0)]
    run(write_log(tmp_path, rows), statistics(bucket_s=60))
    assert lines(tmp_path, "user_counters") == [("u", 60, 2, 2), ("u", 120, 3, 3), ("u", 180, 4, 4), ("v", 60, 1, 1)]


@pytest.mark.parametrize("bucket_s", [0, 7, 60])
def test_an_as_of_read_of_the_table_never_includes_the_future(tmp_path: Path, bucket_s: int) -> None:
    rows = random_log(1)
    run(write_log(tmp_path, rows), statistics(bucket_s=bucket_s))
    items, users = (sorted({each[key] for each in rows}) for key in ("item_id", "user_id"))
    counters = Counters.from_folder(tmp_path, items, users)
    for seconds in range(0, 4000, 211):
        shows, clicks = counters.item_counters.read(np.arange(len(items)), START_US + seconds * SECOND)
        for key, item in enumerate(items):
            before = [
                each
                for each in rows
                if each["role"] == "impression"
                and each["item_id"] == item
                and (each["occurred_at"] - START).total_seconds() < seconds
            ]
            if bucket_s:
                assert shows[key] <= len(before)
            else:
                assert (shows[key], clicks[key]) == (len(before), sum(each["label"] for each in before))


def test_shuffled_rows_give_the_same_bytes(tmp_path: Path) -> None:
    rows = random_log(2)
    names = ("item_counters", "user_counters", "user_item_counters")
    made = []
    for folder, order in [("one", rows), ("other", rows[::-1])]:
        run(write_log(tmp_path / folder, order), statistics())
        made.append([(tmp_path / folder / name / "2024-01.parquet").read_bytes() for name in names])
    assert made[0] == made[1]


def test_files_are_exactly_what_the_contracts_say(tmp_path: Path) -> None:
    run(write_log(tmp_path, random_log(3)), statistics())
    for name, schema in [
        ("item_counters", ITEM_COUNTERS),
        ("user_counters", USER_COUNTERS),
        ("user_item_counters", USER_ITEM_COUNTERS),
    ]:
        assert pq.read_schema(tmp_path / name / "2024-01.parquet").equals(schema)


def test_an_empty_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no rows"):
        run(write_log(tmp_path, []), statistics())
