"""Users with histories -> rows that a CPU second loads into a Redis, by one process and by tasks of Spark.

`python -m benchmarks.redis_load`: a log goes through histories and statistics, and its snapshot is loaded into a
redis-server of the benchmark's own, into an empty database by each engine in a process of its own; then the stored
fields and values are compared. CPU is that of the process and all that it starts, without the server.
Writes reports/benchmarks/redis_load.json and .md.
"""

import argparse
import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import redis

from benchmarks.online_memory import snapshot_beside_redis
from benchmarks.scale import watched
from benchmarks.table import write_table
from features.engine.engine import HERE
from features.live.open_tail import ENGINE_VARIABLE
from features.online import view_load
from features.online.load import load
from features.terms.params import EngineParams

ROOT = Path(__file__).parents[1]
VIEWS_OF_USERS = 2
"""user_history and user_state; items are one row each, and few."""


def main() -> None:
    """Print the table and write it to reports/benchmarks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.redis_load", description=__doc__)
    parser.add_argument("--users", type=int, default=40_000)
    parser.add_argument("--events", type=int, default=50, help="of each user")
    parser.add_argument("--items", type=int, default=5_000)
    parser.add_argument("--engines", nargs="+", choices=["duckdb", "spark"], default=["duckdb", "spark"])
    parser.add_argument("--master", default="local[2]")
    parser.add_argument("--reports", type=Path, default=ROOT / "reports" / "benchmarks")
    parser.add_argument("--once", nargs=3, metavar=("ENGINE", "DATA", "STATE"), help="load DATA into STATE")
    options = parser.parse_args()
    if options.once:
        engine, data, state = options.once
        spark = EngineParams(name="spark", master=options.master, options={})
        load(Path(data), Path(state), engine=spark if engine == "spark" else HERE)
        return
    rows = measure(options)
    about = {
        "log": f"{options.users:,} users with {options.events:,} events each, {options.items:,} items; seed 0",
        "rows": f"of the views of users; a unit has {view_load.ROWS_AT_ONCE:,} or more",
        "spark": options.master,
        "load": f"{os.getloadavg()[1]:.1f} processes wanted to run, mean of the last 5 minutes",
    }
    options.reports.mkdir(parents=True, exist_ok=True)
    print(write_table(options.reports, "redis_load", about, rows))


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row an engine. Exits if the engines stored different rows."""
    rows, stored = [], set()
    with snapshot_beside_redis(options.users, options.events, options.items) as (data, port):
        for number, engine in enumerate(options.engines):
            os.environ[ENGINE_VARIABLE] = f"127.0.0.1:{port},db={number}"
            state = data.parent.parent / engine / ".state" / data.name / "feast"
            command = [sys.executable, "-m", "benchmarks.redis_load", "--master", options.master]
            cost = watched([*command, "--once", engine, str(data), str(state)])
            num = VIEWS_OF_USERS * options.users
            rows.append({"engine": engine, "rows": num, **cost, "rows_a_cpu_s": round(num / cost["cpu_s"])})
            stored.add(digest(port, number))
    if len(stored) > 1:
        raise SystemExit("The engines stored different rows.")
    return rows


def digest(port: int, number: int) -> str:
    """A hash of all rows of a database, field by field, and of their number."""
    found, num = 0, 0
    with redis.Redis(port=port, db=number) as client:
        for key in client.scan_iter(b"*leitmotif_*", count=1000):
            row = sorted(dict(client.hgetall(key)).items())  # type: ignore[arg-type]
            found ^= int.from_bytes(hashlib.sha256(repr((key, row)).encode()).digest(), "big")
            num += 1
    return f"{num} {found}"


if __name__ == "__main__":
    main()
