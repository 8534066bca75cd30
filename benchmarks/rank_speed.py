"""The bundle and online state of this machine -> `/rank` of the service beside plain FastAPI and uvicorn, in one run.

`python -m benchmarks.rank_speed`: both servers are started on free ports, one worker each, over a copy of this
machine's live events. Requests have 100 candidates, and users the longest histories of the store; cases take turns in
blocks, so that a busy machine slows all alike. Besides wall time each case has the CPU time of the process that
answers, which other programs disturb less. Then 16 clients ask as fast as they are answered, and twice as many: those
who are refused wait a little, or ask again at once. These loads take turns too, also of a service of more workers.
Writes benchmarks/results/rank_speed.json.
"""

import argparse
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import httpx
import numpy as np
import psutil

from benchmarks.serving import copied_live, server, wait_until_ready
from benchmarks.soak import workers_of
from benchmarks.table import command, hardware
from contracts.publish import write_json
from features.live.open_tail import ENGINE_VARIABLE, LIVE_VARIABLE
from serving.answering.predictor import Predictor, open_here
from serving.answering.requests import RankRequest

RESULT = Path(__file__).parent / "results" / "rank_speed.json"
BLOCK = 20
"""Requests of one case before the next has its turn."""
WARM_UP = 60
CLIENTS = 16
WAIT_S = 0.05
"""How long a refused client waits, if it waits: less than `retry-after` tells it to."""
PAUSE_MS = 30.0
IDLE_S = 2.0
CANDIDATES = 100

CLIENTS_OF_LOADS = ((1, 0.0), (CLIENTS, WAIT_S), (2 * CLIENTS, WAIT_S), (2 * CLIENTS, 0.0))
"""(clients, seconds that a refused one waits) of each load."""
TURNS = 5

Ask = Callable[[bytes], object]


class Served(NamedTuple):
    """A server: its port, and the processes that answer."""

    port: int
    processes: Sequence[psutil.Process]

    def spent_s(self) -> float:
        """CPU seconds of these processes until now."""
        return sum(map(spent_s, self.processes))


@dataclass
class Load:
    """What became of the requests of some clients."""

    done: Counter[int] = field(default_factory=Counter)
    took_s: float = 0.0
    used_s: float = 0.0

    def row(self, clients: int, wait_s: float) -> dict[str, Any]:
        """Answers per second, and per CPU second of the processes that answer."""
        return {
            "clients": clients,
            "refused_wait_s": wait_s,
            "answers_per_s": round(self.done[200] / self.took_s, 1),
            "answers_per_cpu_s": round(self.done[200] / max(self.used_s, 1e-9), 1),
            "workers_cpu_share": round(self.used_s / self.took_s, 2),
            "statuses": {str(status): count for status, count in sorted(self.done.items())},
        }


class Connection:
    """A kept-alive HTTP/1.1 connection that costs the client little: bytes out, (status, body) in."""

    def __init__(self, port: int, path: str) -> None:
        self._port = port
        self._open()
        self._head = (
            f"{path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: ".encode()
        )

    def _open(self) -> None:
        self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._used_at = time.monotonic()

    def ask(self, body: bytes) -> tuple[int, bytes]:
        """The answer to one request. Servers close a connection that was idle for 5 s: it is opened again before."""
        if time.monotonic() - self._used_at > IDLE_S:
            self._socket.close()
            self._open()
        self._socket.sendall(self._head + str(len(body)).encode() + b"\r\n\r\n" + body)
        told = b""
        while (end := told.find(b"\r\n\r\n")) < 0:
            told += self._more()
        head = told[:end].lower()
        length = int(head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])
        while len(told) < end + 4 + length:
            told += self._more()
        self._used_at = time.monotonic()
        return int(head[9:12]), told[end + 4 :]

    def sure(self, body: bytes) -> bytes:
        """The body of a 200. Raises SystemExit for anything else."""
        status, told = self.ask(body)
        if status != 200:
            raise SystemExit(f"A request was answered with {status}: {told[:300]!r}")
        return told

    def close(self) -> None:
        """Close it."""
        self._socket.close()

    def _more(self) -> bytes:
        if not (some := self._socket.recv(65_536)):
            raise ConnectionError("the server closed the connection")
        return some


