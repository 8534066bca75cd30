"""The bundle and online state of this machine -> latency of a ranking, in process and over HTTP, and ratios.

`python -m benchmarks.serving`: starts the real server on a free port. Absolute times belong to the machine; the ratios
are of one run, its cases interleaved.
"""

import argparse
import json
import os
import socket
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
import torch

from features.live.open_tail import live_path
from serving.answering.predictor import Predictor, open_here
from serving.answering.requests import RankRequest
from serving.bundle.manifest import read_manifest
from serving.bundle.scorer import NO_EVENTS
from serving.locations import find_bundle, find_state
from training.model.batch import Candidates, History, to_candidates, to_history

START_LIMIT_S = 400
WARM_UP = 30


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--users", nargs="*", default=None, help="default: users of the golden requests")
    options = parser.parse_args()
    predictor = open_here()
    bodies = draw_requests(predictor, options.users, options.candidates, options.requests)
    with server() as client:
        cases = {
            "in_process": lambda body: predictor.rank(RankRequest.model_validate(body)),
            "user_side_per_candidate": lambda body: rank_repeating_the_user_side(predictor, body),
            "http": lambda body: client.post("/rank", json=body).raise_for_status(),
            "http_floor": lambda _: client.get("/livez").raise_for_status(),
        }
        timings = measure(cases, bodies)
    report: dict[str, Any] = {name: summarise(times) for name, times in timings.items()}
    p50 = {name: figures["p50_ms"] for name, figures in report.items()}
    report["ratios_of_p50"] = {
        "http_over_in_process": round(p50["http"] / p50["in_process"], 2),
        "user_side_per_candidate_over_once": round(p50["user_side_per_candidate"] / p50["in_process"], 2),
    }
    lengths = [len((predictor.events(body["user_id"]) or NO_EVENTS).item_ids) for body in bodies]
    report["setting"] = {
        "candidates": len(bodies[0]["candidates"]),
        "requests": len(bodies),
        "median_history": statistics.median(lengths),
        "model_version": predictor.bundle.manifest.model_version,
        "history_length": predictor.bundle.scorer.spec.history_length,
        "device": str(predictor.bundle.scorer.device),
        "torch_threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
    }
    print(json.dumps(report, indent=2))


def draw_requests(predictor: Predictor, users: list[str] | None, num_candidates: int, num: int) -> list[dict]:
    """Known users in turn, each with items of the catalogue drawn at random, seeded. Nothing is logged as shown."""
    users = users or sorted({golden.user_id for golden in predictor.bundle.golden})
    items = sorted(predictor.bundle.scorer.index_of)
    rng = np.random.default_rng(0)
    size = min(num_candidates, len(items))
    return [
        {
            "user_id": users[n % len(users)],
            "candidates": [items[row] for row in rng.choice(len(items), size, False)],
            "preview": True,
        }
        for n in range(num)
    ]


def rank_repeating_the_user_side(predictor: Predictor, body: dict) -> None:
    """The cost of not sharing the user's side: it is computed for each candidate, all in one batch."""
    scorer, at = predictor.bundle.scorer, predictor.clock()
    events = predictor.events(body["user_id"]) or NO_EVENTS
    encoded = scorer.encode(events, at)
    num = len(body["candidates"])
    repeated = to_history({name: np.repeat(value, num, axis=0) for name, value in vars(encoded).items()})
    scalars = predictor.scalars(body["user_id"], events, body["candidates"], at)
    with torch.inference_mode():
        candidates = to_candidates(scorer.item_index(body["candidates"]), np.arange(num), scalars)
        state = scorer.model.user_side(History(*(column.to(scorer.device) for column in repeated)), scorer.tables)
        wanted = Candidates(*(column.to(scorer.device) for column in candidates))
        scorer.model.score(state, wanted, scorer.tables).cpu()


def measure(cases: dict[str, Callable[[dict], object]], bodies: list[dict]) -> dict[str, list[float]]:
    """Milliseconds of each case for each body; cases take turns, so that a busy machine slows all alike."""
    for body in bodies[:WARM_UP]:
        for case in cases.values():
            case(body)
    timings: dict[str, list[float]] = {name: [] for name in cases}
    for body in bodies:
        for name, case in cases.items():
            began = time.perf_counter()
            case(body)
            timings[name].append(1e3 * (time.perf_counter() - began))
    return timings


def summarise(times: list[float]) -> dict[str, float]:
    """Percentiles, in ms."""
    names = {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99, "max_ms": 100}
    return {name: round(float(np.percentile(times, q)), 3) for name, q in names.items()}


def copied_live(folder: Path) -> Path:
    """A copy of this machine's live events, for servers that must not change them.

    By SQLite: a process that opens the file by itself loses its locks on it when it closes that, and the next one to
    end then takes the WAL away.
    """
    source, live = live_path(find_state(read_manifest(find_bundle()).source)), folder / "live.db"
    with closing(sqlite3.connect(source)) as held, closing(sqlite3.connect(live)) as made:
        held.backup(made)
    return live


@contextmanager
def server(**environment: str) -> Iterator[httpx.Client]:
    """`bentoml serve` on a free loopback port, until it is ready; ended afterwards. Several may run at a time."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["bentoml", "serve", "serving.service:Leitmotif", "--host", "127.0.0.1", "--port", str(port)]
    command[0] = os.path.join(os.path.dirname(sys.executable), "bentoml")
    with TemporaryDirectory(prefix="bentoml-") as home:  # BentoML deletes the metrics of other servers of its home
        told = os.environ | {"BENTOML_HOME": home} | environment
        process = subprocess.Popen(command, env=told, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                wait_until_ready(process, client)
                yield client
        finally:
            process.terminate()
            process.wait(120)


def wait_until_ready(process: subprocess.Popen, client: httpx.Client, path: str = "/readyz") -> None:
    """Return when the path answers; raise where the server has ended or takes too long."""
    limit = time.monotonic() + START_LIMIT_S
    while time.monotonic() < limit:
        if process.poll() is not None:
            raise SystemExit(f"The server ended with {process.returncode}; `make serve` shows why.")
        try:
            if client.get(path).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"The server was not ready after {START_LIMIT_S} s.")


if __name__ == "__main__":
    main()
