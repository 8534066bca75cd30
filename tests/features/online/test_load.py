"""A load over what was loaded before gives what a load from nothing gives; and nothing but a whole one is ever seen."""

import fcntl
import hashlib
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from contracts.errors import InputError
from contracts.schema import USER_HISTORY_SNAPSHOT
from features.encoding.as_of import AsOfCounter
from features.encoding.counters import NAMES
from features.encoding.user_counts import NO_COUNTS
from features.feast_store import online_rows
from features.live.places import LAYOUT, read_stamp, state_of
from features.online.changes import ViewRows
from features.online.fill import VIEWS
from features.online.load import load, lock_of
from features.online.snapshot import COUNTERS, ITEM_PROFILE, write_snapshot
from features.online.store import OnlineStore
from features.online.user_state import USER_STATE
from features.stages.histories import run as run_histories
from features.stages.statistics import run as run_statistics
from features.tables.histories import UserHistories
from tests.clones import ROOT
from tests.features.loaders import loading
from tests.features.redis_server import RedisServer
from tests.features.small_log import (
    START,
    START_US,
    build,
    history,
    random_log,
    request,
    row,
    settings,
    statistics,
    write_log,
)
from tests.locks import modes_of_locks

pytestmark = pytest.mark.xdist_group("feast")


class Source:
    """data/<source> with a log that can grow, and its snapshot."""

    def __init__(self, root: Path, rows: list[dict[str, Any]], name: str = "table") -> None:
        self.data, self.rows = root / "data" / name, rows
        self.state = state_of(self.data)
        build(self.data, rows)
        self.snapshot = self.data / "feature_snapshot"
        self.number = 0

    def write(self, random: np.random.Generator, users: Sequence[str], items: Sequence[str]) -> None:
        """A snapshot of random rows, in row groups of random size; the counters are the log's."""
        self.snapshot.mkdir(exist_ok=True)
        for schema, name, ids in (
            (USER_HISTORY_SNAPSHOT, "user_history", users),
            (USER_STATE, "user_state", users),
            (ITEM_PROFILE, "item_profile", items),
        ):
            table = random_rows(schema, VIEWS[name], ids, random)
            pq.write_table(table, self.snapshot / f"{name}.parquet", row_group_size=int(random.integers(1, 6)))
        self.publish()

    def take_up(self, rows: list[dict[str, Any]]) -> None:
        """Histories, counters and the snapshot of a log, in monthly partitions."""
        write_log(self.data, rows)
        for name in ("interactions", "validated_interactions"):
            (path,) = (self.data / name).glob("2024-01.parquet")
            table = pq.read_table(path)
            month = pc.call_function("month", [table["occurred_at"]])
            for number in pc.call_function("unique", [month]).to_pylist():
                kept = table.filter(pc.call_function("equal", [month, pa.scalar(number)]))
                pq.write_table(kept, path.with_name(f"2024-{number:02}.parquet"))
        run_histories(self.data, request(), history())
        run_statistics(self.data, statistics())
        stored = UserHistories.open(self.data / "user_histories")
        self.snapshot.mkdir(exist_ok=True)
        self.number += 1
        write_snapshot(self.data, stored, 9 + self.number, settings(), self.snapshot)

    def change(self, name: str, rows: dict[str, dict[str, Any]]) -> None:
        """Give some rows other features."""
        path = self.snapshot / f"{name}.parquet"
        table = pq.read_table(path)
        changed = [each | rows.get(each[VIEWS[name]], {}) for each in table.to_pylist()]
        pq.write_table(pa.Table.from_pylist(changed, table.schema), path)
        self.publish()

    def publish(self) -> None:
        """Another snapshot_id."""
        self.number += 1
        stamp = {"snapshot_id": f"number {self.number}", "log_end_us": START_US, "settings": settings()}
        stamp |= {"absorbed_seq": {}, "layout": LAYOUT}
        paths = [self.snapshot / f"{name}.parquet" for name in VIEWS]
        files = {path.name: path for path in paths if path.exists()}
        files |= {f"{name}/{path.name}": path for name in COUNTERS for path in (self.data / name).glob("*.parquet")}
        stamp["files"] = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
        (self.snapshot / "snapshot.json").write_text(json.dumps(stamp | {"number": self.number}))