def main() -> None:
    """Print one JSON object, and write it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rank_speed", description=__doc__)
    parser.add_argument("--requests", type=int, default=2_000, help="of each case")
    parser.add_argument("--users", type=int, default=400, help="those with the longest histories, in turn")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--workers", type=int, default=2, help="of the second service, for loads; below 2: none")
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    predictor = open_here()
    users = longest(predictor, options.users)
    bodies = list(itertools.islice(drawn(predictor, list(users)), options.requests))
    with TemporaryDirectory(prefix="rank-speed-") as folder:
        own = {LIVE_VARIABLE: str(copied_live(Path(folder))), ENGINE_VARIABLE: "sqlite"}
        with ExitStack() as started:
            client = started.enter_context(server(**own, LEITMOTIF_WORKERS="1"))
            plain_port, plain_process = started.enter_context(plain(own))
            ours = Served(client.base_url.port or 80, workers_of(client))
            theirs = Served(plain_port, [plain_process])
            report = alone(predictor, bodies, ours, theirs)
            asked = {"loads": (ours, CLIENTS_OF_LOADS), "plain_loads": (theirs, CLIENTS_OF_LOADS[1:2])}
            if options.workers > 1:
                more = started.enter_context(server(**own, LEITMOTIF_WORKERS=str(options.workers)))
                many = Served(more.base_url.port or 80, workers_of(more))
                asked[f"loads_of_{options.workers}_workers"] = many, CLIENTS_OF_LOADS
            report |= loads(asked, bodies, options.seconds)
    report["setting"] = {
        "command": command(),
        "at": datetime.now(UTC).isoformat(timespec="minutes"),
        "hardware": hardware(),
        "machine_load": [round(each, 1) for each in os.getloadavg()],
        "candidates": CANDIDATES,
        "users": len(users),
        "history": [min(users.values()), max(users.values())],
        "computes": predictor.info()["computes"],
        "model": f"{predictor.bundle.model} {predictor.bundle.version}",
    }
    write_json(options.result, report)
    print(json.dumps(report, indent=2))


def longest(predictor: Predictor, number: int) -> dict[str, int]:
    """The users of the longest histories, and how long these are."""
    lengths: dict[str, int] = {}
    for user in predictor.store.user_ids(""):
        history = predictor.store.history(user)
        lengths[user] = 0 if history is None else len(history.item_ids)
    return {user: lengths[user] for user in sorted(lengths, key=lambda each: (-lengths[each], each))[:number]}


def drawn(predictor: Predictor, users: Sequence[str]) -> Iterator[bytes]:
    """Bodies of previews, which leave no trace: users in turn, items of the catalogue at random, seeded."""
    items = sorted(predictor.bundle.scorer.index_of)
    draw, size = np.random.default_rng(0), min(CANDIDATES, len(items))
    for user in itertools.cycle(users):
        candidates = [items[row] for row in draw.choice(len(items), size, replace=False)]
        yield json.dumps({"user_id": user, "candidates": candidates, "preview": True}).encode()


@contextmanager
def plain(environment: dict[str, str]) -> Iterator[tuple[int, psutil.Process]]:
    """benchmarks/plain.py on a free port, until it answers; ended afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    asked = [sys.executable, "-m", "benchmarks.plain", str(port)]
    process = subprocess.Popen(asked, env=os.environ | environment)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            wait_until_ready(process, client, "/livez")
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(120)


