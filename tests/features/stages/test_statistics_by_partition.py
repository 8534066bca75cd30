"""Counters are written by partition, and each is counted once; the state of the cache changes no byte of the outs."""

import shutil
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.errors import InputError
from contracts.schema import INTERACTIONS
from features.stages import statistics as stage
from features.stages.statistics import TABLES, run
from tests.features.small_log import START, START_US, Row, row, statistics, write_log

SECOND = 1_000_000
DAY_S = 86_400
DAYS = ("2024-01-01", "2024-01-02", "2024-01-03", "2024-01-06", "2024-01-07")  # two days without an event


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data" / "log"


def random_days(seed: int, names: Sequence[str] = DAYS, num: int = 40) -> dict[str, list[Row]]:
    """Events of each partition: the first and last microsecond, and times that are often equal."""
    random = np.random.default_rng(seed)
    made: dict[str, list[Row]] = {}
    for name in names:
        start, end = (np.datetime64(name) + step for step in (0, 1))
        length = (end.astype("datetime64[us]") - start.astype("datetime64[us]")).astype(int) / SECOND
        offset = (start.astype("datetime64[us]").astype(int) - START_US) / SECOND
        at = [0, length - 1 / SECOND, *(random.integers(0, 60, num - 2) * length // 60)]
        made[name] = [
            row(
                f"u{random.integers(3)}",
                f"i{random.integers(4)}",
                offset + each,
                float(random.random() < 0.4),
                role="impression" if random.random() < 0.8 else "history",
            )
            for each in at
        ]
    return made


def arrive(data: Path, name: str, rows: Sequence[Row]) -> None:
    """Write one partition as validate does."""
    ordered = sorted(rows, key=lambda each: each["occurred_at"])
    named = [{**each, "event_id": f"{name}/{number}"} for number, each in enumerate(ordered)]
    folder = data / "validated_interactions"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(named, INTERACTIONS), folder / f"{name}.parquet")


def outs(data: Path) -> dict[str, bytes]:
    return {f"{name}/{path.name}": path.read_bytes() for name in TABLES for path in (data / name).iterdir()}


def entries(data: Path) -> dict[str, int]:
    """The cache's entries: key -> inode of the folder, which changes if an entry is rebuilt."""
    folder = data.parent.parent / ".cache" / "statistics" / data.name
    return {path.name: path.stat().st_ino for path in folder.iterdir() if path.is_dir()}


def rebuilt(data: Path, tmp_path: Path, bucket_s: float) -> dict[str, bytes]:
    """The outs for the same log with an empty cache."""
    other = tmp_path / "elsewhere" / "data" / "log"
    shutil.rmtree(tmp_path / "elsewhere", ignore_errors=True)
    shutil.copytree(data / "validated_interactions", other / "validated_interactions")
    run(other, statistics(bucket_s=bucket_s))
    return outs(other)


def counted_slowly(rows: Sequence[Row], keys: list[str], bucket_s: float) -> list[tuple]:
    """(keys, microseconds, shows, clicks) at every time with an event, by a loop over the events."""
    shown: dict[tuple, Counter[int]] = {}
    clicked: dict[tuple, Counter[int]] = {}
    for each in rows:
        if keys == ["item_id"] and each["role"] != "impression":
            continue
        at = START_US + (each["occurred_at"] - START) // timedelta(microseconds=1)
        if bucket_s:
            width = round(bucket_s * SECOND)
            at = (at // width + 1) * width
        key = tuple(each[name] for name in keys)
        shown.setdefault(key, Counter())[at] += 1
        clicked.setdefault(key, Counter())[at] += int(each["label"])
    return sorted(
        (*key, at, sum(num for when, num in times.items() if when <= at),
         sum(num for when, num in clicked[key].items() if when <= at))
        for key, times in shown.items() for at in times
    )  # fmt: skip


def published(data: Path, name: str) -> list[tuple]:
    """All rows of a table, with checks of each file's order and of its times."""
    found: list[tuple] = []
    for path in sorted((data / name).iterdir()):
        table = pq.read_table(path)
        at = table["occurred_at"].cast(pa.int64())
        rows = list(zip(*(table.set_column(len(TABLES[name]), "at", at)).to_pydict().values(), strict=True))
        assert rows == sorted(rows), path
        span = [int((np.datetime64(path.stem) + step).astype("datetime64[us]").astype(int)) for step in (0, 1)]
        assert all(span[0] <= us < span[1] for us in at.to_pylist()), path
        found += rows
    return found


BUCKETS = [0, 7, 3600, 1.5 * DAY_S, 20 * DAY_S]


@pytest.mark.parametrize("bucket_s", [0, 7, 1.5 * DAY_S])
def test_any_order_of_arrival_gives_the_bytes_of_a_rebuild(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket_s: float
) -> None:
    log = random_days(int(bucket_s))
    for number in np.random.default_rng(int(bucket_s)).permutation(len(DAYS)):
        arrive(data, DAYS[number], log[DAYS[number]])
        with monkeypatch.context() as patch:
            patch.setattr(stage, "ROWS_AT_ONCE", 100)
            run(data, statistics(bucket_s=bucket_s))
        assert outs(data) == rebuilt(data, tmp_path, bucket_s), DAYS[number]


@pytest.mark.parametrize("names", [DAYS, ("2023-12", "2024-01", "2024-02", "2024-03"), ("2023", "2024")], ids=len)
@pytest.mark.parametrize("bucket_s", [*BUCKETS, 30 * DAY_S])
def test_partitions_together_have_each_key_and_time_once_with_the_counts_until_then(
    data: Path, bucket_s: float, names: Sequence[str]
) -> None:
    log = random_days(1, names)
    for name, rows in log.items():
        arrive(data, name, rows)
    report = run(data, statistics(bucket_s=bucket_s))
    for name, keys in TABLES.items():
        expected = counted_slowly([each for rows in log.values() for each in rows], keys, bucket_s)
        assert sorted(published(data, name)) == expected
        assert report[f"num_{name}"] == len(expected)
        if not bucket_s:
            assert [path.stem for path in sorted((data / name).iterdir())] == sorted(names)


def test_only_a_new_day_is_counted_and_after_a_late_day_also_all_later_ones(data: Path) -> None:
    log = random_days(2)
    for name in (DAYS[0], DAYS[2], DAYS[3]):
        arrive(data, name, log[name])
    run(data, statistics())
    first = entries(data)
    arrive(data, DAYS[4], log[DAYS[4]])
    run(data, statistics())
    second = entries(data)
    assert len(second) == 4
    assert first.items() <= second.items()
    arrive(data, DAYS[1], log[DAYS[1]])
    run(data, statistics())
    third = entries(data)
    assert len(third) == 5  # what belongs to no day any more is gone
    assert len(third.items() & second.items()) == 1
    run(data, statistics())
    assert entries(data) == third


def test_a_changed_or_removed_day_is_counted_as_it_is_now(data: Path, tmp_path: Path) -> None:
    log = random_days(3)
    for name in DAYS:
        arrive(data, name, log[name])
    run(data, statistics())
    arrive(data, DAYS[1], log[DAYS[1]][:10])
    (data / "validated_interactions" / f"{DAYS[3]}.parquet").unlink()
    run(data, statistics())
    assert outs(data) == rebuilt(data, tmp_path, 0)
    assert not (data / "item_counters" / f"{DAYS[3]}.parquet").exists()


def test_another_bucket_does_not_use_the_cache(data: Path, tmp_path: Path) -> None:
    for name, rows in random_days(4).items():
        arrive(data, name, rows)
    for bucket_s in (0, 60):
        run(data, statistics(bucket_s=bucket_s))
        assert outs(data) == rebuilt(data, tmp_path, bucket_s)


def test_writing_into_a_published_file_does_not_change_the_cache(data: Path) -> None:
    for name, rows in random_days(5).items():
        arrive(data, name, rows)
    run(data, statistics())
    made = outs(data)
    for key in made:
        path = data / key
        assert path.stat().st_nlink == 1
        with path.open("r+b") as handle:
            handle.write(b"overwritten")
    run(data, statistics())
    assert outs(data) == made


@pytest.mark.parametrize("damaged", ["user_counters.parquet", "entry.json"])
@pytest.mark.parametrize("harm", ["cut short", "changed", "missing"])
def test_a_damaged_cache_entry_is_rebuilt(data: Path, harm: str, damaged: str) -> None:
    for name, rows in random_days(6).items():
        arrive(data, name, rows)
    run(data, statistics())
    made = outs(data)
    folder = data.parent.parent / ".cache" / "statistics" / data.name
    for path in folder.glob(f"*/{damaged}"):
        held = bytearray(path.read_bytes())
        held[len(held) // 2] ^= 1
        path.unlink()
        if harm != "missing":
            path.write_bytes(held if harm == "changed" else held[: len(held) // 2])
    run(data, statistics())
    assert outs(data) == made


def test_a_refused_run_leaves_the_last_good_outs_and_the_cache(data: Path) -> None:
    for name, rows in random_days(7).items():
        arrive(data, name, rows)
    run(data, statistics())
    made, kept = outs(data), entries(data)
    arrive(data, "2024-01-08", [row("u", "i", 0)])
    with pytest.raises(InputError, match=r"2024-01-08\.parquet holds events from 2024-01-01T00:00:00"):
        run(data, statistics())
    assert (outs(data), entries(data)) == (made, kept)


@pytest.mark.parametrize(
    ("name", "message"), [("all", "names no day, month or year"), ("2024", "is partitioned by day and year")]
)
def test_files_that_are_not_named_after_one_kind_of_time_are_refused(data: Path, name: str, message: str) -> None:
    arrive(data, DAYS[0], [row("u", "i", 0)])
    arrive(data, name, [row("u", "i", 0)])
    with pytest.raises(InputError, match=message):
        run(data, statistics())


def test_a_day_of_histories_only_has_a_file_of_items_without_rows(data: Path) -> None:
    arrive(data, DAYS[0], [row("u", "i", 0, role="history")])
    arrive(data, DAYS[1], [row("u", "i", DAY_S)])
    run(data, statistics())
    assert pq.read_metadata(data / "item_counters" / f"{DAYS[0]}.parquet").num_rows == 0
    assert published(data, "item_counters") == [("i", START_US + DAY_S * SECOND, 1, 1)]


def test_rows_in_another_order_within_a_file_give_the_same_bytes(data: Path, tmp_path: Path) -> None:
    rows = [row("u", f"i{number % 3}", number // 2) for number in range(30)]
    made = []
    for name, ordered in (("one", rows), ("other", rows[::-1])):
        run(write_log(tmp_path / name / "data" / "log", ordered), statistics())
        made.append(outs(tmp_path / name / "data" / "log"))
    assert made[0] == made[1]
