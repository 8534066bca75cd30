"""A seeded log of 10 million events in 30 days -> wall time and peak memory of the stage statistics.

`python -m benchmarks.statistics`: runs the stage from an empty cache, with one day more, with nothing new, and with all
days from an empty cache, each in a process of its own; the last two must give the same bytes.
Writes reports/benchmarks/statistics.json and .md.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.table import write_table
from contracts.known_hashes import remembering
from contracts.params import PARAMS, load_params
from contracts.schema import INTERACTIONS, ROLE_IMPRESSION
from features.stages import statistics
from features.tables.connection import memory_mb, num_threads

ROOT = Path(__file__).parents[1]
FIRST_DAY = np.datetime64("2024-01-01")
DAY_US = 86_400_000_000
LIST_LENGTH = 5
CLICK_RATE = 0.1
LIMITS = {"wall_s": 60.0, "peak_mb": 2000.0}


def main() -> None:
    """Print the table and write it to reports/benchmarks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.statistics", description=__doc__)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--at-once", type=int, default=statistics.ROWS_AT_ONCE, help="rows counted together")
    parser.add_argument("--reports", type=Path, default=ROOT / "reports" / "benchmarks")
    parser.add_argument("--once", type=Path, help="run the stage over this data/<source> and print its figures")
    options = parser.parse_args()
    if options.once:
        print(json.dumps(run_here(options.once, options.at_once)))
        return
    with tempfile.TemporaryDirectory() as root:
        sizes = (options.events, options.days, options.users, options.items)
        rows = measure(Path(root), *sizes, options.at_once)
    about = {
        "log": f"{options.events:,} events in {options.days} days, {LIST_LENGTH} a request, and one day more; "
        f"{options.users:,} users, {options.items:,} items, both by Zipf's law; seed 0",
        "limits": LIMITS,
        "load": f"{os.getloadavg()[1]:.1f} processes wanted to run, mean of the last 5 minutes",
        "processes_use": f"{num_threads()} DuckDB threads, its memory_limit {memory_mb()} MB",
    }
    options.reports.mkdir(parents=True, exist_ok=True)
    print(write_table(options.reports, "statistics", about, rows))


def measure(
    root: Path,
    num_events: int,
    num_days: int,
    num_users: int,
    num_items: int,
    at_once: int = statistics.ROWS_AT_ONCE,
) -> list[dict[str, Any]]:
    """One row a case: wall seconds, CPU seconds and peak megabytes of the process, rows counted."""
    data = root / "data" / "table"
    each = num_events // num_days
    for day in range(num_days):
        write_day(data, day, each, num_users, num_items)
    rows = [{"case": f"{num_days} days, empty cache", **run_apart(data, at_once)}]
    write_day(data, num_days, each, num_users, num_items)
    rows.append({"case": "one day more", **run_apart(data, at_once)})
    rows.append({"case": "nothing new", **run_apart(data, at_once)})
    incremental = published(data)
    shutil.rmtree(root / ".cache")
    rows.append({"case": f"{num_days + 1} days, empty cache", **run_apart(data, at_once)})
    if published(data) != incremental:
        raise SystemExit("A rebuild from an empty cache and the incremental runs gave different bytes.")
    return rows


def write_day(data: Path, day: int, num_events: int, num_users: int, num_items: int) -> None:
    """One partition of validated_interactions: requests of LIST_LENGTH items at random times, sorted by time."""
    random = np.random.default_rng([0, day])
    num_requests = -(-num_events // LIST_LENGTH)
    request = np.repeat(np.arange(num_requests), LIST_LENGTH)[:num_events]
    at = (
        np.sort(random.integers(0, DAY_US, num_requests))
        + day * DAY_US
        + FIRST_DAY.astype("datetime64[us]").astype(int)
    )
    users = _zipf(random, num_users, 0.6, num_requests)[request]
    columns = {
        "event_id": _digests(random, num_events),
        "user_id": _names("u", num_users).take(users),
        "item_id": _names("i", num_items).take(_zipf(random, num_items, 1.0, num_events)),
        "occurred_at": at[request].astype("datetime64[us]"),
        "label": (random.random(num_events) < CLICK_RATE).astype(np.float32),
        "impression_id": pa.array([f"r{day}-{number}" for number in range(num_requests)]).take(request),
        "position": (np.arange(num_events) % LIST_LENGTH).astype(np.int32),
        "session_id": pa.nulls(num_events, pa.string()),
        "role": pa.repeat(ROLE_IMPRESSION, num_events),
        "known_at": pa.nulls(num_events, pa.int64()),
        "arrived_at": pa.nulls(num_events, pa.int64()),
    }
    arrays = [pa.array(columns[field.name]).cast(field.type) for field in INTERACTIONS]
    folder = data / "validated_interactions"
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table(arrays, schema=INTERACTIONS)
    pq.write_table(table, folder / f"{FIRST_DAY + day}.parquet", compression="zstd", row_group_size=1 << 18)


def run_apart(data: Path, at_once: int) -> dict[str, Any]:
    """Run the stage in its own process, including the start."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.statistics", "--once", str(data)]
    command += ["--at-once", str(at_once)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return {"wall_s": round(time.perf_counter() - began, 2), **json.loads(done.stdout)}


def run_here(data: Path, at_once: int) -> dict[str, Any]:
    """Run the stage with the project's own parameters. at_once: rows that are counted together."""
    statistics.ROWS_AT_ONCE = at_once
    with remembering(data.parent.parent):  # as whatever runs a stage does
        report = statistics.run(data, load_params(ROOT / PARAMS)["statistics"])
    spent = resource.getrusage(resource.RUSAGE_SELF)
    # not ru_maxrss: a process begins with its parent's
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return {
        "cpu_s": round(spent.ru_utime + spent.ru_stime, 2),
        "peak_mb": round(int(peak.split()[1]) * 1024 / 1e6, 1),
        "events": report["num_interactions"],
        "rows_written": sum(report[f"num_{name}"] for name in statistics.TABLES),
    }


def published(data: Path) -> Mapping[str, bytes]:
    """Every file of the three outs."""
    files = (path for name in statistics.TABLES for path in (data / name).iterdir())
    return {path.relative_to(data).as_posix(): path.read_bytes() for path in files}


def _zipf(random: np.random.Generator, num: int, exponent: float, size: int) -> npt.NDArray[np.int64]:
    weights = np.cumsum(np.arange(1, num + 1, dtype=np.float64) ** -exponent)
    return np.searchsorted(weights, random.random(size) * weights[-1], side="right").clip(max=num - 1)


def _names(letter: str, num: int) -> pa.StringArray:
    # the popular ones are scattered over the alphabet, as real ids are
    return pa.array([f"{letter}{number}" for number in np.random.default_rng(1).permutation(num) + 10 * num])


def _digests(random: np.random.Generator, num: int) -> pa.Array:
    offsets = pa.py_buffer(np.arange(0, 32 * num + 1, 32, dtype=np.int32))
    return pa.StringArray.from_buffers(num, offsets, pa.py_buffer(random.bytes(16 * num).hex().encode()))


if __name__ == "__main__":
    main()
