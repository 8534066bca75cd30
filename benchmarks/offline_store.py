"""Seeded users and impressions -> time, memory and bytes of point-in-time joins: Feast's store and ours.

`python -m benchmarks.offline_store`: histories (one array of 200 events a row, 30 snapshots a user) and scalars, each
side in a process of its own. Writes reports/benchmarks/offline_store.json and .md.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.table import write_table
from contracts.schema import TIME, VOCABULARY
from features.feast_store.as_of_join import take_ranges
from features.tables import histories as history_reader
from features.tables.event_counts import USER_EVENTS, write_event_counts

ROOT = Path(__file__).parents[1]
START_US = 1_704_067_200_000_000
SPAN_US = 30 * 86_400_000_000
NUM_ITEMS = 10_000
OURS = "features.feast_store.offline.LeitmotifOfflineStore"
SIDES = {
    "arrays, Feast": ("duckdb", "arrays", "snapshots:occurred_at", "snapshots.parquet"),
    "arrays, ours: cut from the histories": (OURS, "arrays", "history:occurred_at", "user_histories/*.npy"),
    "arrays, ours: end_offset, to be cut a batch at a time": (OURS, "arrays", "events:end_offset", USER_EVENTS),
    "scalars, Feast": ("duckdb", "scalars", "scalars:value", "scalars.parquet"),
    "scalars, ours": (OURS, "scalars", "scalars:value", "scalars.parquet"),
}
"""Store, frame that asks, feature, what is stored for it."""


def main() -> None:
    """Print the table and write it to reports/benchmarks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.offline_store", description=__doc__)
    parser.add_argument("--impressions", type=int, default=200_000)
    parser.add_argument("--rows", type=int, default=1_000_000, help="that ask for a scalar")
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--snapshots", type=int, default=30)
    parser.add_argument("--length", type=int, default=200)
    parser.add_argument("--reports", type=Path, default=ROOT / "reports" / "benchmarks")
    parser.add_argument("--side", help="measure this side over --folder and print its figures")
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.side, options.folder, options.length)))
        return
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_histories(folder, options.users, options.snapshots, options.length)
        write_scalars(folder, options.users, options.snapshots)
        write_asking(folder / "arrays.parquet", options.impressions, options.users)
        write_asking(folder / "scalars_asking.parquet", options.rows, options.users)
        rows = [{"side": side, **run_apart(side, folder, options.length)} for side in SIDES]
    for row in rows:
        stock = next(other for other in rows if other["side"] == row["side"].split(",")[0] + ", Feast")
        row["times_faster"] = round(stock["seconds"] / row["seconds"], 1)
        row["times_fewer_bytes"] = round(stock["result_bytes"] / row["result_bytes"], 1)
        row["times_less_stored"] = round(stock["stored_bytes"] / row["stored_bytes"], 1)
    about = {
        "data": f"{options.users:,} users; arrays: {options.impressions:,} rows ask for {options.length} events of "
        f"int64, {options.snapshots} snapshots a user; scalars: {options.rows:,} rows, {options.snapshots} values a "
        "user",
        "load": f"{os.getloadavg()[1]:.1f} processes wanted to run, mean of the last 5 minutes",
    }
    options.reports.mkdir(parents=True, exist_ok=True)
    print(write_table(options.reports, "offline_store", about, rows))