def alone(predictor: Predictor, bodies: Sequence[bytes], ours: Served, theirs: Served) -> dict[str, Any]:
    """Latency of each case, one request at a time, and the ratios that are asked of the service."""
    (port, (worker,)), (plain_port, (process,)), own = ours, theirs, psutil.Process()

    def in_process(body: bytes) -> None:
        predictor.rank(RankRequest.model_validate_json(body))

    probe = Connection(port, "GET /livez")
    cases: dict[str, tuple[Ask, psutil.Process]] = {
        "in_process": (in_process, own),
        "http": (Connection(port, "POST /rank").sure, worker),
        "plain": (Connection(plain_port, "POST /rank").sure, process),
        "lean": (Connection(plain_port, "POST /lean").sure, process),
        "livez": (lambda _: probe.sure(b""), worker),
    }
    wall_ms: dict[str, list[float]] = {name: [] for name in cases}
    cpu_s = dict.fromkeys(cases, 0.0)
    for body in bodies[:WARM_UP]:
        for ask, _ in cases.values():
            ask(body)
    for first in range(0, len(bodies), BLOCK):
        for name, (ask, process) in cases.items():
            before = spent_s(process)
            for body in bodies[first : first + BLOCK]:
                began = time.perf_counter()
                ask(body)
                wall_ms[name].append(1e3 * (time.perf_counter() - began))
            cpu_s[name] += spent_s(process) - before
    report: dict[str, Any] = {
        name: {"cpu_ms": round(1e3 * cpu_s[name] / len(bodies), 3)} | summarise(wall_ms[name]) for name in cases
    }
    report["ratios"] = {
        "http_over_plain": beside(report, "http", "plain"),
        "http_over_lean": beside(report, "http", "lean"),
        "http_over_livez": beside(report, "http", "livez"),
        "http_over_in_process": beside(report, "http", "in_process"),
    }
    return report


def spent_s(process: psutil.Process) -> float:
    """CPU seconds of a process until now."""
    if process.pid == os.getpid():
        return time.process_time()
    times = process.cpu_times()
    return times.user + times.system


def summarise(times: Sequence[float]) -> dict[str, Any]:
    """Percentiles of wall time in ms, and how many answers took longer than PAUSE_MS."""
    names = {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99, "max_ms": 100}
    told: dict[str, Any] = {name: round(float(np.percentile(times, q)), 3) for name, q in names.items()}
    return told | {f"over_{PAUSE_MS:g}_ms": sum(each > PAUSE_MS for each in times)}


def beside(report: dict[str, Any], name: str, other: str) -> dict[str, float]:
    """Ratios of two cases."""
    return {key: round(report[name][key] / max(1e-9, report[other][key]), 2) for key in ("cpu_ms", "p50_ms", "p99_ms")}


def loads(
    asked: Mapping[str, tuple[Served, Sequence[tuple[int, float]]]], bodies: Sequence[bytes], seconds: float
) -> dict[str, list[dict[str, Any]]]:
    """Of each server, the loads of several numbers of clients that ask again at once, in turns of all of them.

    seconds: of each load, all turns together.
    """
    told = {name: [Load() for _ in clients] for name, (_, clients) in asked.items()}
    for _ in range(TURNS):
        for name, (served, clients) in asked.items():
            for load, (number, wait_s) in zip(told[name], clients, strict=True):
                _burden(load, served, number, wait_s, bodies, seconds / TURNS)
    return {
        name: [load.row(*each) for load, each in zip(told[name], clients, strict=True)]
        for name, (_, clients) in asked.items()
    }


def _burden(load: Load, served: Served, number: int, wait_s: float, bodies: Sequence[bytes], seconds: float) -> None:
    before, began = served.spent_s(), time.perf_counter()
    with ThreadPoolExecutor(number) as pool:
        asking = [pool.submit(ask_on, served.port, bodies, seed, began + seconds, wait_s) for seed in range(number)]
        load.done += sum((each.result() for each in asking), Counter[int]())
    load.took_s += time.perf_counter() - began
    load.used_s += served.spent_s() - before


def ask_on(port: int, bodies: Sequence[bytes], seed: int, until: float, wait_s: float) -> Counter[int]:
    """One client: statuses of its requests until a time. wait_s: after a refusal."""
    connection, done = Connection(port, "POST /rank"), Counter[int]()
    offset = seed * len(bodies) // (2 * CLIENTS)
    pause = threading.Event()
    for body in itertools.cycle([*bodies[offset:], *bodies[:offset]]):
        if time.perf_counter() >= until:
            break
        status, _ = connection.ask(body)
        done[status] += 1
        if status == 429 and wait_s:
            pause.wait(wait_s)
    connection.close()
    return done


if __name__ == "__main__":
    main()
