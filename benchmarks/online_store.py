"""Feast's online stores and ours over the same rows: reads, appends, materializations. One JSON object.

`python -m benchmarks.online_store`: SQLite, and Redis where redis-server is installed (durable: appendfsync always).
Cases are interleaved, so that a busy machine slows both; absolute times belong to the machine.
"""

import argparse
import functools
import json
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import redis
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, Float32, Int64, String
from feast.value_type import ValueType

from features.feast_store.merge import live_events, merge
from features.feast_store.sequence_view import ENCODE, EPOCH, Written
from features.sealed.event import EVENT, LiveEvent
from features.terms.sessions import SessionRule

LENGTH, NUM_LIVE = 1000, 50
START_US, SECOND = 1_700_000_000_000_000, 1_000_000
RULE = SessionRule.of(1800, 86400)
TAGS = {"sequence": "true", "session_gap_s": "1800", "session_max_s": "86400", "max_length": str(LENGTH)}
SERVED = ["user_history:" + name for name in ("item_ids", "occurred_at", "labels", "sessions")]


def main() -> None:
    """Print the figures and the ratios of ours to stock."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.online_store", description=__doc__)
    parser.add_argument("--reads", type=int, default=500)
    parser.add_argument("--pushes", type=int, default=20)
    parser.add_argument("--users", type=int, default=300)
    options = parser.parse_args()
    report: dict[str, Any] = {"setting": vars(options) | {"events": LENGTH, "live": NUM_LIVE, "cpus": os.cpu_count()}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report["sqlite"] = compare(
            open_feast(folder / "ours", {"path": str(folder / "ours.db"), "tail_path": str(folder / "live.db")} | OURS),
            open_feast(folder / "stock", {"type": "sqlite", "path": str(folder / "stock.db")}),
            folder,
            options,
        )
        if shutil.which("redis-server"):
            with redis_server(folder / "redis") as port:
                where = {"connection_string": f"127.0.0.1:{port}"}
                report["redis"] = compare(
                    open_feast(folder / "redis_ours", where | {"tail_prefix": "live"} | OURS_REDIS),
                    open_feast(folder / "redis_stock", where | {"type": "redis"}),
                    folder,
                    options,
                )
    print(json.dumps(report, indent=2))


OURS = {"type": "features.feast_store.sqlite.LeitmotifSqliteOnlineStore"}
OURS_REDIS = {"type": "features.feast_store.redis.LeitmotifRedisOnlineStore"}


def compare(ours: FeatureStore, stock: FeatureStore, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One engine: materialize, then reads without and with live events, then appends."""
    batch = [row_of(f"u{number}") for number in range(options.users)]
    loads = measure({"ours": lambda n: load(ours, batch, n), "stock": lambda n: load(stock, batch, n)}, 5)
    known = measure({"ours": lambda n: read(ours, n), "stock": lambda n: read(stock, n)}, options.reads)
    served = measure({"ours": lambda n: serve(ours, n), "stock": lambda n: serve(stock, n)}, options.reads)
    view = ours.get_feature_view("user_history")
    online = online_of(ours)
    live = [
        event(f"u{user}", f"live{user}-{number}", LENGTH + number) for user in range(20) for number in range(NUM_LIVE)
    ]
    online.append(ours.config, view, live)
    with_live = measure({"ours": lambda n: read(ours, n), "stock": lambda n: read(stock, n)}, options.reads)
    served_live = measure({"ours": lambda n: serve(ours, n), "stock": lambda n: serve(stock, n)}, options.reads)
    tail = online.tail(ours.config)
    appends = measure({"ours": lambda n: tail.append([event(f"w{n % 20}", f"a{n}", n)])}, options.reads)
    pushes = measure({"stock": lambda n: read_append_push(stock, n)}, options.pushes)
    with (folder / "floor").open("ab", buffering=0) as handle:
        floor = measure({"disk": lambda _: durable_write(handle)}, options.reads)
    tail.close()
    return {
        "materialize_users_per_s": {name: round(options.users / statistics.median(t)) for name, t in loads.items()},
        "read_ms": summary(known["ours"]),
        "read_with_live_ms": summary(with_live["ours"]),
        "stock_read_ms": summary(known["stock"] + with_live["stock"]),
        "service_read_ms": summary(served["ours"]),
        "service_read_with_live_ms": summary(served_live["ours"]),
        "stock_store_read_ms": summary(served["stock"] + served_live["stock"]),
        "append_ms": summary(appends["ours"]),
        "fsync_of_100_bytes_ms": summary(floor["disk"]),
        "stock_read_append_push_ms": summary(pushes["stock"]),
        "ratios_of_p50": {
            "read": ratio(known["ours"], known["stock"]),
            "read_with_live_over_stock_without": ratio(with_live["ours"], with_live["stock"]),
            "service_read": ratio(served["ours"], served["stock"]),
            "service_read_with_live_over_stock_without": ratio(served_live["ours"], served_live["stock"]),
            "materialize_time": ratio(loads["ours"], loads["stock"]),
            "stock_push_over_append": ratio(pushes["stock"], appends["ours"]),
        },
    }


