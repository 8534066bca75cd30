"""A seeded log of a million rows or more -> what its snapshot costs by units, in one process and on Spark.

`python -m benchmarks.snapshot --rows 1000000`: a log goes through histories and statistics, and each engine, in a
process of its own, writes the snapshot; the files' bytes are compared. CPU and memory are those of the process and all
that it starts. Loads and the proof of `materialize` are not in it. Writes reports/benchmarks/snapshot.json and .md.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.scale import NUM_DAYS, NUM_ITEMS, ROWS_A_USER, digest, watched, write_log
from benchmarks.table import write_table
from contracts.params import PARAMS, load_params
from contracts.publish import write_json
from features.engine.engine import running
from features.online.counters_by_user import ROWS_AT_ONCE
from features.online.snapshot import write_snapshot
from features.online.snapshot_parts import ROWS_OF_UNIT
from features.stages import histories, statistics
from features.tables.histories import UserHistories
from features.terms.params import EngineParams

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.snapshot", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--engines", nargs="+", choices=["duckdb", "spark"], default=["duckdb", "spark"])
    parser.add_argument("--master", default="local[2]", help="Spark's master, on this machine")
    parser.add_argument("--folder", type=Path, help="where the temporary logs are written")
    parser.add_argument("--reports", type=Path, default=ROOT / "reports" / "benchmarks")
    parser.add_argument("--once", nargs=3, metavar=("ENGINE", "DATA", "FOLDER"), help="write the snapshot of DATA")
    options = parser.parse_args()
    if options.once:
        engine, data, folder = options.once
        params = EngineParams(name=engine, master=options.master if engine == "spark" else "", options={})
        write(Path(data), Path(folder), params)
        return
    rows = [row for num in options.rows for row in measure(num, options)]
    about = {
        "log": f"{NUM_DAYS} partitions, {ROWS_A_USER} rows a user, users and items by Zipf; seed 0",
        "unit": f"{ROWS_OF_UNIT:,} events or counts, of which {ROWS_AT_ONCE:,} counts are in memory at a time",
        "spark": options.master,
        "load": f"{os.getloadavg()[1]:.1f} processes wanted to run, mean of the last 5 minutes",
    }
    options.reports.mkdir(parents=True, exist_ok=True)
    print(write_table(options.reports, "snapshot", about, rows))


def measure(num_rows: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One row an engine. Exits if the engines wrote different files."""
    found, written = [], set()
    with tempfile.TemporaryDirectory(dir=options.folder) as root:
        data = Path(root, "data", "table")
        write_log(data, num_rows, NUM_DAYS, max(2, num_rows // ROWS_A_USER), NUM_ITEMS)
        write_json(data / "absorbed" / "absorbed.json", {})
        params = load_params(ROOT / PARAMS)
        histories.run(data, params["request"], params["history"])
        statistics.run(data, params["statistics"])
        for engine in options.engines:
            folder = Path(root, engine)
            folder.mkdir()
            command = [sys.executable, "-m", "benchmarks.snapshot", "--master", options.master]
            cost = watched([*command, "--once", engine, str(data), str(folder)])
            found.append({"rows": num_rows, "engine": engine, **cost})
            written.add(digest(folder))
    if len(written) > 1:
        raise SystemExit(f"The engines wrote different snapshots of {num_rows:,} rows.")
    return found


def write(data: Path, folder: Path, engine: EngineParams) -> None:
    """Write the snapshot with the project's params."""
    params = load_params(ROOT / PARAMS)
    stored = UserHistories.open(data / "user_histories")
    with running(engine, folder) as runner:
        write_snapshot(data, stored, params["history"].max_length, {}, folder, runner)


if __name__ == "__main__":
    main()
