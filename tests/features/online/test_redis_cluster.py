"""A real Redis Cluster that loses nodes: acknowledged events stay, once; refused ones are reported; loads notice.

LEITMOTIF_WRITER_EVENTS: events of each of the 8 writers; 150 where it is not set, 1,000 in the slow sweep.
"""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from contracts.errors import InputError
from features.feast_store.kept_before import StaleStoreError
from features.feast_store.redis_rows import stored
from features.live.open_tail import ENGINE_VARIABLE, prefix_of, redis_address
from features.live.redis import IDLE_S, RedisTail
from features.live.redis_address import RedisAddress
from features.online import fill
from features.online.load import load
from features.online.parity import compare_snapshot
from features.online.store import OnlineStore
from features.sealed.event import Fate, LiveEvent
from tests.clones import ROOT
from tests.features.live_tails import event
from tests.features.live_writer import events_of
from tests.features.online.test_load import Source
from tests.features.redis_cluster import Cluster, wait_until
from tests.features.redis_server import RedisServer
from tests.features.small_log import random_log, row

pytestmark = pytest.mark.xdist_group("redis")
NUM_EVENTS = int(os.environ.get("LEITMOTIF_WRITER_EVENTS", "150"))
NUM_PROCESSES, NUM_THREADS, NUM_USERS = 2, 4, 5
AGAIN_S = 60.0


@pytest.fixture
def cluster(redis_cluster: Cluster) -> Iterator[Cluster]:
    """A cluster whose nodes may be killed; it is healed afterwards."""
    yield redis_cluster
    redis_cluster.heal()


