"""A seeded log -> the cost of the stage histories, compared with hand-written DuckDB SQL with the same output.

`python -m benchmarks.histories --rows 1000000 10000000`: for each size, each in a process of its own, our stage
from an empty cache, the SQL, and our stage with one day more. The two must agree on every array and every end_offset.
Writes reports/benchmarks/histories.json and .md.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.histories_sql import run_sql
from benchmarks.statistics import write_day
from benchmarks.table import write_table
from contracts.params import PARAMS, load_params
from contracts.schema import CONTEXTS, ITEMS, QUARANTINE, REJECTED
from features.stages import histories
from features.tables.connection import memory_mb, num_threads
from features.tables.histories import ARRAYS

ROOT = Path(__file__).parents[1]
NUM_DAYS = 30
ROWS_A_USER = 50
NUM_ITEMS = 50_000
LIMITS = {"cpu_over_sql": 1.5, "peak_mb": 2000.0}
INPUTS = ("validated_interactions", "interactions", "items", "contexts", "quarantine", "rejected")


def main() -> None:
    """Print the table and write it to reports/benchmarks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.histories", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--days", type=int, default=NUM_DAYS, help="1: the whole log is one partition")
    parser.add_argument("--folder", type=Path, help="where the logs are made and removed again")
    parser.add_argument("--reports", type=Path, default=ROOT / "reports" / "benchmarks")
    parser.add_argument("--once", nargs=2, metavar=("ours|sql", "FOLDER"), help="run one of the two over data/<source>")
    options = parser.parse_args()
    if options.once:
        {"ours": run_ours, "sql": run_sql}[options.once[0]](Path(options.once[1]))
        # not ru_maxrss: a process begins with its parent's
        print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
        return
    rows = []
    for num_rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.folder) as root:
            rows += measure(Path(root), num_rows, options.days)
    about = {
        "log": f"{options.days} partitions, lists of 5, {ROWS_A_USER} rows a user, both sides by Zipf; seed 0",
        "limits": LIMITS,
        "load": f"{os.getloadavg()[1]:.1f} processes wanted to run, mean of the last 5 minutes",
        "processes_use": f"{num_threads()} DuckDB threads; ours gives it {memory_mb()} MB",
    }
    options.reports.mkdir(parents=True, exist_ok=True)
    print(write_table(options.reports, "histories", about, rows))


def measure(root: Path, num_rows: int, num_days: int) -> list[dict[str, Any]]:
    """One row a case: wall and CPU seconds and peak megabytes of the process."""
    data = root / "data" / "table"
    num_users = max(2, num_rows // ROWS_A_USER)
    for day in range(num_days):
        write_day(data, day, num_rows // num_days, num_users, NUM_ITEMS)
    surround(data)
    ours = _run_apart("ours", data)
    sql = _run_apart("sql", data)
    _same(data, root / "sql")
    shutil.rmtree(root / "sql")
    write_day(data, num_days, num_rows // NUM_DAYS, num_users, NUM_ITEMS)
    surround(data)
    more = _run_apart("ours", data)
    again = _run_apart("ours", data)
    cases = {"ours, empty cache": ours, "DuckDB SQL": sql, "ours, one day more": more, "ours, nothing new": again}
    return [
        {"rows": num_rows, "case": case, **found, "cpu_over_sql": round(found["cpu_s"] / sql["cpu_s"], 2)}
        for case, found in cases.items()
    ]


def run_ours(data: Path) -> None:
    """The stage with the project's own parameters."""
    params = load_params(ROOT / PARAMS)
    histories.run(data, params["request"], params["history"])


def surround(data: Path) -> None:
    """What else the stage reads: items, and nothing that was held back."""
    names = pa.array(sorted(_items_of(data)))
    columns = {"item_id": names, "categories": pa.array([["news"]] * len(names))}
    tables = {
        "items": pa.table([columns.get(f.name, pa.nulls(len(names), f.type)) for f in ITEMS], schema=ITEMS),
        "contexts": CONTEXTS.empty_table(),
        "quarantine": QUARANTINE.empty_table(),
        "rejected": REJECTED.empty_table(),
    }
    for name, table in tables.items():
        (data / name).mkdir(parents=True, exist_ok=True)
        pq.write_table(table, data / name / f"{name}.parquet")
    if not (data / "interactions").exists():
        (data / "interactions").symlink_to("validated_interactions")


def _items_of(data: Path) -> set[str]:
    files = sorted((data / "validated_interactions").iterdir())
    return {item for file in files for item in pq.read_table(file, columns=["item_id"])["item_id"].unique().to_pylist()}


def _run_apart(which: str, data: Path) -> dict[str, Any]:
    """Run one of the two in its own process, including the start; the kernel's figures of its cost."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.histories", "--once", which, str(data)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout as printed:
        said = printed.read()
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = status
    if status:
        raise SystemExit(f"{which} failed over {data}: exit status {os.waitstatus_to_exitcode(status)}")
    return {
        "wall_s": round(time.perf_counter() - began, 1),
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "peak_mb": round(int(said.split()[-2]) * 1024 / 1e6),
    }


def _same(data: Path, sql: Path) -> None:
    """Raise if the SQL's output differs."""
    for name in (*ARRAYS, "offsets"):
        ours, theirs = (np.load(folder / f"{name}.npy", mmap_mode="r") for folder in (data / "user_histories", sql))
        if not np.array_equal(ours, theirs):
            raise SystemExit(f"{name}: ours and the SQL's differ.")
    for name in ("request_index", "user_index", "item_index", "end_offset", "label", "occurred_at"):
        files = (folder / "impressions.parquet" for folder in (data / "impressions", sql))
        made, wanted = (pq.read_table(file, columns=[name])[name] for file in files)
        if not made.equals(wanted.cast(made.type)):
            raise SystemExit(f"impressions' {name}: ours and the SQL's differ.")


if __name__ == "__main__":
    main()