def measure(cases: dict[str, Callable[[int], Any]], num: int) -> dict[str, list[float]]:
    """Seconds of each call, the cases in turn, each case first in every other round; a tenth more to warm up."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    warm_up = max(1, num // 10)
    for number in range(num + warm_up):
        for name in list(cases)[:: -1 if number % 2 else 1]:
            started = time.perf_counter()
            cases[name](number)
            if number >= warm_up:
                times[name].append(time.perf_counter() - started)
    return times


def summary(times: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(times, [50, 99]) * 1000
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3)}


def ratio(ours: list[float], stock: list[float]) -> float:
    return round(statistics.median(ours) / statistics.median(stock), 2)


def event(user: str, event_id: str, number: int) -> LiveEvent:
    """One every 50 s."""
    at = START_US + number * 50 * SECOND
    return LiveEvent(event_id, EVENT, user, f"item{number % 997:05}", at, 1.0, "impression", True)


def row_of(user: str) -> Written:
    """A full history, as it is materialized."""
    events = [event(user, f"{user}-{number}", number) for number in range(LENGTH)]
    history = merge(None, live_events(events), RULE, LENGTH)
    assert history is not None
    key = EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=user)])
    at = EPOCH + timedelta(microseconds=events[-1].occurred_at)
    return key, {name: encode(history) for name, encode in ENCODE.items()}, at, None


def load(store: FeatureStore, batch: list[Written], number: int) -> None:
    """A later snapshot of the same users: what is stored is older, so that all of it is written."""
    later = [(key, values, at + timedelta(seconds=number), created) for key, values, at, created in batch]
    online_of(store).online_write_batch(store.config, store.get_feature_view("user_history"), later, None)


def read(store: FeatureStore, number: int) -> Any:
    """One user's history through Feast's own API."""
    return store.get_online_features(SERVED, [{"user_id": f"u{number % 20}"}]).proto


@functools.cache
def view_of(store: FeatureStore) -> FeatureView:
    return store.get_feature_view("user_history")


def serve(store: FeatureStore, number: int) -> Any:
    """The same as the service reads it: from the store, without Feast's response around it."""
    key = EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=f"u{number % 20}")])
    view = view_of(store)
    return online_of(store).online_read(store.config, view, [key], [name.split(":")[1] for name in SERVED])


def read_append_push(store: FeatureStore, number: int) -> None:
    """One event with stock Feast: read the arrays, add to them, write them all."""
    view = store.get_feature_view("user_history")
    key = EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=f"u{number % 20}")])
    (at, values), *_ = online_of(store).online_read(store.config, view, [key], None)
    values["item_ids"].string_list_val.val[:] = [*values["item_ids"].string_list_val.val[1:], "new"]
    values["labels"].float_list_val.val[:] = [*values["labels"].float_list_val.val[1:], 1.0]
    for name in ("occurred_at", "sessions", "event_keys", "session_keys"):
        values[name].int64_list_val.val[:] = [*values[name].int64_list_val.val[1:], number]
    online_of(store).online_write_batch(store.config, view, [(key, values, at + timedelta(seconds=1), None)], None)


def durable_write(handle: FileIO) -> None:
    """The disk's time of a write that survives a power cut."""
    handle.write(b"x" * 100)
    os.fdatasync(handle.fileno())


def open_feast(folder: Path, online_store: dict[str, Any]) -> FeatureStore:
    """The views of user_history, applied."""
    folder.mkdir(parents=True)
    schema = pa.schema([("user_id", pa.string()), ("event_timestamp", pa.timestamp("us", tz="UTC"))])
    pq.write_table(schema.empty_table(), folder / "history.parquet")
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
    source = FileSource(name="history", path=str(folder / "history.parquet"), timestamp_field="event_timestamp")
    kinds = {"item_ids": Array(String), "labels": Array(Float32)}
    schema = [Field(name="user_id", dtype=String)]
    schema += [Field(name=name, dtype=kinds.get(name, Array(Int64))) for name in ENCODE]
    view = FeatureView(name="user_history", entities=[user], schema=schema, source=source, ttl=timedelta(0), tags=TAGS)
    config = RepoConfig(
        project=folder.name,
        provider="local",
        registry={"path": str(folder / "registry.db"), "cache_ttl_seconds": 0},
        online_store=online_store,
        offline_store={"type": "file"},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    store.apply([user, view])
    return store


def online_of(store: FeatureStore) -> Any:
    return store._get_provider().online_store  # type: ignore[attr-defined]


@contextmanager
def redis_server(folder: Path) -> Iterator[int]:
    """A durable one on a free port of loopback, gone on exit."""
    folder.mkdir()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly", "yes"]
    process = subprocess.Popen(["redis-server", *options, "--appendfsync", "always"], stdout=subprocess.DEVNULL)
    try:
        client = redis.Redis(port=port)
        for _ in range(200):
            try:
                client.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.05)
        client.close()
        yield port
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
