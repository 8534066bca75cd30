"""A seeded log of a million rows or more -> the cost of validate, histories and statistics on DuckDB and on Spark.

`python -m benchmarks.scale --rows 1000000 10000000` runs the stages for each size and engine, each in a process of its
own with an empty cache. It measures wall and CPU seconds and peak memory of the process and all that it starts (the JVM
and its Python workers too), and checks that both engines write the same bytes.
It writes reports/benchmarks/scale.json and .md; with `--results` also benchmarks/results/scale.json.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import spark_events
from benchmarks.histories import surround
from benchmarks.moved import counting
from benchmarks.statistics import write_day
from benchmarks.table import write_table
from contracts.params import PARAMS, load_params
from contracts.publish import write_json
from contracts.schema import PROVENANCE
from features.stages import histories, statistics, validate
from features.tables.connection import memory_mb, num_threads
from features.terms.params import EngineParams

ROOT = Path(__file__).parents[1]
NUM_DAYS = 30
ROWS_A_USER = 50
NUM_ITEMS = 50_000
STAGES = ("validate", "histories", "statistics")
OUTS = (*validate.OUTS, *histories.OUTS, *statistics.TABLES)
SAMPLE_S = 0.25
MB = 1e6
SPILL = "duckdb_temp_"
"""What the names of DuckDB's temporary files begin with."""
MOVED = "moved.json"
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--engines", nargs="+", choices=["duckdb", "spark"], default=["duckdb", "spark"])
    parser.add_argument("--master", default=f"local[{num_threads()}]", help="Spark's master, on this machine")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--folder", type=Path, help="where the temporary logs are written")
    parser.add_argument("--reports", type=Path, default=ROOT / "reports" / "benchmarks")
    parser.add_argument("--results", action="store_true", help="write benchmarks/results/scale.json too")
    names = ("ENGINE", "STAGE", "DATA", "SCRATCH")
    parser.add_argument("--once", nargs=4, metavar=names, help="run one stage over DATA; figures go to SCRATCH")
    options = parser.parse_args()
    if options.once:
        engine, stage, data, scratch = options.once
        run_here(engine, stage, Path(data), options.master, Path(scratch))
        return
    rows = [row for num in options.rows for row in measure(num, options)]
    about = {
        "log": f"{NUM_DAYS} partitions, lists of 5, {ROWS_A_USER} rows a user, users and items by Zipf; seed 0",
        "memory": "the sum of the proportional set sizes (PSS) of all processes, mapped files included",
        "shuffle": "shuffle_mb (written) and spilled_mb: Spark's own, the sums over its tasks in its event log",
        "files": "unit_ and driver_: bytes of read and write calls, of units and beside them, without mapped files",
        "spill": f"duckdb_tmp_mb: the most that temporary files of DuckDB held, sampled every {SAMPLE_S} s",
        "spark": f"{options.master}; DuckDB alone has {num_threads()} threads and {memory_mb()} MB",
        "load": f"{os.getloadavg()[1]:.1f} processes wanted to run, mean of the last 5 minutes",
    }
    options.reports.mkdir(parents=True, exist_ok=True)
    print(write_table(options.reports, "scale", about, rows))
    if options.results:
        result = json.loads((options.reports / "scale.json").read_text(encoding="utf-8"))
        write_json(ROOT / "benchmarks" / "results" / "scale.json", result)


