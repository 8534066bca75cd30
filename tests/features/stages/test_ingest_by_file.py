"""Files arrive late, change and disappear: ingest reads only what changed, and writes the same bytes as a rebuild."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from contracts.errors import InputError
from contracts.schema import INTERACTIONS, PROVENANCE
from features.sealed.forgotten import add_forgotten
from features.sources import delimited, pieces, rows, settled, written
from features.sources.gathered import requests_of
from features.sources.table import read_table
from features.stages.ingest import OUTS
from tests.features.planted import clean, write
from tests.features.raw_logs import COLUMNS, digest, ingest_table, read, source

MAPPED = COLUMNS | {"impression_id": "request", "title": "title"}
HEADER = "user,item,at,click,request,title"
DAYS = 4


def drawn(random: np.random.Generator, num: int) -> list[str]:
    """Rows of few users, items and requests: separate shows and clicks, reused impression_ids, repetitions, faults."""
    made = []
    for _ in range(num):
        user, item, name = random.integers(3), random.integers(3), random.integers(8)
        seconds = int(random.choice([0, 0, 5, 5_000, 90_000])) + int(random.integers(3))
        at = np.datetime64("2024-01-01T20:00:00") + int(random.integers(DAYS)) * 86_400 + seconds
        whole = ".0" if random.random() < 0.1 else ""
        title = random.choice(["", "one", "two"])
        made.append(f"{user}{whole},i{item},{at}Z,{random.integers(2)},{f'r{name}' if name < 7 else ''},{title}")
    return [*made, *made[: num // 8], "soon", "u1,i1,soon,1,,"]


def digests(data: Path) -> dict[str, str]:
    return {name: digest(data / name) for name in OUTS}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make blocks, shares of requests and partitions in memory so small that a log of a hundred rows has many."""
    monkeypatch.setattr(delimited, "BLOCK_BYTES", 1200)
    monkeypatch.setattr(rows, "BATCH_ROWS", 20)
    monkeypatch.setattr(pieces, "BLOCK_ROWS", 16)
    monkeypatch.setattr(settled, "SHARE_ROWS", 40)
    monkeypatch.setattr(written, "MOST_IN_MEMORY", 30)


@pytest.mark.usefixtures("small")
def test_the_same_places_in_another_block_of_a_file_are_other_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "BATCH_ROWS", 16)
    monkeypatch.setattr(written, "LEAST_KEPT", 1)
    folder = tmp_path / "log"
    folder.mkdir()
    clicks = [f"u{n},i{n},2024-01-02T00:01:{n:02}Z,1,r{n}," for n in range(32)]  # two blocks of 16
    table = pyarrow.csv.read_csv(pa.BufferReader("\n".join([HEADER, *clicks]).encode()))
    pq.write_table(table, folder / "clicks.parquet")
    for joined in (7, 23):  # the show of one click is of the evening before: it takes the click with it
        write(folder / "shows.csv", [f"u{joined},i{joined},2024-01-01T23:59:50Z,0,r{joined},"], HEADER)
        ingest_table(tmp_path / "data" / "table", folder, MAPPED)
        ingest_table(tmp_path / f"fresh-{joined}" / "data" / "table", folder, MAPPED)
        assert digests(tmp_path / "data" / "table") == digests(tmp_path / f"fresh-{joined}" / "data" / "table")


def test_of_a_forgotten_user_nothing_stays_in_the_cache_where_ids_have_decimals(tmp_path: Path) -> None:
    """A file is read with its ids as they stand first; the rows of that reading are not kept."""
    data, folder = tmp_path / "data" / "table", tmp_path / "log"
    folder.mkdir()
    lines = [f"{17850 + n % 4}.0,i{n % 7},2024-01-01T00:{n:02}:00Z,{n % 2}" for n in range(60)]
    write(folder / "a.csv", lines, "user,item,at,click")
    ingest_table(data, folder, COLUMNS)
    assert users_in(tmp_path / ".cache") == {"17850", "17851", "17852", "17853"}
    add_forgotten(tmp_path / "live" / "table", ["17851"])
    for _ in range(2):
        assert ingest_table(data, folder, COLUMNS)["dropped"] == {"user forgotten": 15}
        assert users_in(tmp_path / ".cache") == {"17850", "17852", "17853"}


