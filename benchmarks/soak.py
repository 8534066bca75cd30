"""A service at half of its capacity, for minutes -> whether its memory grows, and whether anything failed.

`make soak MINUTES=30`: two workers over a copy of this machine's live events, so that these do not change. First the
capacity is measured, then half of it is requested at random times: rankings of 100 candidates, and among ten
requests one recommendation, one batch of events and, occasionally, an invalid request. Exits with 1 if an answer was
a 5xx or memory grew by more than GROWTH from the second quarter to the last.
"""

import argparse
import json
import random
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
import psutil

from benchmarks.serving import copied_live, server
from features.live.open_tail import ENGINE_VARIABLE, LIVE_VARIABLE
from serving.answering.predictor import open_here

ROOT = Path(__file__).parents[1]
CLIENTS = 16
LOAD = 0.5
"""Of what was measured at most."""
GROWTH = 0.03
SAMPLE_S = 1.0
CANDIDATES = 100

Ask = tuple[str, dict[str, Any]]


@dataclass
class Told:
    """The result of a soak."""

    statuses: Counter[int] = field(default_factory=Counter)
    took_s: list[float] = field(default_factory=list)
    bytes_at: list[tuple[float, int]] = field(default_factory=list)  # seconds, of all workers

    def growth(self) -> float:
        """Of memory, from the second quarter to the last: the first fills caches."""
        quarter = len(self.bytes_at) // 4
        second, last = (
            statistics.median(size for _, size in part)
            for part in (self.bytes_at[quarter : 2 * quarter], self.bytes_at[-quarter:])
        )
        return last / second - 1

    def report(self) -> dict[str, Any]:
        """As JSON has it."""
        p50, p99, longest = (1e3 * float(np.percentile(self.took_s, q)) for q in (50, 99, 100))
        return {
            "requests": sum(self.statuses.values()),
            "statuses": {str(status): number for status, number in sorted(self.statuses.items())},
            "p50_ms": round(p50, 2),
            "p99_ms": round(p99, 2),
            "max_ms": round(longest, 1),
            "memory_mb": [round(size / 2**20) for _, size in self.bytes_at[:: max(1, len(self.bytes_at) // 12)]],
            "memory_growth": round(self.growth(), 4),
        }

    def is_sound(self) -> bool:
        """Whether everything was answered and memory did not grow."""
        return not any(status >= 500 or status == 0 for status in self.statuses) and self.growth() <= GROWTH


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--reports", type=Path, default=ROOT / "reports" / "benchmarks")
    options = parser.parse_args()
    predictor = open_here()
    users = sorted({golden.user_id for golden in predictor.bundle.golden})
    items = sorted(predictor.bundle.scorer.index_of)
    predictor.store.tail.close()
    with TemporaryDirectory(prefix="soak-") as folder:
        own = {
            LIVE_VARIABLE: str(copied_live(Path(folder))),
            ENGINE_VARIABLE: "sqlite",
            "LEITMOTIF_WORKERS": str(options.workers),
        }
        with server(**own) as client:
            ask = asking(users, items)
            peak = saturation(client.base_url, ask, 20)
            told = soak(client.base_url, ask, LOAD * peak, 60 * options.minutes, workers_of(client))
    report = {"peak_per_s": round(peak, 1), "asked_per_s": round(LOAD * peak, 1), "minutes": options.minutes}
    report |= {"workers": options.workers} | told.report()
    options.reports.mkdir(parents=True, exist_ok=True)
    (options.reports / "soak.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))
    sys.exit(0 if told.is_sound() else 1)


def asking(users: Sequence[str], items: Sequence[str]) -> Callable[[random.Random], Ask]:
    """A maker of requests."""

    def ask(draw: random.Random) -> Ask:
        user, turn = draw.choice(users), draw.random()
        if turn < 0.1:
            return "/recommend", {"user_id": user, "k": 10}
        if turn < 0.2:
            return "/events", {"events": [{"user_id": user, "item_id": draw.choice(items)}]}
        if turn < 0.22:
            return "/rank", {"user_id": user, "candidates": [], "k": 0}
        listed = draw.sample(items, min(CANDIDATES, len(items)))
        return "/rank", {"user_id": user, "candidates": listed, "preview": turn < 0.9}

    return ask


def saturation(url: httpx.URL, ask: Callable[[random.Random], Ask], seconds: float) -> float:
    """Answers per second, without refusals, with CLIENTS that each send the next request at once."""
    ends, done = time.monotonic() + seconds, Counter[int]()
    lock = threading.Lock()

    def go(seed: int) -> None:
        draw, own = random.Random(seed), Counter[int]()
        with httpx.Client(base_url=url, timeout=10) as client:
            while time.monotonic() < ends:
                path, body = ask(draw)
                own[client.post(path, json=body).status_code] += 1
        with lock:
            done.update(own)

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(go, range(CLIENTS)))
    return sum(number for status, number in done.items() if status < 429) / seconds


def soak(
    url: httpx.URL, ask: Callable[[random.Random], Ask], per_s: float, seconds: float, workers: Sequence[psutil.Process]
) -> Told:
    """Send requests at random times, at an average rate, without waiting for earlier answers."""
    told, lock, draw = Told(), threading.Lock(), random.Random(0)
    began = time.monotonic()

    def one(path: str, body: dict[str, Any]) -> None:
        asked = time.perf_counter()
        try:
            status = client.post(path, json=body).status_code
        except httpx.TransportError:
            status = 0
        with lock:
            told.statuses[status] += 1
            told.took_s.append(time.perf_counter() - asked)

    with httpx.Client(base_url=url, timeout=10) as client, ThreadPoolExecutor(CLIENTS) as pool:
        due = sampled = 0.0
        while (now := time.monotonic() - began) < seconds:
            if now >= sampled:
                told.bytes_at.append((now, sum(each.memory_info().rss for each in workers)))
                sampled += SAMPLE_S
            if now >= due:
                pool.submit(one, *ask(draw))
                due += draw.expovariate(per_s)
            else:
                time.sleep(min(due, sampled) - now if min(due, sampled) > now else 0)
    return told


def workers_of(client: httpx.Client) -> list[psutil.Process]:
    """The processes, started by this one, that listen on an address."""
    port = f":{client.base_url.port}"
    found = [
        each
        for started in psutil.Process().children()
        if port[1:] in started.cmdline()
        for each in started.children(recursive=True)
        if "_bentoml_impl.worker" in " ".join(each.cmdline())
    ]
    if not found:
        raise SystemExit("No worker of the server is found: was it started here?")
    return found


if __name__ == "__main__":
    main()
