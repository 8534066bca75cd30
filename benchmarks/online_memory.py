"""Synthetic users -> Redis memory per user, by length of history, and per live event.

`python -m benchmarks.online_memory --users 1000 --events 50 200 800`: for each length a log is made and taken through
histories and statistics; its snapshot is loaded into a redis-server of the benchmark's own, and `--live` events are
appended to its tail. Says how its `used_memory` grew, a user and a live event, and what a straight line through the
lengths says of `--plan-users` users of `--plan-events` events with `--plan-live` live events between loads: of
primaries of `--plan-gb` GB each how many, replicas not counted. Writes benchmarks/results/online_memory.json.
"""

import argparse
import logging
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import redis

from benchmarks.load import snapshot, write_day
from benchmarks.online_store import redis_server
from benchmarks.table import command, hardware, markdown
from contracts.publish import write_json
from features.live.open_tail import ENGINE_VARIABLE
from features.live.places import state_of
from features.online.load import load
from features.online.store import OnlineStore
from features.sealed.event import EVENT, LiveEvent

RESULT = Path(__file__).parent / "results" / "online_memory.json"
DAYS = 10
FIRST_US = 1_705_000_000_000_000
LIVE_AT_ONCE = 500
GB = 1e9


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.online_memory", description=__doc__)
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--events", type=int, nargs="+", default=[50, 200, 800], help="of each user; two or more")
    parser.add_argument("--items", type=int, default=5_000)
    parser.add_argument("--live", type=int, default=10_000)
    parser.add_argument("--plan-users", type=float, default=1e8)
    parser.add_argument("--plan-events", type=float, default=500)
    parser.add_argument("--plan-live", type=float, default=1e7)
    parser.add_argument("--plan-gb", type=float, default=64)
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    logging.getLogger("leitmotif").setLevel(logging.ERROR)
    rows = [measure(events, options) for events in options.events]
    planned = plan(rows, options)
    write_json(options.result, {"command": command(), "hardware": hardware(), "rows": rows, "plan": planned})
    print(markdown(rows))
    print(markdown([planned]))


@contextmanager
def snapshot_beside_redis(num_users: int, events_a_user: int, num_items: int) -> Iterator[tuple[Path, int]]:
    """A snapshot to load (its data folder), and the port of an empty redis-server that loads go to meanwhile."""
    with tempfile.TemporaryDirectory() as root, redis_server(Path(root) / "redis") as port:
        os.environ[ENGINE_VARIABLE] = f"127.0.0.1:{port}"
        data = Path(root) / "data" / "table"
        (data / "absorbed").mkdir(parents=True)
        (data / "absorbed" / "absorbed.json").write_text("{}", encoding="utf-8")
        for day in range(DAYS):
            write_day(data, day, num_users, events_a_user // DAYS, num_items)
        snapshot(data)
        try:
            yield data, port
        finally:
            del os.environ[ENGINE_VARIABLE]


def measure(events: int, options: argparse.Namespace) -> dict[str, Any]:
    """One length: users of so many events, then live events."""
    with snapshot_beside_redis(options.users, events, options.items) as (data, port):
        client: Any = redis.Redis(port=port)  # redis-py types each answer as one that may be awaited
        with client:
            empty = used(client)
            load(data, state_of(data))
            loaded = used(client)
            of_items = sum(int(client.memory_usage(key, 0) or 0) for key in client.scan_iter(b"*item_id*", 1_000))
            store = OnlineStore.open(state_of(data))
            for first in range(0, options.live, LIVE_AT_ONCE):
                store.tail.append([live(first + number, options) for number in range(LIVE_AT_ONCE)])
            appended, version = used(client), client.info("server")["redis_version"]
        store.tail.close()
    return {
        "events_a_user": events // DAYS * DAYS,
        "users": options.users,
        "mb_loaded": round((loaded - empty) / 1e6, 1),
        "mb_of_items": round(of_items / 1e6, 1),
        "bytes_a_user": round((loaded - empty - of_items) / options.users),
        "bytes_a_live_event": round((appended - loaded) / options.live),
        "redis": version,
    }


def used(client: Any) -> int:
    """Bytes that hold data, without what clients' buffers take now."""
    told = client.info("memory")
    return int(told["used_memory_dataset"]) + int(told["used_memory_overhead"]) - int(told["mem_clients_normal"])


def live(number: int, options: argparse.Namespace) -> LiveEvent:
    """A live click."""
    return LiveEvent(
        event_id=f"{number:032x}",
        revision=EVENT,
        user_id=f"u{number % options.users:07d}",
        item_id=f"i{number * 7919 % options.items:07d}",
        occurred_at=FIRST_US + number,
        label=1.0,
        role="impression",
        in_history=True,
        impression_id=f"served-{number:016x}-{number:016x}-{number:016x}",
        known_at=FIRST_US + number,
    )


def plan(rows: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """By a straight line through the lengths. Counts of users who changed are there twice until the next load."""
    slope, constant = np.polyfit([row["events_a_user"] for row in rows], [row["bytes_a_user"] for row in rows], 1)
    a_user = float(constant + slope * options.plan_events)
    live_gb = options.plan_live * max(row["bytes_a_live_event"] for row in rows) / GB
    users_gb = options.plan_users * a_user / GB
    return {
        "users": f"{options.plan_users:,.0f}",
        "events_a_user": f"{options.plan_events:,.0f}",
        "bytes_an_event": round(float(slope), 1),
        "bytes_a_user": round(a_user),
        "users_gb": round(users_gb, 1),
        "live_gb_on_one_primary": round(live_gb, 1),
        "primaries": math.ceil((users_gb + live_gb) / options.plan_gb),
    }


if __name__ == "__main__":
    main()
