"""Seeded logs of two sizes -> the cost of each stage per row, of a read from the online store, and of an embedding row.

`python -m benchmarks.slopes --rows 500000 2000000` runs each stage over each log in a process of its own (CPU seconds,
peak memory, bytes of its outs), loads users into a Redis server of its own and reads them (bytes and commands per
read), and takes a training step on an embedding table (bytes per row). `--only` measures one of the three and leaves
the other results as they are. `python -m benchmarks.capacity` reads the result, benchmarks/results/slopes.json.
"""

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import redis
import torch

from benchmarks import arrivals
from benchmarks.online_memory import snapshot_beside_redis
from benchmarks.table import command, hardware, markdown
from contracts.params import PARAMS, load_params
from contracts.publish import write_json
from features.live.places import state_of
from features.online.load import load
from features.online.store import OnlineStore
from features.stages import audit, histories, statistics
from training.fitting.optimizers import choose_sparse, make_optimizer

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "slopes.json"
STAGES = {
    "ingest": ("interactions", "items", "rejected", "provenance"),
    "validate": ("validated_interactions", "quarantine", "profile"),
    "histories": ("user_histories", "impressions", "sessions", "ledger"),
    "statistics": ("item_counters", "user_counters", "user_item_counters", "coclicks"),
    "audit": ("shift_audit",),
}
"""The stages to measure, and the outs of each."""
NUM_ITEMS = 5_000
PARTS = ("stages", "reads", "tables")


def main() -> None:
    """Measure, print the tables and write them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slopes", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[500_000, 2_000_000], help="two sizes")
    parser.add_argument("--users", type=int, default=500, help="users to load and read")
    parser.add_argument("--table", type=int, default=200_000, help="rows of the embedding table")
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--once", nargs=2, metavar=("STAGE", "ROOT"), help="run one and print its figures")
    options = parser.parse_args()
    if options.once:
        print(json.dumps(run_here(options.once[0], Path(options.once[1]))))
        return
    logging.getLogger("leitmotif").setLevel(logging.ERROR)
    results = json.loads(options.result.read_text(encoding="utf-8")) if options.result.is_file() else {}
    for part in [options.only] if options.only else PARTS:
        rows = measured(part, options)
        about = {"command": command(), "hardware": hardware(), "load": round(os.getloadavg()[1], 1)}
        results[part] = {**about, "rows": rows}
        write_json(options.result, results)
        print(markdown(rows), flush=True)


def measured(part: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one of the three tables."""
    if part == "tables":
        return [step_table(options.table, optimizer) for optimizer in ("dense", "sparse")]
    if part == "reads":
        return [read_users(options.users, events) for events in (50, 500)]
    rows = []
    for num_rows in options.rows:
        with tempfile.TemporaryDirectory() as root:
            rows += measure(Path(root), num_rows)
    return rows


def measure(root: Path, num_rows: int) -> list[dict[str, Any]]:
    """Run every stage over one log; returns a row of figures for each."""
    for day in range(arrivals.NUM_DAYS):
        arrivals.write_file(root, day, num_rows // arrivals.NUM_DAYS)
    data, found = root / "data" / "table", []
    for stage, outs in STAGES.items():
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.slopes", "--once", stage, str(root)],
            cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        files = [path for out in outs for path in (data / out).rglob("*") if path.is_file()]
        spent = json.loads(done.stdout.splitlines()[-1])
        found.append({"stage": stage, "rows": num_rows, **spent, "bytes": sum(path.stat().st_size for path in files)})
    return found


def run_here(stage: str, root: Path) -> dict[str, float]:
    """Run one stage in this process with the project's params; returns what it cost."""
    if stage in ("ingest", "validate"):
        return arrivals.run_here(stage, root)
    params, data = load_params(ROOT / PARAMS), root / "data" / "table"
    if stage == "histories":
        histories.run(data, params["request"], params["history"])
    elif stage == "statistics":
        statistics.run(data, params["statistics"])
    else:
        audit.run(data, params["audit"])
    spent = resource.getrusage(resource.RUSAGE_SELF)
    # not ru_maxrss, which a process inherits from its parent
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return {"cpu_s": round(spent.ru_utime + spent.ru_stime, 2), "peak_mb": round(int(peak.split()[1]) * 1024 / 1e6, 1)}


def read_users(num_users: int, events: int) -> dict[str, Any]:
    """Bytes and commands of Redis for one read of a user whose history has `events` events."""
    with snapshot_beside_redis(num_users, events, NUM_ITEMS) as (data, port):
        load(data, state_of(data))
        store = OnlineStore.open(state_of(data))
        client: Any = redis.Redis(port=port)  # Any: redis-py types each answer as possibly awaitable
        users = list(store.user_ids(""))
        with client:
            before = client.info("stats")
            for user in users:
                store.read(user)
            after = client.info("stats")
        store.tail.close()
    sent, asked = (after[name] - before[name] for name in ("total_net_output_bytes", "total_commands_processed"))
    return {
        "events_a_user": events,
        "reads": len(users),
        "bytes_a_read": round(sent / len(users)),
        "commands_a_read": round(asked / len(users), 2),
    }


def step_table(num_rows: int, optimizer: str) -> dict[str, Any]:
    """Memory of training per row of an embedding table after a step: weights, gradient, optimizer state."""
    width = load_params(ROOT / PARAMS)["model"].width
    model = torch.nn.Sequential(torch.nn.Embedding(num_rows, width), torch.nn.Linear(width, 1))
    choose_sparse(model, optimizer)
    stepper = make_optimizer(model, 0.01)
    model(torch.arange(0, num_rows, 7)).sum().backward()
    stepper.step()
    table = next(model.parameters())
    assert table.grad is not None
    gradient = 0 if table.grad.is_sparse else table.grad.nbytes  # a sparse gradient covers only the rows of the batch
    return {
        "optimizer": optimizer,
        "rows": num_rows,
        "width": width,
        "bytes_a_row": round((table.nbytes + gradient + _state_bytes(stepper, table)) / num_rows, 1),
    }


def _state_bytes(stepper: torch.optim.Optimizer, table: torch.nn.Parameter) -> int:
    """Bytes of the optimizer's state for the table."""
    state = getattr(stepper, "rows", stepper).state[table]
    return sum(value.nbytes for value in state.values() if torch.is_tensor(value) and value.ndim)


if __name__ == "__main__":
    main()