@pytest.fixture
def source(tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A log that is loaded into the cluster; its name is of this test alone."""
    monkeypatch.setenv(ENGINE_VARIABLE, cluster.address)
    made = Source(tmp_path, random_log(7, num_users=40, num_requests=60), f"log{tmp_path.name[-12:]}")
    made.take_up(made.rows)
    load(made.data, made.state)
    return made


def tail_key(source: Source) -> str:
    """A key of its live events."""
    return f"{{{prefix_of(source.state)}}}:log"


def test_users_lie_on_every_primary_each_in_one_hash_and_live_events_in_one_slot(
    source: Source, cluster: Cluster
) -> None:
    store = OnlineStore.open(source.state)
    store.append([event(f"e{number}", user=f"u{number}") for number in range(9)])
    name = source.state.parent.name
    held = {port: [key for key in keys if name.encode() in key] for port, keys in cluster.keys().items()}
    live = {port: [key for key in keys if key.startswith(b"{")] for port, keys in held.items()}
    assert len(held) == 3
    assert all(len(held[port]) - len(live[port]) > 3 for port in held)
    assert sum(map(bool, live.values())) == 1
    users = {each["user_id"] for each in source.rows}
    assert len(users) > 25
    assert set(store.user_ids("")) == users | {f"u{number}" for number in range(9)}
    assert stored(store.feast, store.state_view).keys() == users
    assert list(store.user_ids("u7")) == ["u7"]


def test_full_loads_changed_loads_and_forgotten_users_read_like_their_snapshots(
    source: Source,
) -> None:
    first = OnlineStore.open(source.state)
    assert [each.mismatches for each in compare_snapshot(first, source.snapshot)] == [0, 0, 0]
    first.append([event("live", user="u3")])
    first.tail.forget(["u3"])
    assert (first.history("u3"), first.is_forgotten("u3")) == (None, True)
    source.take_up([each for each in source.rows if each["user_id"] != "u3"] + [row("new", "i03", 9000, 1)])
    assert load(source.data, source.state)
    second = OnlineStore.open(source.state)
    assert [each.mismatches for each in compare_snapshot(second, source.snapshot)] == [0, 0, 0]
    assert sum(each.checked for each in compare_snapshot(second, source.snapshot)) > 70
    assert "u3" not in {*stored(second.feast, second.state_view), *stored(second.feast, second.history_view)}
    assert second.append([event("again", user="u3"), event("later", user="u4")]) == [Fate.FORGOTTEN, Fate.NEW]
    assert [each.event_id for _, each in second.tail.since(0)] == ["later"]
    assert not load(source.data, source.state)


def test_what_a_load_writes_is_on_a_cluster_byte_for_byte_what_it_is_on_one_server(
    source: Source, cluster: Cluster, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = source.state.parent.name.encode()
    spread = {key: value for node in cluster.primaries() for key, value in rows_of(node.port, name).items()}
    monkeypatch.setenv(ENGINE_VARIABLE, redis_server.address)
    assert load(source.data, source.state)
    assert rows_of(redis_server.port, name) == spread
    assert len(spread) > 30


def rows_of(port: int, name: bytes) -> dict[bytes, Any]:
    """The base's hashes of a log on one server."""
    with redis.Redis(port=port) as client:
        return {key: client.hgetall(key) for key in client.scan_iter(b"*%s*" % name) if client.type(key) == b"hash"}


def start_writer(
    source: Source, cluster: Cluster, process: int, num_events: int, told: Path
) -> subprocess.Popen[bytes]:
    """told: the file of what it had acknowledged, since a pipe that nobody reads would stop it."""
    given = {"engine": "redis", "where": cluster.address, "prefix": prefix_of(source.state), "process": process}
    given |= {"num_events": num_events, "num_users": NUM_USERS, "num_threads": NUM_THREADS, "again_s": AGAIN_S}
    command = [sys.executable, "-m", "tests.features.live_writer", json.dumps(given)]
    with told.open("wb") as out:
        return subprocess.Popen(command, cwd=ROOT, stdout=out)


class Reader(threading.Thread):
    """A worker: counts live events, and reopens the store when an error says so."""

    def __init__(self, state: Path) -> None:
        super().__init__()
        self.state, self.ended = state, threading.Event()
        self.store = OnlineStore.open(state)
        self.refused = self.opened = 0

    def run(self) -> None:
        while not self.ended.is_set():
            self.follow()
            time.sleep(0.005)

    def follow(self) -> None:
        try:
            self.store.refresh()
        except StaleStoreError:
            self.open_again()
        except InputError:
            self.refused += 1

    def open_again(self) -> None:
        try:
            self.store = OnlineStore.open(self.state)
            self.opened += 1  # not if that was refused, as while the others still vote: it is tried again
        except InputError:
            self.refused += 1


@pytest.mark.parametrize(
    ("num_events", "num_failovers"), [(NUM_EVENTS, 1), pytest.param(2_000, 4, marks=pytest.mark.slow)]
)
def test_every_acknowledged_event_of_eight_writers_is_stored_once_even_if_primaries_are_killed(
    source: Source, cluster: Cluster, tmp_path: Path, num_events: int, num_failovers: int
) -> None:
    reader = Reader(source.state)
    reader.start()
    told = [tmp_path / f"acknowledged{number}" for number in range(NUM_PROCESSES)]
    writers = [start_writer(source, cluster, number, num_events, path) for number, path in enumerate(told)]
    tail = RedisTail(cluster.address, prefix_of(source.state))
    killed = []
    for _ in range(num_failovers):
        wait_for(tail, tail_size(tail) + NUM_PROCESSES * NUM_THREADS * NUM_EVENTS // 3)
        assert [writer.poll() for writer in writers] == [None] * NUM_PROCESSES, "the writers ended before the failover"
        primary = cluster.primary_of(tail_key(source))
        killed.append(primary.port)
        primary.kill()
        wait_for(tail, tail_size(tail) + 1)
        wait_until(lambda primary=primary: cluster.primary_of(tail_key(source)) is not primary)  # the others hear of it
        cluster.heal()
    assert [writer.wait() for writer in writers] == [0] * NUM_PROCESSES
    acknowledged = " ".join(path.read_text() for path in told).split()
    reader.ended.set()
    reader.join()
    reader.follow()
    sent = sent_by_all(num_events)
    kept = [each for _, each in tail.since(0, limit=100_000)]
    assert sorted(acknowledged) == sorted(each.event_id for each in sent)
    assert sorted(kept, key=lambda each: each.event_id) == sorted(sent, key=lambda each: each.event_id)
    assert (reader.store.live.num_events, reader.opened) == (len(sent), num_failovers)
    assert reader.refused
    users = [f"u{number}" for number in range(NUM_USERS)]
    histories = tail.histories(users, len(sent))
    assert [len(each or ()) for each in histories] == [sum(each.user_id == user for each in sent) for user in users]
    tail.close()


def sent_by_all(num_events: int) -> list[LiveEvent]:
    numbers = [(process, thread) for process in range(NUM_PROCESSES) for thread in range(NUM_THREADS)]
    return [each for process, thread in numbers for each in events_of(process, thread, num_events, NUM_USERS)]


def tail_size(tail: RedisTail) -> int:
    while True:
        try:
            return len(tail.since(0, limit=100_000))
        except InputError:
            time.sleep(0.05)


def wait_for(tail: RedisTail, num_events: int) -> None:
    deadline = time.monotonic() + AGAIN_S
    while tail_size(tail) < num_events:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_event_without_a_replica_is_not_acknowledged_and_sent_again_after_failover_is_stored_once(
    source: Source, cluster: Cluster
) -> None:
    tail = RedisTail(cluster.address, prefix_of(source.state), wait_s=0.5)
    assert tail.append([event("a")]) == [Fate.NEW]
    primary = cluster.primary_of(tail_key(source))
    replica = cluster.replica_of(primary)
    replica.pause()
    try:
        with pytest.raises(InputError, match=r"has written, but the replica of .* did not confirm .* append them"):
            tail.append([event("b")])
        assert [each.event_id for _, each in tail.since(0)] == ["a", "b"]
        with pytest.raises(InputError, match="did not confirm"):
            tail.append([event("b")])  # repeated, and still in one place
        primary.kill()
    finally:
        replica.kill()  # what it was sent lies unread before it
    replica.start()
    replica.command("CLUSTER", "FAILOVER", "TAKEOVER")  # started anew, it would not dare
    assert append_until_taken(tail, [event("b")]) == [Fate.NEW]
    assert [each.event_id for _, each in tail.since(0)] == ["a", "b"]
    tail.close()


def append_until_taken(tail: RedisTail, events: list[LiveEvent]) -> list[Fate]:
    deadline = time.monotonic() + AGAIN_S
    while True:
        try:
            return tail.append(events)
        except InputError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_primary_without_a_replica_takes_events_on_its_disk_and_says_so(
    source: Source, cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    tail = RedisTail(cluster.address, prefix_of(source.state))
    tail.append([event("a")])
    primary = cluster.primary_of(tail_key(source))
    cluster.replica_of(primary).kill()
    with caplog.at_level(logging.WARNING, logger="leitmotif"):
        assert append_until_taken(tail, [event("b")])
        started = time.monotonic()
        assert tail.append([event("c")]) == [Fate.NEW]
        assert time.monotonic() - started < 0.5, "it waits for a replica that is not there"
    said = [each.getMessage() for each in caplog.records if "no replica" in each.getMessage()]
    assert len(said) == 1
    assert f"127.0.0.1:{primary.port}" in said[0]
    primary.kill()
    primary.start()
    assert append_until_taken(tail, [event("c")]) == [Fate.REPEATED]
    tail.close()


def test_a_replica_that_returns_is_waited_for_and_keeps_no_bytes_of_forgotten_users(cluster: Cluster) -> None:
    tail = RedisTail(cluster.address, "back")
    tail.append([event("a", user="somebody-gone")])
    cluster.primary_of("{back}:log").kill()
    append_until_taken(tail, [event("b")])
    cluster.heal()
    primary = cluster.primary_of("{back}:log")
    replica = cluster.replica_of(primary)
    assert tail.append([event("c", user="somebody-gone")]) == [Fate.NEW]
    tail.forget(["somebody-gone"])

    def holds(node: RedisServer) -> bool:
        return any(b"somebody-gone" in path.read_bytes() for path in node.folder.rglob("*.aof"))

    wait_until(lambda: not holds(primary) and not holds(replica))
    tail.drop()


def test_the_first_events_after_a_replica_is_back_wait_for_it(cluster: Cluster) -> None:
    tail = RedisTail(cluster.address, "again")
    primary = cluster.primary_of("{again}:log")
    cluster.replica_of(primary).kill()
    append_until_taken(tail, [event("a")])
    wait_until(lambda: not primary.command("ROLE")[2])
    assert tail.append([event("b")]) == [Fate.NEW]
    cluster.heal()
    replica = cluster.replica_of(primary)
    replica.pause()
    try:
        with pytest.raises(InputError, match="did not confirm within"):
            tail.append([event("c")])
    finally:
        replica.resume()
    assert append_until_taken(tail, [event("c")]) == [Fate.REPEATED]
    tail.drop()


def test_forgotten_users_stay_forgotten_after_failover_and_stale_workers_recount(
    source: Source, cluster: Cluster
) -> None:
    tail = RedisTail(cluster.address, prefix_of(source.state))
    tail.append([event("a", user="gone"), event("b", user="stays")])
    tail.forget(["gone"])
    secret, idle = tail.secret(), OnlineStore.open(source.state)
    idle.refresh()
    cluster.primary_of(tail_key(source)).kill()
    assert append_until_taken(tail, [event("c", user="gone"), event("d", user="stays")]) == [
        Fate.FORGOTTEN,
        Fate.NEW,
    ]
    assert [each.event_id for _, each in tail.since(0)] == ["b", "d"]
    assert (tail.forgotten(["gone", "stays"]), tail.secret()) == ([True, False], secret)
    with pytest.raises(StaleStoreError, match="a replica took over"):
        idle.refresh()
    assert OnlineStore.open(source.state).live.num_events == 2
    tail.close()


@pytest.mark.parametrize("idle_s", [0.0, IDLE_S + 0.1])
def test_who_slept_through_two_failovers_that_end_where_they_began_counts_anew(
    source: Source, cluster: Cluster, idle_s: float
) -> None:
    """idle_s: without a wait, the first primary was killed: its connections tell. With it, they need not."""
    tail = RedisTail(cluster.address, prefix_of(source.state))
    tail.append([event("a")])
    idle = OnlineStore.open(source.state)
    idle.refresh()
    first = cluster.primary_of(tail_key(source))
    second = cluster.replica_of(first)
    for primary, replica in ((first, second), (second, first)):
        if idle_s:  # both go on: no connection breaks
            cluster.hand_over(tail_key(source), replica)
        else:
            primary.kill()
            wait_until(lambda replica=replica: cluster.primary_of(tail_key(source)) is replica)
        cluster.heal()
    time.sleep(idle_s)
    with pytest.raises(StaleStoreError, match="a replica took over"):
        idle.refresh()
    again = OnlineStore.open(source.state)
    again.refresh()
    assert again.live.num_events == 1
    for each in (tail, idle.tail, again.tail):
        each.close()


def test_a_load_during_which_a_primary_fails_is_not_taken_for_whole(
    source: Source, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = OnlineStore.open(source.state).snapshot_id
    source.take_up([*source.rows, row("new", "i03", 9000, 1)])
    with monkeypatch.context() as patched:
        write, calls = fill._load_view, []

        def killing(*given: object) -> None:
            """The load itself; between two views a node really dies, and its replica takes over."""
            write(*given)  # type: ignore[arg-type]
            calls.append(given)
            if len(calls) == 1:
                victim = cluster.primary_of(tail_key(source))
                victim.kill()
                wait_until(lambda: cluster.primary_of(tail_key(source)) is not victim)
                cluster.heal()

        patched.setattr(fill, "_load_view", killing)
        with pytest.raises(InputError, match=r"failed or left while rows were written.*make load"):
            load(source.data, source.state)
    with pytest.raises(InputError, match="does not hold snapshot"):
        OnlineStore.open(source.state)
    assert load(source.data, source.state)
    store = OnlineStore.open(source.state)
    assert store.snapshot_id != before
    assert [each.mismatches for each in compare_snapshot(store, source.snapshot)] == [0, 0, 0]


def test_a_node_named_as_one_server_and_a_server_named_as_a_cluster_are_told_apart(
    cluster: Cluster, redis_server: RedisServer
) -> None:
    node = cluster.address.split(",")[0]
    with pytest.raises(InputError, match=f"{node} is a node of a cluster. Say so: ONLINE={node},redis_type=redis_clu"):
        RedisTail(node, "p").append([event("a")])
    with pytest.raises(InputError, match="is one Redis server, no cluster"):
        RedisTail(f"{redis_server.address},redis_type=redis_cluster", "p").append([event("a")])
    tail = RedisTail(f"{node},redis_type=redis_cluster", "told")
    assert tail.append([event("a")]) == [Fate.NEW]
    tail.drop()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("h1:1,h2:2,redis_type=redis", "are several servers"),
        ("h1:1,h2:2,db=3", "has one database"),
        ("h1:1,redis_type=redis_sentinel", "redis_type is redis_sentinel"),
        ("h1", "does not name a Redis server"),
    ],
)
def test_an_address_that_means_nothing_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        RedisAddress.read(text)


@pytest.mark.parametrize("told", ["password=hunter2,h1:1", "redis://me:hunter2@h1:1/0"])
def test_refused_addresses_are_shown_without_passwords(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENGINE_VARIABLE, told)
    with pytest.raises(InputError) as caught:
        redis_address()
    assert "hunter2" not in str(caught.value)


def test_an_address_is_read_as_feast_writes_it() -> None:
    read = RedisAddress.read("h1:1,h2:2,password=a=b,ssl=true")
    assert (read.nodes, read.is_cluster, dict(read.told)) == (("h1:1", "h2:2"), True, {"password": "a=b", "ssl": True})
    assert (read.text, read.redis_type) == ("h1:1,h2:2,password=a=b,ssl=true", "redis_cluster")
    assert "a=b" not in read.where
    assert dict(RedisAddress.read("h1:1,password=1e5").told) == {"password": "1e5"}
    one = RedisAddress.read("h1:1,db=3")
    assert (one.is_cluster, one.text, one.where) == (False, "h1:1,db=3", "Redis at h1:1")


def test_live_events_that_were_copied_from_one_server_are_refused(cluster: Cluster) -> None:
    client = RedisAddress.read(cluster.address).connect(wait_s=1)
    client.hset("copied:marks", "newest", "7")
    tail = RedisTail(cluster.address, "copied")
    for _ in range(2):
        with pytest.raises(InputError, match=r"as one Redis server names them \(copied:\*\).*make absorb"):
            tail.marks()
    client.delete("copied:marks")
    assert tail.append([event("a")]) == [Fate.NEW]
    tail.drop()
    client.close()


def test_while_the_slot_of_live_events_moves_no_batch_is_stored_in_part_and_then_writes_resume(
    cluster: Cluster,
) -> None:
    tail = RedisTail(cluster.address, "moving")
    assert tail.append([event("a"), event("b", user="other")]) == [Fate.NEW] * 2
    with cluster.moving("{moving}:log") as move:
        move(b"{moving}:events:u", b"{moving}:ids")
        for events in ([event("c")], [event("d", user="new"), event("e", user="other")]):
            with pytest.raises(InputError, match="Nothing of this call was kept"):
                tail.append(events)
        with pytest.raises(InputError, match="Nothing of this call was kept"):
            tail.forget(["other"])
    assert [each.event_id for _, each in tail.since(0)] == ["a", "b"]
    assert tail.forgotten(["other"]) == [False]
    assert tail.append([event("a"), event("c"), event("d", user="new")]) == [Fate.REPEATED, Fate.NEW, Fate.NEW]
    assert [len(each or ()) for each in tail.histories(["u", "other", "new"], 9)] == [2, 1, 1]
    tail.drop()