def users_in(cache: Path) -> set[str]:
    users: set[str] = set()
    for path in cache.rglob("events.arrow"):
        with pa.OSFile(str(path)) as handle:
            users |= set(pa.ipc.open_file(handle).read_all()["user_id"].to_pylist())
    return users


def arrive(folder: Path, random: np.random.Generator) -> None:
    """Add, change or remove one file."""
    there = sorted(folder.glob("*"))
    if len(there) > 2 and random.random() < 0.3:
        there[random.integers(len(there))].unlink()
        return
    name = f"part{random.integers(4)}"
    path = write(folder / f"{name}.csv", drawn(random, int(random.integers(25, 45))), HEADER)
    (folder / f"{name}.parquet").unlink(missing_ok=True)
    if random.random() < 0.3:
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines[:-2], ""]))  # Parquet has no rows that are none
        pq.write_table(pyarrow.csv.read_csv(path), folder / f"{name}.parquet", row_group_size=13)
        path.unlink()


def slowly(path: Path, told: dict[str, Any]) -> pa.Table:
    """The whole log in memory, each row beside all others, in order."""
    params = source("table", path, MAPPED, **told)
    events, _, _ = requests_of(pieces.identified(read_table(params).events), params)
    return events.sort_by([(name, "ascending") for name in written.ORDER])


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 9))])
def test_any_arrival_gives_the_bytes_of_a_rebuild_and_the_rows_of_the_slow_definition(
    seed: int, tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    random, told = np.random.default_rng(seed), {"shown_s": 3600, "join_s": 80_000}
    here, folder = tmp_path / "here" / "data" / "table", tmp_path / "log"
    met = set[str]()
    for step in range(3):
        arrive(folder, random)
        report = ingest_table(here, folder, MAPPED, **told)
        met |= report["dropped"].keys() | {
            key for key in ("requests_named_apart", "ids_without_decimals") if report[key]
        }
        with monkeypatch.context() as whole:  # read at once, and made anew
            for room, name in ((delimited, "BLOCK_BYTES"), (rows, "BATCH_ROWS"), (written, "MOST_IN_MEMORY")):
                whole.setattr(room, name, 1 << 20)
            other = tmp_path / f"rebuilt{step}" / "data" / "table"
            assert ingest_table(other, folder, MAPPED, **told) == report
            events = slowly(folder, told)
        assert digests(here) == digests(other)
        assert read(here / "interactions") == events.select(INTERACTIONS.names).to_pylist()
        assert read(here / "provenance") == events.select(PROVENANCE.names).to_pylist()
    assert {"requests_named_apart", "joined to the row of its item in its request"} <= met
    assert seed or {"bad time", "ids_without_decimals"} <= met  # only CSV has them, and what comes is drawn


def entries(data: Path) -> dict[str, int]:
    kept = data.parent.parent / ".cache" / "ingest" / "table"
    return {path.name: path.stat().st_ino for path in kept.iterdir() if path.is_dir()}


def test_a_new_file_and_late_rows_change_only_their_partitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("features.sources.written.LEAST_KEPT", 0)
    data, folder = tmp_path / "data" / "table", tmp_path / "log"
    for day in (1, 4, 7):
        write(folder / f"{day}.csv", clean(90, day=day))
    ingest_table(data, folder)
    first = entries(data)
    assert len(first) == 3 + 9 + 2  # a piece a file, a file a day, what they are beside each other, and the counts
    write(folder / "late.csv", ["u1,i1,2024-01-02T23:00:00Z,1"])
    ingest_table(data, folder)
    second = entries(data)
    assert len(first.items() & second.items()) == 3 + 8
    assert len(second) == 4 + 9 + 2
    (folder / "late.csv").unlink()
    ingest_table(data, folder)
    assert entries(data).keys() == first.keys()


def test_partitions_with_joined_rows_are_not_sorted_again_without_new_rows(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of joined rows depends on threads: the key of a partition must not depend on it."""
    monkeypatch.setattr(written, "LEAST_KEPT", 0)
    monkeypatch.setattr(written, "MOST_IN_MEMORY", 1 << 20)
    data, told = tmp_path / "data" / "table", {"shown_s": 3600, "join_s": 80_000}
    path = write(tmp_path / "log" / "part.csv", drawn(np.random.default_rng(3), 400), HEADER)
    assert ingest_table(data, path.parent, MAPPED, **told)["dropped"]["joined to the row of its item in its request"]
    first = entries(data)
    rewritten = {path.parent for path in (tmp_path / ".cache" / "ingest" / "table").glob("*/digests.json")}
    assert len(rewritten) == 2  # of requests of the file alone, and of all that is settled
    for folder in rewritten:
        shutil.rmtree(folder)  # else nothing is joined again
    join = settled.join_repeats
    monkeypatch.setattr(settled, "join_repeats", lambda rows, join_s: _reversed(*join(rows, join_s)))
    ingest_table(data, path.parent, MAPPED, **told)
    second = entries(data)
    assert second.keys() == first.keys()
    assert {key for key in first if first[key] != second[key]} <= {folder.name for folder in rewritten}


@pytest.mark.parametrize("seed", range(3))
def test_where_nothing_came_nothing_is_joined_again_and_all_is_the_same(
    seed: int, tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, told = tmp_path / "data" / "table", {"shown_s": 3600, "join_s": 80_000}
    for part in range(3):
        write(tmp_path / "log" / f"{part}.csv", drawn(np.random.default_rng([seed, part]), 40), HEADER)
    report = ingest_table(data, tmp_path / "log", MAPPED, **told)
    assert report["requests_named_apart"] + sum(report["dropped"].values())
    first = digests(data)
    monkeypatch.setattr(settled, "_settle", None)
    assert ingest_table(data, tmp_path / "log", MAPPED, **told) == report
    assert digests(data) == first


def _reversed(joined: pa.Table, second: pa.Table) -> tuple[pa.Table, pa.Table]:
    return joined.take(pa.array(range(len(joined) - 1, -1, -1), pa.int64())), second


def test_a_file_that_is_replaced_while_it_is_read_is_refused_and_not_cached(tmp_path: Path) -> None:
    data, path = tmp_path / "data" / "table", write(tmp_path / "log.csv", clean())
    ingest_table(data, path)
    good, kept = digests(data), entries(data)
    write(path, clean(60))
    log = logging.getLogger("leitmotif")

    class Replace(logging.Handler):
        """The log's exporter keeps writing while ingest reads the last part."""

        def emit(self, record: logging.LogRecord) -> None:
            if "rows of log.csv" in record.getMessage():
                write(path, clean(90))

    handler, level = Replace(), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with pytest.raises(
            InputError, match=r"log\.csv changed while it was being read\. Nothing was written; run it again"
        ):
            ingest_table(data, path)
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
    assert (digests(data), entries(data)) == (good, kept)
    assert ingest_table(data, path)["rows_written"] == 90


def test_forgotten_users_leave_no_text_in_the_cache(tmp_path: Path) -> None:
    data = tmp_path / "data" / "table"
    path = write(tmp_path / "log.csv", [*clean(), "somebody-new,i1,2024-01-01T00:00:00Z,1", "somebody-new,i1,soon,1"])
    ingest_table(data, path)

    def holds() -> list[Any]:
        files: Sequence[Path] = [each for each in (tmp_path / ".cache").rglob("*") if each.suffix == ".parquet"]
        return [each for each in files if b"somebody-new" in str(pq.read_table(each).to_pydict()).encode()]

    assert holds()
    add_forgotten(tmp_path / "live" / "table", ["somebody-new"])
    assert ingest_table(data, path)["dropped"] == {"bad time": 1, "user forgotten": 1}
    assert not holds()
