"""Live rows in a worker's memory: bytes per row, duration of merges and waits meanwhile. One JSON object.

`python -m benchmarks.live_memory --rows 1000000 10000000`: rankings of `--shown` items each, of `--users` users, with a
click on one of them in every second ranking, counted as a service counts them. `bytes_a_row` is of the counters' own
account, `rss_a_row` the growth of the process. `join_ms` is one merge of all rows, in a background thread; `add`
is the wait of the thread that counts a ranking, `read` that of one that ranks `--shown` items, both at the full
number of rows, alone and while all rows are being merged.
"""

import argparse
import gc
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from contracts.schema import ROLE_IMPRESSION
from features.encoding.as_of import AsOfCounter
from features.encoding.counters import Counters
from features.online.live_counters import LiveCounters, _merged
from features.sealed.event import EVENT, OUTCOME, LiveEvent

START_US, SECOND = 1_700_000_000_000_000, 1_000_000
BATCH = 10_000
NONE = AsOfCounter.from_rows(*np.zeros((4, 0), np.int64))


def main() -> None:
    """Print the figures of each number of rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.live_memory", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--shown", type=int, default=20)
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--calls", type=int, default=200)
    options = parser.parse_args()
    report: dict[str, Any] = {"setting": vars(options) | {"cpus": os.cpu_count()}}
    report["rows"] = {str(num_rows): measure(num_rows, options) for num_rows in options.rows}
    print(json.dumps(report, indent=2))


def measure(num_rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """One number of rows, counted from nothing."""
    known = [{f"{kind}{n}": n for n in range(num)} for kind, num in (("i", options.items), ("u", options.users))]
    live = LiveCounters(Counters(NONE, NONE, NONE), known[0], known[1])
    gc.collect()
    before, started = rss(), time.perf_counter()
    for events in batches(num_rows, options):
        live.add(events)
    live.settle()
    counted_s = time.perf_counter() - started
    gc.collect()
    grown = rss() - before
    rows, num_bytes = live.num_events, live.num_bytes
    more = batches(10**9, options, seed=1)
    rankings = [events[: options.shown] for events in (next(more) for _ in range(options.calls))]
    alone = {"add": times([partial(live.add, each) for each in rankings]), "read": times(reads(live, options))}
    meanwhile, took = while_joining(live, options, rankings)
    return {
        "rows": rows,
        "bytes_a_row": round(num_bytes / rows, 1),
        "rss_a_row": round(grown / rows, 1),
        "counted_s": round(counted_s, 1),
        "parts": len(live._parts),
        "join_ms": round(took[0]),
        "join_cpu_ms": round(took[1]),
        "alone_ms": {name: summary(each) for name, each in alone.items()},
        "while_joining_ms": {name: summary(each) for name, each in meanwhile.items()},
    }


def while_joining(
    live: LiveCounters, options: argparse.Namespace, rankings: list[list[LiveEvent]]
) -> tuple[dict[str, list[float]], list[float]]:
    """The same calls in turn while another thread joins all rows, and how long that took: wall, CPU."""
    took: list[float] = []

    def join() -> None:
        started, cpu = time.perf_counter(), time.thread_time()
        live._part(_merged([part.rows for part in live._parts]))
        took.extend([(time.perf_counter() - started) * 1000, (time.thread_time() - cpu) * 1000])

    joiner = threading.Thread(target=join)
    joiner.start()
    waited: dict[str, list[float]] = {"add": [], "read": []}
    calls = reads(live, options)
    while joiner.is_alive() or not waited["read"]:
        number = len(waited["read"])
        waited["add"] += times([partial(live.add, rankings[number % len(rankings)])])
        waited["read"] += times([calls[number % len(calls)]])
    joiner.join()
    return waited, took


def batches(num_rows: int, options: argparse.Namespace, seed: int = 0) -> Iterator[list[LiveEvent]]:
    """Rankings one second apart, BATCH rows at a time, at least one ranking."""
    draw = np.random.default_rng(seed)
    number = made = 0
    while made < num_rows:
        events: list[LiveEvent] = []
        while len(events) < min(BATCH, num_rows - made):
            user, at = f"u{draw.integers(options.users)}", START_US + number * SECOND
            items = draw.integers(options.items, size=options.shown).tolist()
            for place, item in enumerate(items):
                name = f"{seed}-{number}-{place}"
                events.append(LiveEvent(name, EVENT, user, f"i{item}", at, 0.0, ROLE_IMPRESSION, False))
            if number % 2:
                clicked = events[-1]._replace(revision=OUTCOME, label=1.0, in_history=True)
                events.append(clicked)
            number += 1
        made += len(events)
        yield events


def reads(live: LiveCounters, options: argparse.Namespace) -> list[Callable[[], None]]:
    """As many calls as asked, each of the counts that one ranking reads."""
    draw, calls = np.random.default_rng(2), range(options.calls)
    at = START_US + 10**9 * SECOND

    def read(items: np.ndarray, user: int) -> None:
        now = live.now
        for window_s in (3_600, 86_400):
            now.item_counters.window(items, at, 60 * SECOND, window_s * SECOND)
        now.item_counters.last_clicked(items, at)
        now.user_counters.read([user], at)
        now.user_item_counters.read(now.pair_key(user, items), at)

    asked = [(draw.integers(options.items, size=options.shown), int(draw.integers(options.users))) for _ in calls]
    return [partial(read, items, user) for items, user in asked]


def times(calls: list[Callable[[], None]]) -> list[float]:
    """Milliseconds of each."""
    waited = []
    for call in calls:
        started = time.perf_counter()
        call()
        waited.append((time.perf_counter() - started) * 1000)
    return waited


def summary(waited: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(waited, [50, 99])
    return {"p50": round(float(p50), 2), "p99": round(float(p99), 2), "longest": round(max(waited), 2)}


def rss() -> int:
    """Bytes of memory that the process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
