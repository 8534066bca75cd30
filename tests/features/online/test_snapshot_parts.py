"""A snapshot by units of any size has the bytes of one writer over all users' tables, and no unit holds all of them."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.errors import InputError
from contracts.schema import USER_HISTORY_SNAPSHOT, counters
from features.encoding.as_of import AsOfCounter
from features.encoding.counters import Counters
from features.engine.engine import InProcess
from features.online import counter_pieces, counters_by_user, snapshot_parts, user_history, user_state
from features.online.counter_pieces import split_by_user
from features.online.snapshot import write_snapshot
from features.online.user_history import user_history_rows
from features.online.user_state import USER_STATE, user_state_before, user_state_rows
from features.tables import event_counts
from features.tables.event_counts import USER_EVENTS, write_event_counts
from features.tables.histories import ARRAYS, HistoryWriter, UserHistories, write_part
from tests.features.small_log import START_US, build, random_log, row, settings

NAMES = ("user_history.parquet", "user_state.parquet", USER_EVENTS)
TABLES = ("item_counters", "user_counters", "user_item_counters")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups of three users, or 40 events; units of about 60 rows; pieces and reads of about 50."""
    for module in (counter_pieces, counters_by_user, snapshot_parts, user_state, user_history):
        monkeypatch.setattr(module, "USERS_AT_ONCE", 3)
    monkeypatch.setattr(user_history, "EVENTS_AT_ONCE", 40)
    monkeypatch.setattr(event_counts, "EVENTS_AT_ONCE", 30)
    for module in (counters_by_user, snapshot_parts):
        monkeypatch.setattr(module, "USERS_OF_UNIT", 6)
    monkeypatch.setattr(counters_by_user, "ROWS_AT_ONCE", 50)
    monkeypatch.setattr(counter_pieces, "ROWS_OF_PIECE", 50)
    monkeypatch.setattr(snapshot_parts, "ROWS_OF_UNIT", 60)


def expected(data: Path, max_length: int, folder: Path) -> dict[str, bytes]:
    """The files as one writer makes them, with the counters of all users in memory."""
    histories = UserHistories.open(data / "user_histories")
    items, users = histories.vocabulary["item_id"], histories.user_ids
    rows = {
        "user_history.parquet": (USER_HISTORY_SNAPSHOT, user_history_rows(histories, max_length)),
        "user_state.parquet": (
            USER_STATE,
            user_state_rows(Counters.from_folder(data, items, users), items.to_pylist(), users),
        ),
    }
    folder.mkdir()
    for name, (schema, tables) in rows.items():
        with pq.ParquetWriter(folder / name, schema, compression="zstd") as writer:
            for table in tables:
                writer.write_table(table)
    write_event_counts(histories, folder / USER_EVENTS)
    return {name: (folder / name).read_bytes() for name in NAMES}