def random_rows(schema: pa.Schema, key: str, ids: Sequence[str], random: np.random.Generator) -> pa.Table:
    """Rows of few different values, so that some stay as they were by chance; nulls where the schema has them."""

    def value(kind: pa.DataType) -> Any:
        if pa.types.is_list(kind):
            return [value(kind.value_type) for _ in range(random.integers(0, 4))]
        number = int(random.integers(0, 3))
        known = {"string": ["", "é🎬", "a"], "float": [0.0, 0.5, 1.0], "binary": [NO_COUNTS.encode(), b"\0\xff", b""]}
        return known[str(kind)][number] if str(kind) in known else number

    def cell(field: pa.Field) -> Any:
        if field.name == "event_timestamp":
            return START.replace(second=int(random.integers(0, 2)))
        return None if field.nullable and random.random() < 0.3 else value(field.type)

    columns = [field for field in schema if field.name != key]
    rows = [{key: name} | {field.name: cell(field) for field in columns} for name in ids]
    return pa.Table.from_pylist(rows, schema)


def content(state: Path) -> dict[str, Any]:
    """Every row of every table that Feast has online, and every count by id."""
    with closing(sqlite3.connect(state / "online.db")) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        held: dict[str, Any] = {name: sorted(database.execute(f'SELECT * FROM "{name}"')) for name in sorted(tables)}
    store = OnlineStore.open(state)
    held["items"] = counts(store)
    return held


def counts(store: OnlineStore) -> list[tuple[Any, ...]]:
    """(item, time, shows, clicks) of every row of item_counters."""
    items, counter = list(store.live.items.known), store.live.logged.item_counters
    assert isinstance(counter, AsOfCounter)
    key, moment = np.divmod(counter.packed, len(counter.times) + 1)
    ids = [items[position] for position in counter.keys[key]]
    return sorted(
        zip(ids, counter.times[moment].tolist(), counter.shows.tolist(), counter.clicks.tolist(), strict=True)
    )


def assert_as_from_nothing(source: Source) -> None:
    anew = source.state.parent.parent / "anew" / "feast"
    shutil.rmtree(anew.parent, ignore_errors=True)
    assert load(source.data, anew)
    assert content(source.state) == content(anew)


