"""Spark writes snapshots, loads a Redis and a Redis Cluster, and joins as this process does, also if one is killed."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from benchmarks.scale import write_log as write_days
from contracts.publish import write_json
from features.engine.engine import HERE
from features.feast_store.cut import ARRAYS, SESSIONS
from features.online.load import load
from features.stages import histories
from features.stages import statistics as statistics_stage
from features.tables.event_counts import USER_EVENTS, write_event_counts
from features.tables.histories import UserHistories
from features.terms.params import EngineParams
from tests.features.loads import DONE, SAID, Held, Joins, Loads, Snapshots, finish, held_by, start_on_spark
from tests.features.online.test_load import Source
from tests.features.redis_cluster import Cluster
from tests.features.redis_server import RedisServer
from tests.features.retrieved import candidates
from tests.features.small_log import history, random_log, request, statistics
from tests.features.spark_cluster import SparkCluster, spark_home

pytestmark = pytest.mark.xdist_group("spark")

ITEMS = [f"i{number:02}" for number in range(12)]
ROWS_AT_ONCE = 40
PATIENCE_S = 240.0
LOST = "Python worker exited unexpectedly"


def snapshots(root: Path, num_users: int, num: int = 3) -> tuple[Source, list[Path]]:
    """Random ones, of which each lacks some users and items of the others, in row groups of a few rows."""
    draw = np.random.default_rng(0)
    source, made = Source(root, random_log(0, num_requests=20)), []
    for turn in range(num):
        users = [f"u{number:05}" for number in np.flatnonzero(draw.random(num_users) < 0.9)]
        source.write(draw, users, [*ITEMS, *(f"x{number:03}" for number in np.flatnonzero(draw.random(200) < 0.7))])
        made.append(source.snapshot.rename(root / f"snapshot{turn}"))
    return source, made


def state_in(root: Path) -> Path:
    return root / ".state" / "table" / "feast"


def wait_for_rows(num: int, held: Callable[[], Held], said: Path, is_running: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while len(held()) < num:
        assert time.monotonic() < deadline, said.read_text()[-4000:]
        assert is_running(), said.read_text()[-4000:]
        time.sleep(0.05)


def python_workers(pid: int) -> list[psutil.Process]:
    """The processes that run tasks for a driver: those that a daemon of PySpark has forked."""

    def is_daemon(process: psutil.Process) -> bool:
        try:
            return "pyspark.daemon" in process.cmdline()
        except psutil.ZombieProcess:
            return False

    daemons = [each for each in psutil.Process(pid).children(recursive=True) if is_daemon(each)]
    return [each for each in daemons if each.ppid() in {daemon.pid for daemon in daemons}]


def kill_at_work(pid: int, said: Path) -> None:
    """Kill the workers of a driver until it says that one of them had a task: they may be idle for a moment."""
    deadline = time.monotonic() + PATIENCE_S
    while LOST not in said.read_text():
        assert time.monotonic() < deadline, said.read_text()[-4000:]
        for worker in python_workers(pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
        noticed = time.monotonic() + 3
        while LOST not in said.read_text() and time.monotonic() < noticed:
            time.sleep(0.05)


def joins(root: Path, folder: Path) -> Joins:
    """Every candidate of a log, which is loaded: all counts, and the arrays of histories."""
    source = Source(root, random_log(3, num_requests=150), "asof")
    source.take_up(source.rows)
    write_event_counts(UserHistories.open(source.data / "user_histories"), source.snapshot / USER_EVENTS)
    load(source.data, source.state)
    arrays = [f"user_history:{name}" for name in (*ARRAYS, SESSIONS)]
    counts = ["item_shows__total:shows", "user_counts__60s:clicks", "user_item_counts__total:shows"]
    features = ["user_events:end_offset", *counts, *arrays]
    return Joins(source.data, candidates(source.data)[1], features, folder, rows_at_once=150)


def test_loads_and_joins_on_spark_of_which_a_worker_is_killed_are_those_of_this_process(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers are Python processes, killed from the first load on; Spark tries their tasks again."""
    spark_home()
    source, made = snapshots(tmp_path, num_users=300, num=2)
    places = {"here": (redis_server.port, 4), "spark": (redis_server.port, 5)}
    online = {name: f"127.0.0.1:{port},db={number}" for name, (port, number) in places.items()}
    runs = {
        name: Loads(source.data, made, [place], ROWS_AT_ONCE, state_in(tmp_path / name))
        for name, place in places.items()
    }
    monkeypatch.setenv("LEITMOTIF_ONLINE", online["here"])
    root = tmp_path / "spark"
    joined = joins(tmp_path / "joined", root / "parts")
    engine = EngineParams(name="spark", master="local[2,8]", options={})
    process = start_on_spark(root, [runs["spark"], joined], engine, online["spark"])
    try:
        wait_for_rows(50, lambda: held_by([places["spark"]], "table"), root / SAID, lambda: process.poll() is None)
        assert len(held_by([places["spark"]], "table")) < 200
        kill_at_work(process.pid, root / SAID)
    finally:
        said, (held, table) = finish(process, root)
    assert held == runs["here"].run(HERE)
    expected = joined.run(HERE)
    assert (len(table), table.schema, table.equals(expected)) == (450, expected.schema, True)
    assert len(list(joined.folder.glob("*/*.parquet"))) == 3
    assert LOST in said
    for view in ("user_history", "user_state", "item_profile"):
        assert said.count(f"loading {view}: ") == 2
    rows = [row for key, row in held[1].items() if b"user_id" in key]
    assert sum(b"_before:user_state" in row for row in rows) > 100