def run_apart(side: str, folder: Path, length: int) -> dict[str, Any]:
    """Measure in a separate process, for its peak memory."""
    command = [sys.executable, "-m", "benchmarks.offline_store", "--side", side, "--folder", str(folder)]
    done = subprocess.run([*command, "--length", str(length)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side} ended with {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(side: str, folder: Path, length: int) -> dict[str, Any]:
    """Seconds and CPU seconds of one retrieval, the process's peak memory, bytes of the feature and of its store."""
    from feast import FeatureStore, RepoConfig

    from features.tables.duck import duckdb, ibis

    kind, asking, feature, stored = SIDES[side]
    name = "arrays.parquet" if asking == "arrays" else "scalars_asking.parquet"
    entity_df = pq.read_table(folder / name).to_pandas()
    config = RepoConfig(
        project="measured",
        provider="local",
        registry={"path": str(folder / f"{os.getpid()}.db")},
        online_store={"type": "sqlite", "path": str(folder / f"{os.getpid()}-online.db")},
        offline_store={"type": kind},
        entity_key_serialization_version=3,
    )
    with duckdb(folder / "spill") as connection:
        ibis.set_backend(connection)
        store = FeatureStore(config=config)
        store.apply(definitions(folder, length))
        started, cpu = time.perf_counter(), time.process_time()
        found = store.get_historical_features(entity_df, [feature]).to_arrow()
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    column = found[feature.split(":")[1]]
    if len(found) != len(entity_df):
        raise SystemExit(f"{side}: {len(found):,} rows for {len(entity_df):,} asked")
    return {
        "seconds": round(seconds, 3),
        "cpu_s": round(cpu, 3),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "result_bytes": column.nbytes,
        "stored_bytes": sum(path.stat().st_size for path in folder.glob(stored)),
        "share_known": round(1 - column.null_count / len(column), 3),
    }


def definitions(folder: Path, length: int) -> list[Any]:
    """The views that both sides choose from."""
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import Array, Int64, String

    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
    sequence = {"sequence": "true", "histories": str(folder / "user_histories"), "max_length": str(length)}
    sequence |= {"session_gap_s": "1800", "session_max_s": ""}
    strict = {"strict": "true", "lag_s": "0"}

    def view(name: str, path: str, feature: Field, tags: dict[str, str]) -> FeatureView:
        source = FileSource(name=name, path=str(folder / path), timestamp_field="occurred_at_time")
        key = Field(name="user_id", dtype=String)
        return FeatureView(
            name=name, entities=[user], schema=[key, feature], source=source, ttl=timedelta(0), tags=tags
        )

    times = Field(name="occurred_at", dtype=Array(Int64))
    counted = FileSource(name="counted", path=str(folder / USER_EVENTS), timestamp_field="occurred_at")
    events = view("events", USER_EVENTS, Field(name="end_offset", dtype=Int64), strict)
    events.batch_source = counted
    return [
        user,
        view("snapshots", "snapshots.parquet", times, {}),
        view("history", "snapshots.parquet", times, sequence | strict),
        events,
        view("scalars", "scalars.parquet", Field(name="value", dtype=Int64), {}),
    ]


def write_histories(folder: Path, num_users: int, num_snapshots: int, length: int) -> None:
    """Every event once, as the stage histories leaves them, and each user's newest `length` at each snapshot's time."""
    random = np.random.default_rng(0)
    each = length + num_snapshots * 5  # five events between two snapshots
    at = np.sort(START_US + random.integers(-SPAN_US, SPAN_US, (num_users, each)), axis=1)
    histories = folder / "user_histories"
    histories.mkdir()
    offsets = np.arange(num_users + 1) * each
    given = {"occurred_at": at.ravel(), "item_index": random.integers(2, NUM_ITEMS, at.size)}
    for name, kind in history_reader.ARRAYS.items():
        np.save(histories / f"{name}.npy", given.get(name, np.zeros(at.size)).astype(kind))
    np.save(histories / "offsets.npy", offsets)
    (histories / "retention.json").write_text('{"log_end_us": 0, "keep_from_us": null}', encoding="utf-8")
    names = pa.array(user_names(num_users))
    pq.write_table(pa.table({"user_index": np.arange(num_users), "user_id": names}), histories / "users.parquet")
    pq.write_table(VOCABULARY.empty_table(), histories / "vocabulary.parquet")
    write_event_counts(history_reader.UserHistories.open(histories), folder / USER_EVENTS)
    cuts = START_US + np.arange(num_snapshots) * (SPAN_US // num_snapshots)
    users = np.repeat(np.arange(num_users), num_snapshots)
    ends = np.concatenate([np.searchsorted(own, cuts) for own in at]) + offsets[users]
    starts = np.maximum(offsets[users], ends - length)
    arrays = take_ranges(pa.array(at.ravel()), starts, ends, np.ones(len(ends), bool))
    taken_at = pa.array(np.tile(cuts, num_users)).cast(TIME)
    table = {"user_id": names.take(pa.array(users)), "occurred_at_time": taken_at, "occurred_at": arrays}
    pq.write_table(pa.table(table), folder / "snapshots.parquet", compression="zstd")


def write_scalars(folder: Path, num_users: int, num_snapshots: int) -> None:
    """As many values per user as there are snapshots, at different times."""
    random = np.random.default_rng(1)
    num_rows = num_users * num_snapshots
    table = {
        "user_id": user_names(num_users) * num_snapshots,
        "occurred_at_time": pa.array(START_US + random.integers(0, SPAN_US, num_rows)).cast(TIME),
        "value": random.integers(0, 1000, num_rows),
    }
    pq.write_table(pa.table(table), folder / "scalars.parquet", compression="zstd")


def write_asking(path: Path, num_rows: int, num_users: int) -> None:
    """The entity frame: users and times."""
    random = np.random.default_rng(2)
    users = pd.Series(user_names(num_users)).take(random.integers(0, num_users, num_rows))
    at = pa.array(START_US + random.integers(0, SPAN_US, num_rows)).cast(TIME)
    pq.write_table(pa.table({"user_id": pa.array(users), "event_timestamp": at}), path)


def user_names(num_users: int) -> list[str]:
    """Ids of users in their order."""
    return [f"u{number:07}" for number in range(num_users)]


if __name__ == "__main__":
    main()