@pytest.mark.parametrize("seed", range(2))
def test_successive_random_snapshots_end_where_a_load_from_nothing_does(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    source = Source(tmp_path, random_log(seed, num_requests=20))
    items = [f"i{number:02}" for number in range(12)]
    for _ in range(4):
        users = [f"u{number}" for number in np.flatnonzero(random.random(9) < 0.7)]
        source.write(random, users, [*items, *(f"x{number}" for number in np.flatnonzero(random.random(4) < 0.5))])
        assert load(source.data, source.state)
        assert not load(source.data, source.state)
        assert_as_from_nothing(source)


def test_only_rows_that_changed_are_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    random = np.random.default_rng(0)
    source = Source(tmp_path, random_log(0, num_requests=20))
    source.write(random, [f"u{number}" for number in range(7)], [f"i{number:02}" for number in range(12)])
    caplog.set_level("INFO", "leitmotif")
    load(source.data, source.state)
    assert "user_history 7 of 7 rows written, 0 removed" in caplog.text
    caplog.clear()
    source.change("user_history", {"u3": {"item_ids": ["another"]}})
    load(source.data, source.state)
    assert "user_history 1 of 7 rows written, 0 removed" in caplog.text
    assert "item_profile 0 of 12 rows written, 0 removed" in caplog.text
    assert_as_from_nothing(source)


MONTH_S = 31 * 86_400


def test_new_partitions_give_the_same_counters_as_a_full_count(tmp_path: Path) -> None:
    """New partitions with new users and items, some between known ones; then a row of the first, long past."""
    rows = random_log(7, num_requests=300)
    source = Source(tmp_path, rows)
    linked = []
    for more in (
        [],
        [row("u0", "i01", MONTH_S), row("u1", "i02", MONTH_S + 1, 0)],
        [row("a new user", "i00 and a half", MONTH_S + 40 * 86_400), row("u0", "i03", MONTH_S + 40 * 86_400)],
        [],
        [row("u1", "i02", 1)],
    ):
        rows += more
        source.take_up(rows)
        before = source.state.resolve() / "item_counters.packed.npy"
        inode = before.stat().st_ino if before.exists() else None
        assert load(source.data, source.state)
        linked.append((source.state / "item_counters.packed.npy").stat().st_ino == inode)
        assert_as_from_nothing(source)
    assert linked == [False, False, False, True, False]


def test_the_next_load_has_no_rows_of_a_forgotten_user(tmp_path: Path) -> None:
    rows = random_log(7, num_requests=300)
    source = Source(tmp_path, rows)
    later = [row("u0", "i01", MONTH_S, role="history")]
    for more, known in (
        ([], False),
        ([*later, row("mallory", "i02", MONTH_S + 1, role="history")], True),
        (later, False),
    ):
        source.take_up(rows + more)
        assert load(source.data, source.state)
        assert ("mallory" in OnlineStore.open(source.state).user_ids("")) == known
        assert (b"mallory" in (source.state / "online.db").read_bytes()) == known
        assert_as_from_nothing(source)


def test_coclicks_that_are_switched_on_are_loaded(tmp_path: Path) -> None:
    source = Source(tmp_path, rows := random_log(7, num_requests=300))
    source.take_up(rows)
    load(source.data, source.state)
    assert OnlineStore.open(source.state).counters.coclicks is None
    counted = statistics(coclick_rank=4)
    run_statistics(source.data, counted)
    told = settings() | {"statistics": counted.model_dump(mode="json")}
    write_snapshot(source.data, UserHistories.open(source.data / "user_histories"), 10, told, source.snapshot)
    assert load(source.data, source.state)
    assert OnlineStore.open(source.state).counters.coclicks is not None
    assert_as_from_nothing(source)


def test_engines_take_turns_over_one_snapshot(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(tmp_path, rows := random_log(7, num_requests=300))
    for more in ([], [row("u1", "i03", 5000, role="history")]):
        source.take_up(rows + more)
        for engine in ("sqlite", f"127.0.0.1:{redis_server.port},db=11") * 2:
            monkeypatch.setenv("LEITMOTIF_ONLINE", engine)
            assert load(source.data, source.state)
            assert not load(source.data, source.state)
            store = OnlineStore.open(source.state)
            history = store.history("u1")
            assert history is not None
            assert (5000 + START_US // 1_000_000) * 1_000_000 in history.occurred_at.tolist() or not more


def test_a_store_of_another_engine_than_was_loaded_does_not_open_empty(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(tmp_path, rows := random_log(7, num_requests=300))
    source.take_up(rows)
    monkeypatch.setenv("LEITMOTIF_ONLINE", f"127.0.0.1:{redis_server.port},db=13")
    load(source.data, source.state)
    monkeypatch.setenv("LEITMOTIF_ONLINE", "sqlite")
    with pytest.raises(InputError, match=r"loaded into redis, but ONLINE .* is sqlite"):
        OnlineStore.open(source.state)


def test_a_full_load_into_redis_removes_no_row_while_others_read(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(tmp_path, rows := random_log(7, num_requests=300))
    monkeypatch.setenv("LEITMOTIF_ONLINE", f"127.0.0.1:{redis_server.port},db=12")
    source.take_up([*rows, row("leaves", "i03", 6000, role="history")])
    load(source.data, source.state)
    serving, seen, write = OnlineStore.open(source.state), [], online_rows.overwrite

    def look_and_write(*arguments: Any) -> None:
        seen.append(serving.history("u1"))
        write(*arguments)

    shutil.rmtree(source.state.parent)
    source.take_up(rows)
    monkeypatch.setattr(online_rows, "overwrite", look_and_write)
    load(source.data, source.state)
    assert None not in seen
    assert (serving.history("leaves"), serving.history("u1") is None) == (None, False)


def test_other_lags_of_counters_reach_feast_and_rows_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = Source(tmp_path, random_log(1, num_requests=20))
    source.write(np.random.default_rng(1), ["u0", "u1"], [f"i{number:02}" for number in range(12)])
    load(source.data, source.state)
    stamp = json.loads((source.snapshot / "snapshot.json").read_text())
    stamp["settings"]["statistics"]["user_lag_s"] = 77
    (source.snapshot / "snapshot.json").write_text(json.dumps(stamp | {"snapshot_id": "other lags"}))
    caplog.set_level("INFO", "leitmotif")
    assert load(source.data, source.state)
    assert "user_history 0 of 2 rows written, 0 removed" in caplog.text
    feast = OnlineStore.open(source.state).feast
    assert feast.get_feature_view("user_counters").tags["shows_lag_s"] == "77.0"
    assert_as_from_nothing(source)


def test_after_damage_everything_is_written_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = Source(tmp_path, random_log(2, num_requests=20))
    source.write(np.random.default_rng(2), ["u0", "u1", "u2"], [f"i{number:02}" for number in range(12)])
    load(source.data, source.state)
    with closing(sqlite3.connect(source.state / "online.db")) as database, database:
        database.execute("UPDATE leitmotif_user_history SET value = x'00'")
    source.change("user_history", {"u1": {"item_ids": ["another"]}})
    caplog.set_level("INFO", "leitmotif")
    assert load(source.data, source.state)
    assert "user_history 3 of 3 rows written" in caplog.text
    assert_as_from_nothing(source)


SPOILT: dict[str, Callable[[Path], object]] = {
    "emptied": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "gone": lambda path: path.unlink(),
    "a list": lambda path: path.write_bytes(b"[]"),
}


def assert_not_loaded(source: Source) -> None:
    with pytest.raises(InputError, match=r"`make run` makes (it again|one), `make pull` fetches"):
        load(source.data, source.state)
    assert list(source.state.parent.glob("*")) == []


@pytest.mark.parametrize("how", SPOILT)
def test_files_that_differ_from_the_snapshot_are_not_loaded(tmp_path: Path, how: str) -> None:
    """Counters of a day that is gone would be wrong counts in silence."""
    source = Source(tmp_path, random_log(3, 40))
    source.take_up(source.rows)
    names = [f"{name}/2024-01.parquet" for name in NAMES]
    names += [f"feature_snapshot/{name}" for name in (*(f"{view}.parquet" for view in VIEWS), "snapshot.json")]
    for path in (source.data / name for name in names):
        whole = path.read_bytes()
        SPOILT[how](path)
        assert_not_loaded(source)
        path.write_bytes(whole)
    assert load(source.data, source.state)


def test_counters_of_a_run_that_came_to_no_snapshot_are_not_loaded(tmp_path: Path) -> None:
    """`dvc repro statistics` alone makes them."""
    source = Source(tmp_path, random_log(3, 40))
    source.take_up(source.rows)
    day = source.data / "user_counters" / "2024-01.parquet"
    shutil.copy(day, day.with_name("2031-01.parquet"))
    assert_not_loaded(source)


def test_a_loaded_state_is_as_readable_as_the_folder_around_it(tmp_path: Path) -> None:
    source = Source(tmp_path, random_log(3, num_requests=20))
    source.write(np.random.default_rng(3), ["u0", "u1"], [f"i{number:02}" for number in range(12)])
    source.state.parent.mkdir(parents=True)
    for mode in (0o755, 0o750):  # an image's user is another one
        source.state.parent.chmod(mode)
        source.change("user_history", {"u0": {"item_ids": [f"{mode}"]}})
        load(source.data, source.state)
        assert stat.S_IMODE(source.state.resolve().stat().st_mode) == mode


def test_a_state_that_its_reader_may_not_read_says_what_lets_it(tmp_path: Path) -> None:
    source = Source(tmp_path, random_log(3, num_requests=20))
    source.write(np.random.default_rng(3), ["u0", "u1"], [f"i{number:02}" for number in range(12)])
    load(source.data, source.state)
    source.state.resolve().chmod(0)
    script = (
        "import os, sys; from pathlib import Path; from features.online.store import OnlineStore\n"
        "if os.geteuid() == 0: os.setgroups([]); os.setgid(1034); os.setuid(1034)\n"
        "OnlineStore.open(Path(sys.argv[1]))\n"
    )
    command = [sys.executable, "-c", script, str(source.state)]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stderr
    source.state.resolve().chmod(0o700)
    assert "Permission denied" in told
    assert f"`chmod -R a+rX` lets user {os.geteuid() or 1034} read it" in told


def test_an_opened_store_reads_on_while_a_newer_one_is_loaded_over_it(tmp_path: Path) -> None:
    source = Source(tmp_path, random_log(3, num_requests=20))
    source.write(np.random.default_rng(3), ["u0", "u1"], [f"i{number:02}" for number in range(12)])
    source.change("user_history", {"u0": {"item_ids": ["old"]}})
    load(source.data, source.state)
    opened = OnlineStore.open(source.state)
    users, items, folder = list(opened.user_ids("u")), opened.profiles(["i00"]), source.state.resolve()
    source.change("user_history", {"u0": {"item_ids": ["new"]}})
    load(source.data, source.state)
    assert not folder.exists()  # what is open is read on
    old, new = opened.history("u0"), OnlineStore.open(source.state).history("u0")
    assert old is not None
    assert new is not None
    assert (old.item_ids, new.item_ids) == (["old"], ["new"])
    assert list(opened.user_ids("u")) == users != []
    assert opened.profiles(["i00"]) == items != [None]


@pytest.mark.parametrize("after", ["online.db", "registry.db", "user_history.rows.parquet"])
def test_a_kill_in_the_middle_of_a_load_over_another_leaves_that_one(tmp_path: Path, after: str) -> None:
    source = Source(tmp_path, random_log(4, num_requests=20))
    users = [f"u{number}" for number in range(9)]
    source.write(np.random.default_rng(4), users, [f"i{number:02}" for number in range(12)])
    load(source.data, source.state)
    before, stamp = content(source.state), read_stamp(source.state)
    source.write(np.random.default_rng(5), users, [f"i{number:02}" for number in range(12)])
    process = loading(source.data)
    while not list(source.state.parent.glob(f".feast-{process.pid}-*/{after}")):
        assert process.is_alive(), "ended before it could be killed"
        time.sleep(0.0005)
    process.kill()
    process.join()
    assert read_stamp(source.state) == stamp
    assert content(source.state) == before
    assert load(source.data, source.state)
    assert_as_from_nothing(source)
    assert len([left for left in source.state.parent.iterdir() if left.name.startswith(".feast-")]) == 1


def test_a_load_locks_a_file_that_it_may_read_and_write_as_nfs_asks(tmp_path: Path) -> None:
    source = Source(tmp_path, random_log(6, num_requests=20))
    source.write(np.random.default_rng(6), ["u0", "u1"], [f"i{number:02}" for number in range(12)])
    modes: list[list[int]] = []
    assert load(
        source.data, source.state, written=lambda *_: modes.append(modes_of_locks(lock_of(source.state.parent)))
    )
    assert modes
    assert all(each == [os.O_RDWR] for each in modes)


def test_one_of_several_loaders_loads_and_the_others_wait(tmp_path: Path) -> None:
    source = Source(tmp_path, random_log(6, num_requests=20))
    source.write(np.random.default_rng(6), ["u0", "u1"], [f"i{number:02}" for number in range(12)])
    source.state.parent.mkdir(parents=True)
    path = lock_of(source.state.parent)
    path.parent.mkdir()
    lock = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    files = [tmp_path / f"said {number}" for number in range(3)]
    loaders = [loading(source.data, said) for said in files]
    time.sleep(0.5)
    assert not source.state.exists()
    os.close(lock)
    for loader in loaders:
        loader.join()
    assert sorted(said.read_text() for said in files) == ["False", "False", "True"]
    assert_as_from_nothing(source)


def test_rows_that_differ_only_in_where_a_list_ends_or_in_a_null_are_told_apart() -> None:
    kinds = pa.schema(
        [("id", pa.string()), ("at", pa.timestamp("us", "UTC")), ("words", pa.list_(pa.string())), ("x", pa.int64())]
    )
    words = [["ab", "c"], ["a", "bc"], ["abc"], ["abc", ""], [], None, [None], ["abc"]]
    rows = [{"id": str(n), "at": START, "words": each, "x": 0} for n, each in enumerate(words)]
    rows[-1]["x"] = None
    digests = ViewRows.of(pa.Table.from_pylist(rows, kinds), "id", "at").table["digest"].to_pylist()
    assert len(set(digests)) == len(rows)


def test_a_row_s_digest_does_not_depend_on_its_neighbours() -> None:
    table = random_rows(USER_HISTORY_SNAPSHOT, "user_id", [f"u{n}" for n in range(50)], np.random.default_rng(0))
    whole = ViewRows.of(table, "user_id", "event_timestamp").table["digest"].to_pylist()
    for first, length in ((0, 1), (7, 20), (49, 1)):
        piece = ViewRows.of(table.slice(first, length), "user_id", "event_timestamp").table["digest"].to_pylist()
        assert piece == whole[first : first + length]


@pytest.mark.parametrize("users", [["u", "u"], ["v", "u"]])
def test_a_snapshot_whose_ids_are_not_sorted_or_come_twice_is_refused(tmp_path: Path, users: list[str]) -> None:
    source = Source(tmp_path, random_log(0, num_requests=20))
    source.write(np.random.default_rng(0), users, [f"i{number:02}" for number in range(12)])
    with pytest.raises(InputError, match=rf"not sorted by distinct user_id: '{users[0]}' comes before 'u'. `make run`"):
        load(source.data, source.state)