def test_a_snapshot_on_spark_of_which_workers_are_killed_has_the_bytes_of_this_process(tmp_path: Path) -> None:
    """Units of one row group each: 4,096 users, or a million events."""
    spark_home()
    data = tmp_path / "data" / "table"
    write_days(data, num_rows=60_000, num_days=6, num_users=10_000, num_items=300)
    write_json(data / "absorbed" / "absorbed.json", {})
    histories.run(data, request(), history())
    statistics_stage.run(data, statistics())
    root = tmp_path / "spark"
    engine = EngineParams(name="spark", master="local[2,8]", options={})
    process = start_on_spark(root, [Snapshots(data, root / "made", 2)], engine, "sqlite")
    try:
        kill_at_work(process.pid, root / SAID)
    finally:
        said, (found,) = finish(process, root)
    (expected,) = Snapshots(data, tmp_path / "here", 1).run(HERE)
    assert found == [expected] * 2
    assert len(expected) == 5
    assert said.count("counters by user: 3 tasks on Spark") == 2
    assert said.count("snapshot of ranges of users: 5 tasks on Spark") == 2


@pytest.mark.slow
def test_a_load_into_a_redis_cluster_by_a_spark_cluster_that_loses_a_worker_holds_what_one_process_loads(
    tmp_path: Path, redis_cluster: Cluster, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, made = snapshots(tmp_path, num_users=3_000, num=2)
    nodes = [(node.port, 0) for node in redis_cluster.primaries()]
    loads = Loads(source.data, made, nodes, ROWS_AT_ONCE, state_in(tmp_path / "spark"))
    with SparkCluster(tmp_path / "cluster") as cluster:
        engine = EngineParams(name="spark", master=cluster.address, options={})
        root = tmp_path / "spark"
        process = start_on_spark(root, [loads], engine, redis_cluster.address)
        try:
            wait_for_rows(600, lambda: held_by(nodes, "table"), root / SAID, lambda: process.poll() is None)
            assert not (root / DONE).exists()
            cluster.kill_worker(0)
        finally:
            said, (held,) = finish(process, root)
    assert "Lost executor" in said
    place = (redis_server.port, 3)
    monkeypatch.setenv("LEITMOTIF_ONLINE", f"127.0.0.1:{place[0]},db={place[1]}")
    expected = Loads(source.data, made, [place], ROWS_AT_ONCE, state_in(tmp_path / "here")).run(HERE)
    assert held == expected
    assert len(held[1]) > 2_500


@pytest.mark.slow
def test_a_driver_that_is_killed_leaves_a_load_that_is_repeated_under_its_number(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first snapshot is loaded, the driver is killed in the second, and the third is loaded by this process."""
    spark_home()
    source, made = snapshots(tmp_path, num_users=3_000)
    place = (redis_server.port, 2)
    online = f"127.0.0.1:{place[0]},db={place[1]}"
    monkeypatch.setenv("LEITMOTIF_ONLINE", online)
    root = tmp_path / "spark"
    state = state_in(root)
    one, two, three = (Loads(source.data, [each], [place], ROWS_AT_ONCE, state) for each in made)
    first = one.run(HERE)[0]
    mark = b"leitmotif_table:mark"
    engine = EngineParams(name="spark", master="local[2]", options={})
    process = start_on_spark(root, [two], engine, online)

    def differing() -> Held:
        now = held_by([place], "table")
        return {key: row for key, row in now.items() if first.get(key) != row}

    wait_for_rows(200, differing, root / SAID, lambda: process.poll() is None)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert held_by([place], "table")[mark][b"snapshot"] == b""
    (held,) = three.run(HERE)
    assert held[mark][b"loads"] == b"2"
    time.sleep(2)  # what is left of the killed one would have written by now
    assert held_by([place], "table") == held
    assert_read_alike(source, made[2], held, redis_server, monkeypatch, tmp_path)


def assert_read_alike(
    source: Source, snapshot: Path, held: Held, server: RedisServer, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    """The same values as a load into an empty store, beside what is kept of the load before."""
    place = (server.port, 1)
    monkeypatch.setenv("LEITMOTIF_ONLINE", f"127.0.0.1:{place[0]},db={place[1]}")
    (anew,) = Loads(source.data, [snapshot], [place], ROWS_AT_ONCE, state_in(root / "anew")).run(HERE)
    ours = (b"_load:", b"_before:")

    def values(rows: Held) -> Held:
        users = {key: row for key, row in rows.items() if not key.endswith(b":mark")}
        return {key: {name: row[name] for name in row if not name.startswith(ours)} for key, row in users.items()}

    assert values(held) == values(anew)