def made(data: Path, max_length: int, folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    histories = UserHistories.open(data / "user_histories")
    write_snapshot(data, histories, max_length, settings(), folder)
    left = {*NAMES, "item_profile.parquet", "snapshot.json"}
    assert {path.name for path in folder.iterdir()} == left
    return {name: (folder / name).read_bytes() for name in NAMES}


def by_day(data: Path) -> None:
    """The tables of counters with a file for every tenth of their times, as a log of days has them."""
    for name in TABLES:
        whole = data / name / "2024-01.parquet"
        table = pq.read_table(whole)
        whole.unlink()
        at = table["occurred_at"].cast(pa.int64()).to_numpy()
        edges = np.linspace(START_US, at.max() + 1, 11).astype(np.int64)
        for day, (start, end) in enumerate(pairwise(edges)):
            pq.write_table(
                table.filter(pa.array((at >= start) & (at < end))), data / name / f"2024-01-{day:02}.parquet"
            )


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("max_length", [4, 1000])
def test_units_of_a_few_users_give_the_bytes_of_one_writer(tmp_path: Path, max_length: int) -> None:
    data = tmp_path / "data" / "table"
    build(data, [*random_log(4, num_users=23, num_requests=180), row("u50", "i01", 9, 0), row("a", "i01", 9)])
    by_day(data)
    units = snapshot_parts._units(UserHistories.open(data / "user_histories"), np.full(9, 20))
    assert all(sum(unit.file == name for unit in units) > 2 for name in NAMES)
    assert made(data, max_length, tmp_path / "made") == expected(data, max_length, tmp_path / "expected")


@pytest.mark.usefixtures("few")
def test_a_user_with_more_events_than_a_unit_holds_is_a_unit_alone(tmp_path: Path) -> None:
    data = tmp_path / "data" / "table"
    rows = [row(f"u{number}", f"i{number:02}", number) for number in range(8)]
    build(data, [*rows, *(row("u4", f"i{number % 12:02}", number) for number in range(300))])
    histories = UserHistories.open(data / "user_histories")
    lengths = np.diff(histories.offsets)
    assert lengths.max() > 60
    units = snapshot_parts._units(histories, np.zeros(3, np.int64))
    assert [unit[1:] for unit in units if unit.file == USER_EVENTS] == [(0, 4), (4, 5), (5, 8)]
    assert made(data, 1000, tmp_path / "made") == expected(data, 1000, tmp_path / "expected")


@pytest.mark.usefixtures("few")
def test_a_unit_holds_no_more_rows_of_counters_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for a user who has more alone: 40 shows of as many pairs."""
    data = tmp_path / "data" / "table"
    build(data, [*random_log(5, num_users=30, num_requests=100), *(row("u7", f"j{n:02}", 5 * n) for n in range(40))])
    by_day(data)
    held: list[int] = []
    whole = AsOfCounter.from_rows
    monkeypatch.setattr(AsOfCounter, "from_rows", lambda *columns: held.append(len(columns[0])) or whole(*columns))
    made(data, 1000, tmp_path / "made")
    rows = {name: sum(pq.read_metadata(path).num_rows for path in (data / name).iterdir()) for name in TABLES}
    assert sum(held) == rows["user_counters"] + rows["user_item_counters"]
    together = [own + pairs for own, pairs in zip(held[::2], held[1::2], strict=True)]
    assert sum(each > 50 for each in together) == 1
    assert len(together) > 8


@pytest.mark.usefixtures("few")
def test_pieces_hold_neighbouring_partitions_and_the_ids_are_mapped(tmp_path: Path) -> None:
    data = tmp_path / "data" / "table"
    histories = build(data, random_log(6, num_users=9, num_requests=80))
    by_day(data)
    split = split_by_user(InProcess(), data, histories, tmp_path / "pieces")
    assert len(split.pieces) > 6
    assert split.pieces == tuple(sorted(split.pieces, key=lambda name: (name.startswith("user_item"), name)))
    num = sum(pq.read_metadata(path).num_rows for name in TABLES[1:] for path in (data / name).iterdir())
    assert split.num_rows.sum() == num
    assert split.user_ids().to_pylist() == histories.user_ids.to_pylist()
    assert split.item_ids().to_pylist() == histories.vocabulary["item_id"].to_pylist()


@pytest.mark.usefixtures("few")
def test_states_as_of_a_time_are_those_of_the_tables_before_it(tmp_path: Path) -> None:
    data = tmp_path / "data" / "table"
    histories = build(data, random_log(7, num_users=11, num_requests=120))
    by_day(data)
    split = split_by_user(InProcess(), data, histories, tmp_path / "pieces")
    items, users = histories.vocabulary["item_id"], histories.user_ids
    for at in (START_US, START_US + 2_000_000_000, START_US + 10**10):
        known = Counters.from_folder(data, items, users).before(at)
        wanted = list(user_state_rows(known, items.to_pylist(), users))
        assert list(user_state_before(split, at, 0)) == wanted


def test_a_log_without_users_is_files_without_rows(tmp_path: Path) -> None:
    data = tmp_path / "data" / "table"
    histories = data / "user_histories"
    build(data, random_log(1))
    (tmp_path / "part").mkdir()
    write_part(tmp_path / "part", np.zeros(0, np.int64), {name: np.zeros(0) for name in ARRAYS})
    writer = HistoryWriter(histories)
    writer.append(tmp_path / "part")
    writer.close(json.loads((histories / "retention.json").read_text()))
    pq.write_table(pq.read_table(histories / "users.parquet").slice(0, 0), histories / "users.parquet")
    for name, keys in (("user_counters", ["user_id"]), ("user_item_counters", ["user_id", "item_id"])):
        pq.write_table(counters(*keys).empty_table(), data / name / "2024-01.parquet")
    assert made(data, 50, tmp_path / "made") == expected(data, 50, tmp_path / "expected")
    assert pq.read_metadata(tmp_path / "made" / "user_state.parquet").num_rows == 0


@pytest.mark.parametrize(("name", "column", "said"), [(TABLES[1], 0, "user 'zz'"), (TABLES[2], 1, "item 'zz'")])
def test_counters_of_another_log_are_refused(tmp_path: Path, name: str, column: int, said: str) -> None:
    data = tmp_path / "data" / "table"
    build(data, random_log(1))
    path = data / name / "2024-01.parquet"
    table = pq.read_table(path)
    strays = pa.array([*table.columns[column].to_pylist()[:-1], "zz"])
    pq.write_table(table.set_column(column, table.schema.field(column), strays), path)
    (tmp_path / "made").mkdir()
    with pytest.raises(InputError, match=f"The counters name {said}"):
        write_snapshot(data, UserHistories.open(data / "user_histories"), 9, settings(), tmp_path / "made")


def test_a_second_attempt_at_a_piece_and_at_a_part_changes_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data" / "table"
    histories = build(data, random_log(2))

    class Twice(InProcess):
        """Spark may run a task twice."""

        def map(self, function: Any, units: Any, doing: str) -> Iterator[Any]:
            for unit in units:
                function(unit)
                yield function(unit)

    ids = []
    for name, engine in (("once", InProcess()), ("twice", Twice())):
        (tmp_path / name).mkdir()
        ids.append(write_snapshot(data, histories, 50, settings(), tmp_path / name, engine)["snapshot_id"])
    assert ids[0] == ids[1]
