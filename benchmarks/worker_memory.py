"""An online store with an increasing number of users -> a worker's memory, and its time until ready.

`python -m benchmarks.worker_memory --users 10000 5000000`: copies the loaded state of the present source, writes so
many users more into its SQLite file, each with the rows of a real one cut to `--events` events, and as many rows of
item counters as they would have made, in the store's own format. Then a fresh process for each size opens bundle and
store as a worker of the service does, answers `--requests` rankings of these users and says what it holds:
`anonymous_mb` is its own, `mapped_mb` are pages of files, which all workers of a machine share and the system may take
back. `ready_s` is from the process's start until the first ranking is answered. Writes
benchmarks/results/worker_memory.json.
"""

import argparse
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from feast import FeatureView
from feast.protos.feast.types.Value_pb2 import Value

from benchmarks.table import command, hardware, markdown
from contracts.params import load_params
from contracts.publish import write_json
from features.encoding.as_of import AsOfCounter
from features.encoding.counters import ITEMS, Counters
from features.encoding.user_counts import rows_of_users
from features.feast_store.entity_keys import entity_key
from features.feast_store.online_rows import _key, _quoted
from features.live.places import state_of
from features.online import item_state
from features.online.store import OnlineStore

RESULT = Path(__file__).parent / "results" / "worker_memory.json"
ROWS_AT_ONCE = 50_000
DAY_US = 86_400_000_000
SHOWN_PER_EVENT = 2
PLACES = "/proc/self/status"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worker_memory", description=__doc__)
    parser.add_argument("--users", type=int, nargs="+", default=[10_000, 5_000_000])
    parser.add_argument("--events", type=int, default=5)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--root", type=Path, default=Path(), help="of a run that is complete, and loaded into SQLite")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--measure", type=Path, help="for the benchmark itself: the state folder that a worker opens")
    options = parser.parse_args()
    source = load_params(options.root / "params.yaml")["source"].id
    data = options.root / "data" / source
    if options.measure is not None:
        print(json.dumps(worker(options.measure, data / "bundle", options.requests)))
        return
    rows: list[dict[str, Any]] = []
    for number in options.users:
        rows.append(size(state_of(data.absolute()), number, options))
        told = {"command": command(), "hardware": hardware(), "events": options.events, "rows": rows}
        write_json(options.result, told)
        print(markdown(rows[-1:]), flush=True)


