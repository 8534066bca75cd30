"""The list of the forgotten is the truth: a tail that is new, or of the other engine, knows of it before it answers."""

import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contracts.publish import write_json
from features.live.absorb import absorb
from features.live.open_tail import ENGINE_VARIABLE, live_path, open_sqlite, open_tail
from features.live.places import DEFINED, ENGINE, STAMP, state_of
from features.live.tail import LiveTail
from features.online.load import load
from features.online.store import OnlineStore, StaleStoreError
from features.sealed.event import Fate
from features.sealed.files import live_of, read_sealed, sealed_files, sealed_seq
from features.sealed.forgotten import add_forgotten, hash_of
from tests import clones
from tests.features.live_tails import ENGINES, PLACES, event, server_of, tails_of
from tests.features.redis_server import RedisServer
from tests.features.small_source import make

pytestmark = pytest.mark.xdist_group("redis")


@pytest.fixture(params=PLACES)
def tail(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LiveTail]:
    with tails_of(tmp_path, server_of(request, request.param)) as opener:
        yield opener()


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The chosen engine."""
    address = request.param
    if address == "redis":
        address = f"127.0.0.1:{request.getfixturevalue('redis_server').port}"
    monkeypatch.setenv(ENGINE_VARIABLE, address)
    return request.param


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """data/<source> of a small log with its snapshot; the source's name is of this test alone."""
    return make(tmp_path)


def test_hashes_that_a_tail_lacks_are_refused_from_then_on_and_their_events_gone(tail: LiveTail) -> None:
    tail.append([event("a", user="u:é*"), event("b", user="u:é*", in_history=False), event("c", user="v")])
    digests = [hash_of("u:é*"), hash_of("never seen")]
    assert tail.forget_hashes(digests) == 2
    assert tail.forget_hashes([*digests, hash_of("w")]) == 1
    assert tail.forget_hashes([]) == tail.forget_hashes(digests) == 0
    assert [each.event_id for _, each in tail.since(0)] == ["c"]
    assert tail.held(["a", "b", "c"]) == [None, None, event("c", user="v")]
    assert tail.append([event("d", user="u:é*"), event("e", user="w"), event("f", user="v")]) == [
        Fate.FORGOTTEN,
        Fate.FORGOTTEN,
        Fate.NEW,
    ]


def test_a_store_and_a_load_bring_the_list_to_a_tail_that_lacks_it(data: Path, engine: str) -> None:
    state = state_of(data)
    load(data, state)
    store = OnlineStore.open(state)
    store.append([event("a", user="u1"), event("b", user="u2")])
    add_forgotten(live_of(data), ["u1"])
    assert OnlineStore.open(state).append([event("c", user="u1"), event("d", user="u2")]) == [Fate.FORGOTTEN, Fate.NEW]
    assert [each.event_id for _, each in store.tail.since(0)] == ["b", "d"]
    add_forgotten(live_of(data), ["u2"])
    assert not load(data, state)
    assert store.tail.since(0) == []
    assert store.tail.forgotten(["u1", "u2", "u3"]) == [True, True, False]


def test_a_live_file_that_is_made_anew_while_it_is_served_knows_who_is_forgotten(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENGINE_VARIABLE, "sqlite")
    state = state_of(data)
    load(data, state)
    store = OnlineStore.open(state)
    add_forgotten(live_of(data), ["u1"])
    store.tail.forget(["u1"])
    for left in live_path(state).parent.glob(f"{live_path(state).name}*"):
        left.rename(left.with_name(f"away-{left.name}"))
    with pytest.raises(StaleStoreError, match="lost, emptied or replaced"):
        store.append([event("a", user="u2")])
    store = OnlineStore.open(state)
    assert store.append([event("a", user="u1"), event("b", user="u2")]) == [Fate.FORGOTTEN, Fate.NEW]


def test_a_redis_that_was_emptied_while_it_is_served_knows_who_is_forgotten(tmp_path: Path) -> None:
    data = tmp_path / "data" / "table"
    with RedisServer(tmp_path / "own") as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv(ENGINE_VARIABLE, f"127.0.0.1:{server.port}")
        add_forgotten(live_of(data), ["u1"])
        tail = open_tail(state_of(data))
        assert tail.forgotten(["u1"]) == [True]
        server.kill()
        with pytest.raises(Exception, match="cannot be asked"):
            tail.forgotten(["u1"])
        for left in (tmp_path / "own").rglob("*.aof"):
            left.unlink()
        for left in (tmp_path / "own").rglob("*.manifest"):
            left.unlink()
        server.start()
        assert tail.append([event("a", user="u1")]) == [Fate.FORGOTTEN]
        tail.close()


def test_absorb_passes_over_events_of_users_on_the_list(tail: LiveTail, tmp_path: Path) -> None:
    folder = tmp_path / "live" / "table"
    tail.append([event("a"), event("b", user="gone")])
    add_forgotten(folder, ["gone"])
    (name,) = absorb(tail, folder)
    assert read_sealed(folder / name)["event_id"].to_pylist() == ["a"]
    assert sealed_seq(folder, tail.engine) == tail.newest_seq()
    tail.append([event("c", user="gone")])
    assert absorb(tail, folder) == {}
    assert sealed_seq(folder, tail.engine) == tail.newest_seq()


def test_the_list_is_on_the_disk_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename is on the disk once the folder is: seen by what the kernel is asked to put there after it."""
    folder, synced, sync = tmp_path / "live" / "table", [], os.fsync

    def noted(handle: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(handle).st_mode), (folder / "forgotten.txt").exists()))
        sync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    add_forgotten(folder, ["u1"])
    assert synced[:2] == [(False, False), (True, True)]  # then known.json


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return clones.clone(tmp_path)


@pytest.fixture
def forgetting(repository: Path) -> Callable[..., tuple[int, str]]:
    def run(online: str, *users: str) -> tuple[int, str]:
        command = (sys.executable, "-m", "features.live.forget", *users)
        done = clones.run(repository, *command, check=False, LEITMOTIF_ONLINE=online)
        return done.returncode, done.stdout + done.stderr

    return run


def test_make_forget_over_redis_reaches_the_sqlite_file_too(
    repository: Path,
    redis_server: RedisServer,
    forgetting: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state, address = state_of(repository / "data" / "simulator"), f"127.0.0.1:{redis_server.port},db=8"
    monkeypatch.setenv(ENGINE_VARIABLE, address)
    tails = [open_tail(state), open_sqlite(state)]
    for each in tails:
        each.append([event("a", user="u1"), event("b", user="u2")])
    assert forgetting(address, "u1")[0] == 0
    for each in tails:
        assert [found.user_id for _, found in each.since(0)] == ["u2"]
        assert each.forgotten(["u1", "u2"]) == [True, False]
        each.close()


def test_make_forget_over_sqlite_refuses_where_a_redis_was_loaded(
    repository: Path, forgetting: Callable[..., tuple[int, str]]
) -> None:
    state = state_of(repository / "data" / "simulator")
    state.mkdir(parents=True)
    write_json(state / STAMP, {DEFINED: {ENGINE: "redis"}})
    status, said = forgetting("sqlite", "u1")
    assert status == 2
    assert "make forget ONLINE=redis" in said
    assert not sealed_files(live_of(repository / "data" / "simulator"))
    assert not (repository / "live" / "simulator" / "forgotten.txt").exists()
    write_json(state / STAMP, {DEFINED: {ENGINE: "sqlite"}})
    assert forgetting("sqlite", "u1")[0] == 0