def write_log(data: Path, num_rows: int, num_days: int, num_users: int, num_items: int) -> None:
    """Write a log without bad rows, in the form that ingest and validate leave it."""
    for day in range(num_days):
        write_day(data, day, num_rows // num_days, num_users, num_items)
    valid, read = data / "validated_interactions", data / "interactions"
    read.mkdir()
    for path in sorted(valid.iterdir()):
        os.link(path, read / path.name)  # safe: validate replaces its outs and does not write into them
    surround(data)
    names = pa.concat_tables([pq.read_table(path, columns=["event_id"]) for path in sorted(read.iterdir())])["event_id"]
    columns = {"event_id": names, "file": pa.repeat("log", len(names)), "line": pa.array(range(len(names)))}
    (data / "provenance").mkdir()
    table = pa.table([columns[field.name].cast(field.type) for field in PROVENANCE], schema=PROVENANCE)
    pq.write_table(table, data / "provenance" / "provenance.parquet")


def measure(num_rows: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row of figures per engine and stage. Exits if the engines' outs differ."""
    found, outs = [], {}
    with tempfile.TemporaryDirectory(dir=options.folder) as root:
        for engine in options.engines:
            data = Path(root, engine, "data", "table")
            write_log(data, num_rows, NUM_DAYS, max(2, num_rows // ROWS_A_USER), NUM_ITEMS)
            for stage in options.stages:
                scratch = Path(root, engine, stage)
                command = [sys.executable, "-m", "benchmarks.scale", "--master", options.master]
                cost = watched([*command, "--once", engine, stage, str(data), str(scratch)], Path(root))
                moved = json.loads((scratch / MOVED).read_text(encoding="utf-8"))
                found.append({"rows": num_rows, "engine": engine, "stage": stage, **cost, **moved})
            outs[engine] = [digest(data / out) for out in OUTS]
    if len(set(map(tuple, outs.values()))) > 1:
        raise SystemExit(f"The engines wrote different outs for {num_rows:,} rows: {outs}")
    return found


def run_here(engine: str, stage: str, data: Path, master: str, scratch: Path) -> None:
    """Run one stage in this process with the project's params; write what it moved into scratch."""
    params, on_spark = load_params(ROOT / PARAMS), engine == "spark"
    (events := scratch / "events").mkdir(parents=True)
    options = spark_events.settings(events) if on_spark else {}
    runs_on = EngineParams(name="spark" if on_spark else "duckdb", master=master, options=options)
    with counting() as moved:
        if stage == "validate":
            validate.run(data, params["validate"], params["expectations"], runs_on)
        elif stage == "statistics":
            statistics.run(data, params["statistics"], runs_on)
        else:
            histories.run(data, params["request"], params["history"], runs_on)
    counted = spark_events.counted(events)
    if on_spark and counted["tasks"] < moved.units:
        raise SystemExit(f"Spark's event log in {events} has {counted['tasks']} tasks of {moved.units} units.")
    found = {
        "units": moved.units,
        "shuffle_mb": _mb(counted["shuffle_written"]) if on_spark else None,
        "spilled_mb": _mb(counted["spilled"]) if on_spark else None,
        "unit_read_mb": _mb(moved.read),
        "unit_written_mb": _mb(moved.written),
        "driver_read_mb": _mb(moved.driver_read),
        "driver_written_mb": _mb(moved.driver_written),
    }
    write_json(scratch / MOVED, found)


def _mb(num: int) -> float:
    return round(num / MB, 1)


def digest(folder: Path) -> str:
    """A hash of the files of an out."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")) if folder.exists() else ():
        if path.is_file():
            with path.open("rb") as file:
                found.update(f"{path.relative_to(folder)} {hashlib.file_digest(file, 'sha256').hexdigest()}".encode())
    return found.hexdigest()


def watched(command: list[str], folder: Path | None = None) -> dict[str, Any]:
    """Run a command; returns the time and memory of it and its descendants, sampled every SAMPLE_S.

    folder: holds the command's temporary files; the most that DuckDB's held is returned too.
    """
    began, ticks, peak, spilled = time.perf_counter(), dict[int, int](), 0, 0
    environment = os.environ | ({"TMPDIR": str(folder)} if folder else {})
    child = subprocess.Popen(command, cwd=ROOT, env=environment)
    while child.poll() is None:
        pids = _family(child.pid)
        for pid in pids:
            ticks[pid] = max(ticks.get(pid, 0), _ticks(pid))
        peak = max(peak, sum(map(_pss, pids)))
        spilled = max(spilled, spilled_bytes(folder)) if folder else 0
        time.sleep(SAMPLE_S)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} failed: exit status {child.returncode}")
    wall, cpu = time.perf_counter() - began, sum(ticks.values()) / TICKS
    cost = {"wall_s": round(wall, 1), "cpu_s": round(cpu, 1), "peak_mb": round(peak / MB)}
    return cost | ({"duckdb_tmp_mb": _mb(spilled)} if folder else {})


def spilled_bytes(folder: Path) -> int:
    """Bytes on disk of DuckDB's temporary files, which may vanish meanwhile."""
    found = 0
    for inner, _, names in os.walk(folder):
        for name in names:
            if name.startswith(SPILL):
                with suppress(OSError):
                    found += os.stat(os.path.join(inner, name)).st_blocks * 512
    return found


def _family(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for parent in found:
        for path in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(each) for each in _text(path).split()]
    return found


def _ticks(pid: int) -> int:
    fields = _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12]) if fields else 0


def _pss(pid: int) -> int:
    lines = _text(Path(f"/proc/{pid}/smaps_rollup")).splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:  # the process has ended
        return ""


if __name__ == "__main__":
    main()
