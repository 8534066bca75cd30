"""Users with long histories -> seconds to load all of them online, then 1 % changed users, compared with stock Feast.

`python -m benchmarks.load`: a log goes through histories and statistics, and its snapshot is loaded; then 1 % of the
users have new events on the next day, and that snapshot is loaded, incrementally and from scratch. In the same run,
Feast's `FeatureStore.materialize` loads the same snapshot. Writes reports/benchmarks/load.json and .md.
"""

import argparse
import contextlib
import io
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureStore, RepoConfig

from benchmarks.table import write_table
from contracts.params import PARAMS, load_params
from contracts.schema import CONTEXTS, INTERACTIONS, ITEMS, QUARANTINE, REJECTED, ROLE_HISTORY, ROLE_IMPRESSION
from features.feast_store.repository import definitions, read_settings
from features.live.places import state_of
from features.online.fill import VIEWS
from features.online.load import load
from features.online.snapshot import write_snapshot
from features.online.store import OnlineStore
from features.stages import histories, statistics
from features.tables.histories import UserHistories

ROOT = Path(__file__).parents[1]
FIRST_DAY = np.datetime64("2024-01-01")
DAY_US = 86_400_000_000
SHARES = {"wall_share": "wall_s", "cpu_share": "cpu_s"}
SHOWN = 0.1
"""Of the events, those of requests; the others only extend histories."""


