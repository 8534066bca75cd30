"""Many concurrent writers in several processes, during a batch load: every event is stored once, in order.

LEITMOTIF_WRITER_EVENTS: events of each of the 8 writers; 150 where it is not set.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from feast import FeatureStore

from features.sealed.event import LiveEvent
from tests.clones import ROOT
from tests.features.feast_stores import close, history_of, online_of, open_feast, read, row_of, seen, write
from tests.features.live_tails import ENGINES
from tests.features.live_writer import events_of
from tests.features.redis_server import RedisServer

pytestmark = pytest.mark.xdist_group("redis")
NUM_EVENTS = int(os.environ.get("LEITMOTIF_WRITER_EVENTS", "150"))
NUM_PROCESSES, NUM_THREADS = 2, 4
LENGTH = 20_000
LIMIT_S = 300


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def server(request: pytest.FixtureRequest, engine: str) -> RedisServer | None:
    return request.getfixturevalue("redis_server") if engine == "redis" else None


@pytest.fixture
def store(tmp_path: Path, engine: str, server: RedisServer | None) -> Iterator[FeatureStore]:
    opened = open_feast(engine, tmp_path, server, length=LENGTH)
    yield opened
    close(opened)


def start_writer(
    store: FeatureStore, engine: str, server: RedisServer | None, process: int, num_events: int, num_users: int
) -> subprocess.Popen[str]:
    online = store.config.online_store
    where = {"where": server.address, "prefix": online.tail_prefix} if server else {"where": online.tail_path}
    given = {"engine": engine, "process": process, "num_events": num_events, "num_users": num_users} | where
    return subprocess.Popen(
        [sys.executable, "-m", "tests.features.live_writer", json.dumps(given | {"num_threads": NUM_THREADS})],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def absorb(store: FeatureStore, held: dict[str, dict[str, LiveEvent]]) -> None:
    """Load everything acknowledged so far into the base, and only then prune it from the tail."""
    tail = online_of(store).tail(store.config)
    rows = tail.since(0, limit=100_000)
    for _, each in rows:
        held.setdefault(each.user_id, {})[each.event_id] = each
    changed = {each.user_id for _, each in rows}
    write(store, [row_of(user, list(held[user].values()), LENGTH) for user in sorted(changed)])
    if rows:
        tail.prune(rows[-1][0])


@pytest.mark.parametrize("num_users", [1, 40])
def test_what_eight_writers_send_while_a_batch_is_loaded_is_there_in_order_once(
    store: FeatureStore, engine: str, server: RedisServer | None, num_users: int
) -> None:
    numbers = range(NUM_PROCESSES)
    writers = [start_writer(store, engine, server, number, NUM_EVENTS, num_users) for number in numbers]
    held: dict[str, dict[str, LiveEvent]] = {}
    num_read, loads, deadline = 0, 0, time.monotonic() + LIMIT_S
    while any(writer.poll() is None for writer in writers):
        assert time.monotonic() < deadline
        absorb(store, held)
        loads += bool(held)
        num_now = len(read(store, ["u0"], ["item_ids"])[0]["item_ids"] or [])
        assert num_now >= num_read, "an event that was read is gone"
        num_read = num_now
    acknowledged = " ".join(writer.communicate()[0] for writer in writers).split()
    assert [writer.returncode for writer in writers] == [0] * NUM_PROCESSES
    assert loads
    sent = [each for number in numbers for thread in range(NUM_THREADS) for each in _sent(number, thread, num_users)]
    assert sorted(acknowledged) == sorted(each.event_id for each in sent)
    users = [f"u{number}" for number in range(num_users)]
    expected = [seen(history_of([each for each in sent if each.user_id == user], LENGTH)) for user in users]
    assert read(store, users) == expected
    absorb(store, held)
    assert read(store, users) == expected


def _sent(process: int, thread: int, num_users: int) -> list[LiveEvent]:
    return events_of(process, thread, NUM_EVENTS, num_users)


def test_a_writer_killed_while_it_appends_loses_nothing_acknowledged_and_doubles_nothing(
    store: FeatureStore, engine: str, server: RedisServer | None
) -> None:
    writer = start_writer(store, engine, server, 0, 100_000, 3)
    assert writer.stdout is not None
    acknowledged = [writer.stdout.readline().strip() for _ in range(80)]
    writer.kill()
    acknowledged += writer.communicate()[0].split()
    tail = online_of(store).tail(store.config)
    kept = [each.event_id for _, each in tail.since(0, limit=1_000_000)]
    assert len(kept) == len(set(kept))
    assert set(acknowledged) <= set(kept)
    assert len(kept) - len(acknowledged) <= 2 * NUM_THREADS  # those whose acknowledgement was on its way

    everything = {each.event_id: each for thread in range(NUM_THREADS) for each in events_of(0, thread, 100_000, 3)}
    assert tail.append([everything[name] for name in kept]) == [1] * len(kept)
    in_tail = [each for each in (everything[name] for name in kept) if each.user_id == "u0"]
    assert read(store, ["u0"]) == [seen(history_of(in_tail, LENGTH))]
