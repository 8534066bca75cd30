"""A seeded table of 30 days -> the cost of ingest and validate, compared with the same rules in pandas.

`python -m benchmarks.arrivals --rows 1000000` measures for each size, each in a process of its own: pandas, and ingest
and validate with an empty cache, without new data, and with one new day. It writes benchmarks/results/arrivals.json.
`--without-pandas` is for sizes that pandas cannot hold in memory. Each process imports what its case needs.
"""
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportCallIssue=false

import argparse
import json
import os
import re
import resource
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

from contracts.known_hashes import remembering
from contracts.params import PARAMS, load_params
from contracts.publish import write_json
from features.tables.connection import memory_mb, num_threads
from features.terms.params import ColumnParams, SourceParams, ValidateParams
from features.terms.rules import CONTROL_CHARACTERS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "arrivals.json"
NUM_DAYS, NUM_ITEMS, ROWS_A_USER = 30, 50_000, 50
COLUMNS = {"user_id": "user", "item_id": "item", "occurred_at": "at", "label": "click", "impression_id": "request"}
LIMITS = {"cpu_of_pandas": 3.0, "peak_mb": 2000.0, "day_more_of_all": 0.15}


def main() -> None:
    """Measure, print the figures and write them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.arrivals", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--once", nargs=2, metavar=("STAGE", "ROOT"), help="run one of them and print its figures")
    parser.add_argument("--without-pandas", action="store_true", help="ours alone")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.once:
        print(json.dumps(run_here(options.once[0], Path(options.once[1]))))
        return
    sizes = {}
    for num_rows in options.rows:
        with tempfile.TemporaryDirectory() as root:
            sizes[str(num_rows)] = measure(Path(root), num_rows, not options.without_pandas)
        print(json.dumps(sizes[str(num_rows)], indent=2))
    engine = f"{num_threads()} DuckDB threads, its memory_limit {memory_mb()} MB"
    load = f"{os.getloadavg()[1]:.1f} processes wanted to run, mean of the last 5 minutes"
    write_json(options.results, {"rows": sizes, "limits": LIMITS, "engine": engine, "load": load})


def measure(root: Path, num_rows: int, beside_pandas: bool) -> dict[str, Any]:
    """CPU seconds, wall seconds and peak megabytes of each case, and their ratios."""
    each = num_rows // NUM_DAYS
    for day in range(NUM_DAYS):
        write_file(root, day, each)
    cases = {"pandas": run_apart("pandas", root)} if beside_pandas else {}
    for case in ("all", "nothing new", "a day more"):
        if case == "a day more":
            write_file(root, NUM_DAYS, each)
        cases |= {f"{stage}, {case}": run_apart(stage, root) for stage in ("ingest", "validate")}
    spent = {
        case: cases[f"ingest, {case}"]["cpu_s"] + cases[f"validate, {case}"]["cpu_s"] for case in ("all", "a day more")
    }
    ratios = {
        "cpu_of_pandas": round(spent["all"] / cases["pandas"]["cpu_s"], 2) if beside_pandas else None,
        "day_more_of_all": round(spent["a day more"] / spent["all"], 3),
        "peak_mb": max(each["peak_mb"] for case, each in cases.items() if case != "pandas"),
        "rows_per_cpu_s": round(num_rows / spent["all"]),
    }
    return {"cases": cases, "ratios": ratios}


def write_file(root: Path, day: int, num_rows: int) -> None:
    """Write one day as a user's table: one row in a thousand is repeated, and one in a thousand has no item."""
    from benchmarks.statistics import write_day

    scratch = root / "made"
    write_day(scratch, day, num_rows, max(num_rows * NUM_DAYS // ROWS_A_USER, 2), NUM_ITEMS)
    (path,) = (scratch / "validated_interactions").iterdir()
    table = pq.read_table(path, columns=list(COLUMNS)).rename_columns(list(COLUMNS.values()))
    shutil.rmtree(scratch)
    random = np.random.default_rng([1, day])
    lost = pa.array(random.random(len(table)) < 0.001)
    item = pa.chunked_array([pa.array(np.where(lost, None, table["item"].to_numpy()), pa.string())])
    table = table.set_column(table.column_names.index("item"), "item", item)
    table = pa.concat_tables([table, table.take(pa.array(random.integers(len(table), size=num_rows // 1000)))])
    (root / "log").mkdir(exist_ok=True)
    pq.write_table(table, root / "log" / f"{day:03}.parquet", compression="zstd")


def run_apart(stage: str, root: Path) -> dict[str, float]:
    """Run one stage in a process of its own; its start is included."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.arrivals", "--once", stage, str(root)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return {"wall_s": round(time.perf_counter() - began, 2), **json.loads(done.stdout.splitlines()[-1])}


def run_here(stage: str, root: Path) -> dict[str, float]:
    """Run one stage, or pandas, in this process; returns what it cost."""
    with remembering(root):  # as whatever runs a stage does
        _run(stage, root)
    spent = resource.getrusage(resource.RUSAGE_SELF)
    # not ru_maxrss, which a process inherits from its parent
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return {"cpu_s": round(spent.ru_utime + spent.ru_stime, 2), "peak_mb": round(int(peak.split()[1]) * 1024 / 1e6, 1)}


def _run(stage: str, root: Path) -> None:
    params = load_params(ROOT / PARAMS)
    data = root / "data" / "table"
    if stage == "ingest":
        from features.stages import ingest

        columns = ColumnParams.model_validate(dict.fromkeys(ColumnParams.model_fields) | COLUMNS)
        changes = {"name": "table", "id": "table", "path": str(root / "log"), "columns": columns}
        changes |= {"time_unit": "iso", "partition": "day"}  # whatever the user's params.yaml says
        ingest.run(data, 1, params["simulator"], SourceParams.model_validate(dict(params["source"]) | changes))
    elif stage == "validate":
        from features.stages import validate

        validate.run(data, params["validate"], params["expectations"])
    else:
        by_hand(root / "log", root / "by_hand", params["validate"])


def by_hand(log: Path, out: Path, limits: ValidateParams) -> None:
    """The rules as an analyst would write them in pandas: bad rows to quarantine, no repeated rows, the rest by day."""
    import pandas as pd

    table = pd.concat([pd.read_parquet(path) for path in sorted(log.iterdir())], ignore_index=True)
    reason = pd.Series(pd.NA, index=table.index, dtype="object")
    shared = table.groupby("request")["user"].nunique()
    tests = {
        "impression of several users": table["request"].isin(shared[shared > 1].index),
        "label outside 0 to 1": ~table["click"].between(0, 1),
        "outside the limits": ~table["at"].between(limits.earliest, limits.latest),
    }
    for name in ("user", "item"):
        tests[f"{name} has control characters"] = table[name].str.contains(re.compile(CONTROL_CHARACTERS), na=False)
        tests[f"{name} too long"] = table[name].str.len() > limits.max_id_length
    tests |= {f"{name} missing": table[name].isna() for name in ("user", "item", "at", "click")}
    for why, bad in tests.items():
        reason[bad] = why
    is_bad = reason.notna()
    valid = table[~is_bad].drop_duplicates(["user", "item", "at", "click", "request"]).sort_values("at", kind="stable")
    out.mkdir(exist_ok=True)
    table[is_bad].assign(reason=reason[is_bad]).to_parquet(out / "quarantine.parquet")
    for day, rows in valid.groupby(valid["at"].dt.date, sort=False):
        rows.to_parquet(out / f"{day}.parquet", compression="zstd")


if __name__ == "__main__":
    main()