def main() -> None:
    """Print the table and write it to reports/benchmarks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--users", type=int, default=5_000)
    parser.add_argument("--events", type=int, default=1_000, help="of each user")
    parser.add_argument("--items", type=int, default=5_000)
    parser.add_argument("--days", type=int, default=10)
    parser.add_argument("--changed", type=float, default=0.01, help="share of users that act on the last day")
    parser.add_argument("--reports", type=Path, default=ROOT / "reports" / "benchmarks")
    options = parser.parse_args()
    logging.getLogger("leitmotif").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as root:
        rows = measure(Path(root) / "data" / "table", options)
    about = {
        "log": f"{options.users:,} users with {options.events:,} events each, {options.items:,} items; then "
        f"{options.changed:.0%} of the users with one event more each; seed 0",
        "shares": "beside `the same, empty state`: the whole load, histories, catalogue and counters",
        "load": f"{os.getloadavg()[1]:.1f} processes wanted to run, mean of the last 5 minutes",
    }
    options.reports.mkdir(parents=True, exist_ok=True)
    print(write_table(options.reports, "load", about, rows))


def measure(data: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a case."""
    state = state_of(data)
    (data / "absorbed").mkdir(parents=True)
    (data / "absorbed" / "absorbed.json").write_text("{}", encoding="utf-8")
    for day in range(options.days):
        write_day(data, day, options.users, options.events // options.days, options.items)
    snapshot(data)
    first = timed("all, empty state, the process's first", lambda: load(data, state))
    changed = max(1, round(options.users * options.changed))
    write_day(data, options.days, changed, 1, options.items)
    snapshot(data)
    again = timed(f"{changed:,} of {options.users:,} users changed", lambda: load(data, state))
    layered = timed("opening that", lambda: OnlineStore.open(state))
    found = OnlineStore.open(state).histories(user_ids(options.users))
    shutil.rmtree(state.parent)
    anew = timed("the same, empty state", lambda: load(data, state))
    whole = timed("opening that", lambda: OnlineStore.open(state))
    if not same(found, OnlineStore.open(state).histories(user_ids(options.users))):
        raise SystemExit("An incremental load and a full one gave different histories.")
    stock = timed("stock Feast: apply and materialize, no counters", lambda: feast_alone(data, data.parent / "stock"))
    rows = (first, again, layered, anew, whole, stock)
    return [row | {name: round(row[of] / anew[of], 4) for name, of in SHARES.items()} for row in rows]


def timed(case: str, act: Callable[[], Any]) -> dict[str, Any]:
    """Wall and CPU seconds of one act."""
    wall, cpu = time.perf_counter(), time.process_time()
    act()
    return {"case": case, "wall_s": round(time.perf_counter() - wall, 3), "cpu_s": round(time.process_time() - cpu, 3)}


def feast_alone(data: Path, folder: Path) -> None:
    """Apply the views and materialize them as `feast apply` and `feast materialize` do, with Feast's own stores."""
    folder.mkdir()
    stores = {
        "online_store": {"type": "sqlite", "path": str(folder / "online.db")},
        "offline_store": {"type": "duckdb"},
    }
    config = RepoConfig(
        project="stock",
        provider="local",
        registry=str(folder / "registry.db"),
        entity_key_serialization_version=3,
        **stores,
    )
    taken = data / "feature_snapshot"
    settings = read_settings(taken, json.loads((taken / "snapshot.json").read_text(encoding="utf-8")))
    store = FeatureStore(config=config)
    with contextlib.redirect_stdout(io.StringIO()):
        store.apply(definitions(data, taken, *settings))
        store.materialize(datetime(1900, 1, 1, tzinfo=UTC), datetime.now(UTC) + timedelta(days=1), list(VIEWS))


def snapshot(data: Path) -> None:
    """Histories, counters and the snapshot of the log as it is now."""
    params = load_params(ROOT / PARAMS)
    with contextlib.redirect_stderr(io.StringIO()):
        histories.run(data, params["request"], params["history"])
        statistics.run(data, params["statistics"])
    folder = data / "feature_snapshot"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    settings = params["history"].model_dump(mode="json") | {"statistics": params["statistics"].model_dump(mode="json")}
    stored = UserHistories.open(data / "user_histories")
    write_snapshot(data, stored, params["history"].max_length, settings, folder)


def write_day(data: Path, day: int, num_users: int, num_each: int, num_items: int) -> None:
    """One partition: the first num_users users click num_each items each, at random times of the day."""
    random = np.random.default_rng([0, day])
    num = num_users * num_each
    at = np.sort(random.integers(0, DAY_US, num)) + day * DAY_US + FIRST_DAY.astype("datetime64[us]").astype(int)
    shown = random.random(num) < SHOWN
    columns = {
        "event_id": pa.array([f"e{day:03}{number:09}" for number in range(num)]),
        "user_id": pa.array(user_ids(num_users)).take(random.permutation(np.repeat(np.arange(num_users), num_each))),
        "item_id": pa.array(item_ids(num_items)).take(random.integers(0, num_items, num)),
        "occurred_at": pa.array(at.astype("datetime64[us]")),
        "label": pa.array(np.ones(num, np.float32)),
        "impression_id": pa.array([f"r{day}-{number}" for number in range(num)], mask=~shown),
        "position": pa.array(np.zeros(num, np.int32), mask=~shown),
        "session_id": pa.nulls(num, pa.string()),
        "role": pa.array(np.where(shown, ROLE_IMPRESSION, ROLE_HISTORY)),
        "known_at": pa.nulls(num, pa.int64()),
        "arrived_at": pa.nulls(num, pa.int64()),
    }
    interactions = pa.table([columns[field.name].cast(field.type) for field in INTERACTIONS], schema=INTERACTIONS)
    items = [{"item_id": name, "title": f"title of {name}", "categories": ["c"]} for name in item_ids(num_items)]
    written = {f"{name}/{FIRST_DAY + day}": interactions for name in ("interactions", "validated_interactions")}
    written |= {"items/items": pa.Table.from_pylist(items, ITEMS), "contexts/all": CONTEXTS.empty_table()}
    written |= {"quarantine/all": QUARANTINE.empty_table(), "rejected/all": REJECTED.empty_table()}
    for name, table in written.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, data / f"{name}.parquet", compression="zstd")


def user_ids(num: int) -> list[str]:
    return [f"u{number:07}" for number in range(num)]


def item_ids(num: int) -> list[str]:
    return [f"i{number:06}" for number in range(num)]


def same(ours: list[Any], theirs: list[Any]) -> bool:
    """Whether two reads of the same users are equal in all fields."""
    pairs = [(vars(a), vars(b)) for a, b in zip(ours, theirs, strict=True)]
    return all(np.array_equal(a[name], b[name]) for a, b in pairs for name in a)


if __name__ == "__main__":
    main()
