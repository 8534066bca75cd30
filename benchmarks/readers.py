"""A seeded log of millions of rows -> the memory of those who read some of its requests, beside reading all of them.

`python -m benchmarks.readers --rows 4000000`: a log goes through histories and statistics; then each case, in a process
of its own, reads requests as the proof of `materialize` or as `train` does. `adds_mb` is the peak of the process less
its peak once everything is imported, mapped files included. Writes reports/benchmarks/readers.json and .md.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.scale import NUM_DAYS, NUM_ITEMS, ROWS_A_USER, write_log
from benchmarks.table import write_table
from contracts.params import PARAMS, load_params
from contracts.publish import write_json
from features.encoding.asked import Context
from features.encoding.stored_requests import NAMES, ROWS, StoredRequests, ranges, read_rows
from features.online.offline_log import OfflineLog
from features.stages import histories, statistics
from training.requests.reader import load_bare_requests, load_events, load_requests, with_candidates

ROOT = Path(__file__).parents[1]
COMPARED, TRAINED = 2_000, 20_000


def main() -> None:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readers", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the temporary log is written")
    parser.add_argument("--reports", type=Path, default=ROOT / "reports" / "benchmarks")
    parser.add_argument("--once", nargs=2, metavar=("CASE", "DATA"), help="run a case over DATA and print its figures")
    options = parser.parse_args()
    if options.once:
        print(json.dumps(run_here(options.once[0], Path(options.once[1]))))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as root:
        rows = measure(Path(root, "data", "table"), options.rows)
    about = {
        "log": f"{options.rows:,} rows, {NUM_DAYS} partitions, lists of 5, {ROWS_A_USER} rows a user; seed 0",
        "load": f"{os.getloadavg()[1]:.1f} processes wanted to run, mean of the last 5 minutes",
    }
    options.reports.mkdir(parents=True, exist_ok=True)
    print(write_table(options.reports, "readers", about, rows))


def measure(data: Path, num_rows: int) -> list[dict[str, Any]]:
    """One row a case."""
    write_log(data, num_rows, NUM_DAYS, max(2, num_rows // ROWS_A_USER), NUM_ITEMS)
    write_json(data / "absorbed" / "absorbed.json", {})
    params, found = load_params(ROOT / PARAMS), []
    histories.run(data, params["request"], params["history"])
    statistics.run(data, params["statistics"])
    for case in CASES:
        command = [sys.executable, "-m", "benchmarks.readers", "--once", case, str(data)]
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        found.append({"case": case, **json.loads(done.stdout.splitlines()[-1])})
    return found


def run_here(case: str, data: Path) -> dict[str, Any]:
    """Run a case in this process."""
    before, began = _peak(), _cpu_s()
    read = CASES[case](data)
    return {"requests": read, "adds_mb": round((_peak() - before) / 1e6, 1), "cpu_s": round(_cpu_s() - began, 2)}


def compared(data: Path) -> int:
    """What `materialize` opens, and the requests that it compares."""
    return len(list(OfflineLog.open(data).requests(_spread(data, COMPARED))))


def chosen(data: Path) -> int:
    """The part of it that is requests; the rest are counters of items, which are built first."""
    stored, places = StoredRequests.read(data), _spread(data, COMPARED)
    rows, _ = ranges(stored.row_starts[places], stored.row_starts[places + 1])
    read_rows(data / ROWS, ["item_index"], rows)
    return len(read_rows(data / NAMES, list(Context._fields), places))


def trained(data: Path) -> int:
    """What `train` reads before it takes counters."""
    return len(with_candidates(data, load_bare_requests(data, load_events(data)).take(_spread(data, TRAINED))))


def every(data: Path) -> int:
    """All requests with their candidates."""
    return len(load_requests(data, load_events(data)))


CASES: dict[str, Callable[[Path], int]] = {
    "the proof's log, 2,000 requests": compared,
    "of it the requests": chosen,
    "train, 20,000 requests": trained,
    "all requests": every,
}


def _spread(data: Path, number: int) -> np.ndarray:
    num = pq.read_metadata(data / NAMES).num_rows
    return np.unique(np.linspace(0, num - 1, min(number, num)).astype(np.int64))


def _peak() -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _cpu_s() -> float:
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return spent.ru_utime + spent.ru_stime


if __name__ == "__main__":
    main()