def size(loaded: Path, num_users: int, options: argparse.Namespace) -> dict[str, Any]:
    """Make the store of one number of users, and measure a worker over it."""
    with TemporaryDirectory(prefix="worker-memory-", dir=os.environ.get("TMPDIR")) as scratch:
        state = Path(scratch) / loaded.parent.name / "feast"
        shutil.copytree(loaded, state)
        started = time.perf_counter()
        write_users(state, num_users, options.events)
        num_rows = write_items(state, num_users * options.events * SHOWN_PER_EVENT)
        written_s = time.perf_counter() - started
        asked = [sys.executable, "-m", "benchmarks.worker_memory", "--measure", str(state)]
        asked += ["--requests", str(options.requests), "--root", str(options.root)]
        told = json.loads(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        return {
            "users": num_users,
            "item_rows": num_rows,
            "store_mb": sum(path.stat().st_size for path in state.iterdir()) // 1_000_000,
            "written_s": round(written_s),
            **told,
        }


def write_users(state: Path, number: int, events: int) -> None:
    """So many users more, in Feast's own tables: histories and counts of one who is real, cut to some events."""
    store = OnlineStore.open(state)
    history, counts = template(store, events)
    with closing(sqlite3.connect(state / "online.db")) as database:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -400000", "locking_mode = EXCLUSIVE"):
            database.execute(f"PRAGMA {pragma}")
        for view, values in ((store.history_view, history), (store.state_view, counts)):
            insert = f"INSERT INTO {_quoted(store.feast, view)} (entity_key, feature_name, value, event_ts) "
            rows = rows_of(view, values, number)
            while some := [row for _, row in zip(range(ROWS_AT_ONCE), rows, strict=False)]:
                database.executemany(f"{insert} VALUES (?, ?, ?, ?)", some)
            database.commit()
    store.tail.close()


def template(store: OnlineStore, events: int) -> tuple[dict[str, Value], dict[str, Value]]:
    """The features of a user with the newest of some user's events, and what would be counted of these."""
    user = next(name for name in store.user_ids("") if len(getattr(store.history(name), "item_ids", ())) >= events)
    provider = store.feast._get_provider().online_store  # type: ignore[attr-defined]
    key = [entity_key(["user_id"], user)]
    names = [feature.name for feature in store.history_view.features]
    ((_, values),) = provider.online_read(store.feast.config, store.history_view, key, names)
    assert values is not None
    for value in values.values():
        del getattr(value, str(value.WhichOneof("val"))).val[:-events]
    items = store.item_keys(list(values["item_ids"].string_list_val.val))
    times = np.sort(np.array(list(values["occurred_at"].int64_list_val.val), np.int64))
    ones = np.arange(1, events + 1)
    own = AsOfCounter.from_rows(np.zeros(events, np.int64), times, ones, ones)
    pairs = AsOfCounter.from_rows(items, times, np.ones(events, np.int64), np.ones(events, np.int64))
    ids = list(store.live.items.known)
    ((_, _, row),) = rows_of_users(Counters(own, own, pairs), ids.__getitem__, 0, 1)
    return values, {"counts": Value(bytes_val=row)}


def rows_of(view: FeatureView, values: dict[str, Value], number: int) -> Iterator[tuple[bytes, str, bytes, int]]:
    told = [(name, value.SerializeToString()) for name, value in sorted(values.items())]
    for user in range(number):
        key = _key(view.join_keys, f"synthetic{user:08}")
        for name, value in told:
            yield key, name, value, 1_700_000_000


def write_items(state: Path, num_rows: int) -> int:
    """Counters of the catalogue's items of so many rows, evenly over thirty days. Returns how many."""
    items = item_state.read_ids(state)
    each = max(1, num_rows // len(items))
    stride = 97
    times = np.arange(each * stride + stride, dtype=np.int64) * (30 * DAY_US // (each * stride)) + 1_700_000_000_000_000
    keys = np.arange(len(items), dtype=np.int64)
    place = np.arange(each, dtype=np.int64) * stride
    packed = (keys[:, None] * (len(times) + 1) + keys[:, None] % stride + place).ravel()
    shows = np.tile(np.arange(1, each + 1), len(items))
    for path in state.glob(f"{ITEMS}.*.npy"):
        path.unlink()
    Counters.of_table(AsOfCounter(keys, times, packed, shows, shows // 10)).save(state)
    return len(packed)


def worker(state: Path, bundle: Path, num_requests: int) -> dict[str, Any]:
    """What a worker over a state holds after some rankings. In a process of its own."""
    begun = time.time() - started_s_ago()
    from serving.answering.predictor import Predictor
    from serving.answering.requests import RankRequest

    imported = time.time()
    predictor = Predictor.open(bundle, state)
    opened, items = time.time(), predictor.bundle.index.item_ids
    draw = np.random.default_rng(0)
    users = [f"synthetic{number:08}" for number in draw.integers(0, 10_000, num_requests)]
    ready = 0.0
    for user in users:
        candidates = [items[place] for place in draw.choice(len(items), min(100, len(items)), replace=False)]
        reply = predictor.answer(RankRequest(user_id=user, candidates=candidates)).reply
        assert reply.history.known, f"{user} is not in the store"
        ready = ready or time.time()
    held = status(("RssAnon", "RssFile"))
    return {
        "anonymous_mb": held["RssAnon"] // 1000,
        "mapped_mb": held["RssFile"] // 1000,
        "ready_s": round(ready - begun, 2),
        "imports_s": round(imported - begun, 2),
        "opening_s": round(opened - imported, 2),
    }


def status(names: Sequence[str]) -> dict[str, int]:
    """Of this process, kB."""
    lines = Path(PLACES).read_text(encoding="utf-8").splitlines()
    told = dict(line.split(":", 1) for line in lines)
    return {name: int(told[name].split()[0]) for name in names}


def started_s_ago() -> float:
    """Seconds since this process started."""
    ticks = int(Path("/proc/self/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[19])
    up = float(Path("/proc/uptime").read_text(encoding="utf-8").split()[0])
    return up - ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
