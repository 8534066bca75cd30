"""What goes wrong with the engines of live events, done to real ones: a bounded error that says what to do."""

import contextlib
import logging
import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.errors import InputError
from features.live.deadline import due
from features.live.redis import RedisTail
from features.live.sqlite import SqliteTail
from features.sealed.event import Fate
from tests.clones import ROOT
from tests.features.feast_stores import append, close, history_of, open_feast, read, row_of, seen, write
from tests.features.live_tails import event
from tests.features.redis_server import DURABLE, RedisServer

pytestmark = pytest.mark.xdist_group("redis")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "live" / "log.db"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """One that may be killed and paused."""
    with RedisServer(tmp_path / "redis") as started:
        yield started


def test_sqlite_locked_by_another_connection_is_a_bounded_error_and_then_works(path: Path) -> None:
    tail = SqliteTail(path, wait_s=0.2)
    tail.append([event("a")])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    with pytest.raises(InputError, match=r"locked by another process for 0\.2 s"):
        tail.append([event("b")])
    assert time.monotonic() - started < 5
    assert tail.histories(["u"], 5) == [[event("a")]]
    other.execute("ROLLBACK")
    other.close()
    assert tail.append([event("b")]) == [Fate.NEW]
    tail.close()


def test_sqlite_is_waited_for_while_it_is_locked_for_a_moment(path: Path) -> None:
    tail = SqliteTail(path)
    tail.newest_seq()
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.3, lambda: other.execute("COMMIT"))
    timer.start()
    assert tail.append([event("a")]) == [Fate.NEW]
    timer.join()
    other.close()
    tail.close()


@pytest.mark.parametrize("where", ["start", "middle"])
def test_a_damaged_sqlite_file_is_an_error_that_says_how_to_save_what_can_be_read(path: Path, where: str) -> None:
    tail = SqliteTail(path)
    tail.append([event(f"e{number:04}", at=number) for number in range(2000)])
    tail.close()
    size = path.stat().st_size
    with path.open("r+b") as handle:
        handle.seek(0 if where == "start" else 8192)
        handle.write(b"\xff" * (100 if where == "start" else size - 8192))
    with pytest.raises(InputError, match=rf"{path.name}.*sqlite3 {path} \.recover"):
        SqliteTail(path).since(0)
    path.rename(path.with_suffix(".damaged"))
    again = SqliteTail(path)
    assert again.append([event("a")]) == [Fate.NEW]
    again.close()


def test_a_file_of_another_format_is_refused(path: Path) -> None:
    path.parent.mkdir()
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 7")
    other.close()
    with pytest.raises(InputError, match="its format is 7, ours 2"):
        SqliteTail(path).newest_seq()


def test_a_file_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        SqliteTail(tmp_path / "file" / "log.db").newest_seq()
    with pytest.raises(InputError, match="SQLITE_CANTOPEN"):
        SqliteTail(tmp_path).newest_seq()


def test_a_file_taken_away_while_it_is_open_is_made_anew(path: Path) -> None:
    tail = SqliteTail(path)
    tail.append([event("a")])
    before = tail.newest_seq()
    for each in path.parent.iterdir():
        each.unlink()
    assert tail.append([event("b")]) == [Fate.NEW]
    assert SqliteTail(path).since(0) == [(tail.newest_seq(), event("b"))]
    assert tail.newest_seq() > before
    tail.close()


def test_a_lost_file_is_logged_once_and_seqs_increase_even_if_the_clock_went_back(
    path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tail = SqliteTail(path)
    tail.append([event("a")])
    before = tail.marks()
    for each in path.parent.iterdir():
        each.unlink()
    wall = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: wall - 3_600 * 10**9)
    assert tail.append([event("b")]) == [Fate.NEW]
    after = tail.marks()
    assert after.newest > before.newest
    assert after.origin not in (0, before.origin)
    (said,) = [record.getMessage() for record in caplog.records]
    assert f"{path} was taken away while it was in use; it is made anew, empty" in said
    assert "put the file in place" in said
    tail.close()


def test_another_file_in_the_place_of_the_one_in_use_is_said(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tail, other = SqliteTail(path), SqliteTail(path.with_name("other.db"))
    tail.append([event("a")])
    other.append([event("b")])
    other.close()
    os.replace(path.with_name("other.db"), path)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    assert [each.event_id for _, each in tail.since(0)] == ["b"]
    assert [record.getMessage().split(". ")[0].split("; ")[1] for record in caplog.records] == [
        "another file is in its place"
    ]
    tail.close()


def test_a_log_of_sqlite_that_is_taken_away_is_no_place_to_write_to_and_loses_nothing(path: Path) -> None:
    """SQLite itself keeps writing to the unlinked file, acknowledges, and loses everything when it closes."""
    tail = SqliteTail(path)
    tail.append([event("a")])
    path.with_name(f"{path.name}-wal").unlink()
    for ask in (lambda: tail.append([event("b")]), tail.marks, lambda: tail.held(["a"])):
        with pytest.raises(InputError, match=r"-wal was taken away while it was in use.* start it again"):
            ask()
    kept = Path(shutil.copy(path, path.with_name("kept.db")))  # as after kill -9
    tail.close()
    for each in (SqliteTail(kept), SqliteTail(path)):
        assert [held.event_id for _, held in each.since(0)] == ["a"]
        assert each.append([event("b")]) == [Fate.NEW]
        each.close()


@pytest.mark.parametrize("size", [0, 5000])
def test_a_file_that_is_cut_short_while_it_is_in_use_takes_nothing_more(path: Path, size: int) -> None:
    tail = SqliteTail(path)
    tail.append([event(str(number)) for number in range(50)])
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint")
    tail.marks()
    os.truncate(path, size)
    for ask in (lambda: tail.append([event("b")]), tail.marks, lambda: tail.held(["1"])):
        with pytest.raises(InputError, match=f"cut short while it was in use.* to {size:,}.* from a copy"):
            ask()
    tail.close()


def test_a_file_that_grows_while_two_threads_look_at_it_is_not_taken_for_cut_short(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tail, writer = SqliteTail(path), SqliteTail(path)
    tail.append([event("a")])
    looks, look = iter(range(100)), os.stat

    def stat(of: Path, **how: bool) -> os.stat_result:
        """The first thread is held up between its look and what it makes of it, while the file grows."""
        found = look(of, **how)
        if of == path and threading.current_thread() is threading.main_thread() and next(looks) == 1:  # after its inode
            writer.append([event(f"more {number}") for number in range(500)])
            with contextlib.closing(sqlite3.connect(path)) as other:
                other.execute("PRAGMA wal_checkpoint")
            later.start()
            later.join(1)  # it may have to wait for the first
        return found

    later = threading.Thread(target=tail.marks)
    size = look(path).st_size
    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", stat)
        tail.marks()
    later.join()
    assert look(path).st_size > size
    for each in (tail, writer):
        each.close()


def test_a_seq_is_greater_than_one_that_is_known_to_have_been_given(path: Path, server: RedisServer) -> None:
    """Of a store that was lost while nobody had it open: the stamp says what was absorbed."""
    given = 2 * time.time_ns() // 1_000
    for tail in (SqliteTail(path, acknowledged=given), RedisTail(server.address, "p", acknowledged=given)):
        tail.append([event("a"), event("b")])
        assert [seq for seq, _ in tail.since(0)] == [given + 1, given + 2]
        tail.close()


def test_a_locked_file_is_waited_for_no_longer_than_the_request_lasts(path: Path) -> None:
    tail = SqliteTail(path)
    tail.append([event("a")])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    with (
        due(started + 0.3),
        pytest.raises(InputError, match=r"locked by another process for 0\.3 s.*Nothing was written"),
    ):
        tail.append([event("b")])
    assert time.monotonic() - started < 2  # of the 5 s that are waited for where nobody waits for an answer
    other.execute("ROLLBACK")
    other.close()
    with due(time.monotonic() - 1), pytest.raises(InputError, match="The time for an answer was over"):
        tail.append([event("b")])
    assert [each.event_id for _, each in tail.since(0)] == ["a"]
    tail.close()


def test_redis_is_asked_nothing_once_the_request_is_due(server: RedisServer) -> None:
    tail = RedisTail(server.address, "p")
    tail.append([event("a")])
    with due(time.monotonic() - 1), pytest.raises(InputError, match="The time for an answer was over"):
        tail.append([event("b")])
    assert [each.event_id for _, each in tail.since(0)] == ["a"]
    tail.close()


@pytest.mark.parametrize("engine", ["sqlite", "redis"])
def test_a_size_grows_with_what_is_kept(engine: str, path: Path, server: RedisServer) -> None:
    tail = SqliteTail(path) if engine == "sqlite" else RedisTail(server.address, "p")
    tail.append([event("a")])
    before = tail.size()
    tail.append([event(f"e{number}") for number in range(2_000)])
    assert tail.size() - before > 100_000
    tail.close()


def test_a_full_disk_keeps_nothing_of_the_call_and_says_so(path: Path) -> None:
    """A limit on file sizes simulates a full disk."""
    code = """if True:
        import resource, sys
        from pathlib import Path
        from contracts.errors import InputError
        from features.live.sqlite import SqliteTail
        from tests.features.live_tails import event
        tail = SqliteTail(Path(sys.argv[1]))
        tail.append([event("a")])
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        kept = 0
        try:
            while True:
                tail.append([event(f"{kept}-{number}") for number in range(50)])
                kept += 1
        except InputError as error:
            print(kept, error)
        """
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True, check=True)
    kept, message = done.stdout.split(" ", 1)
    assert "Look at its disk" in message
    tail = SqliteTail(path)
    assert len(tail.since(0)) == 1 + 50 * int(kept)
    assert tail.append([event("more")]) == [Fate.NEW]
    tail.close()


def test_a_forked_process_writes_through_connections_of_its_own(path: Path) -> None:
    tail = SqliteTail(path)
    tail.append([event("parent")])
    child = multiprocessing.get_context("fork").Process(target=lambda: tail.append([event("child")]) and tail.close())
    child.start()
    child.join()
    assert child.exitcode == 0
    assert tail.append([event("parent again"), event("child")]) == [Fate.NEW, Fate.REPEATED]
    tail.close()


def test_many_threads_that_come_and_go_leave_few_connections(path: Path) -> None:
    tail = SqliteTail(path)
    before = len(os.listdir("/proc/self/fd"))  # of all tests in this process
    for number in range(50):
        thread = threading.Thread(target=tail.append, args=([event(f"{number}")],))
        thread.start()
        thread.join()
    assert len(tail.since(0)) == 50
    assert len(os.listdir("/proc/self/fd")) < before + 25
    tail.close()


def test_forgotten_users_leave_no_bytes_in_the_file(path: Path) -> None:
    tail = SqliteTail(path)
    tail.append([event(f"e{number}", user="reader-of-secrets", item=f"film{number}") for number in range(100)])
    tail.append([event("kept", user="v")])
    tail.forget(["reader-of-secrets"])
    for each in path.parent.iterdir():
        assert b"reader-of-secrets" not in each.read_bytes()
        assert b"film" not in each.read_bytes()
    tail.close()


def test_users_forgotten_while_redis_rewrites_its_file_leave_no_bytes_either(server: RedisServer) -> None:
    tail = RedisTail(server.address, "p")
    tail.append([event("a", user="reader-of-secrets")])
    server.command("CONFIG", "SET", "rdb-key-save-delay", 100_000)  # microseconds a key
    server.command("BGREWRITEAOF")
    tail.forget(["reader-of-secrets"])
    server.command("CONFIG", "SET", "rdb-key-save-delay", 0)

    def holds() -> bool:
        return any(b"reader-of-secrets" in path.read_bytes() for path in server.folder.rglob("*.aof"))

    deadline = time.monotonic() + 20
    while holds():
        assert time.monotonic() < deadline, "the rewrite that was under way was the last one"
        time.sleep(0.02)
    tail.close()


def test_a_rewrite_that_does_not_end_is_told_with_the_command_for_later(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("features.live.redis_rewrite.WAITED_S", 0.2)
    tail = RedisTail(server.address, "p")
    tail.append([event("a", user="reader-of-secrets")])
    server.command("CONFIG", "SET", "rdb-key-save-delay", 1_000_000)
    server.command("BGREWRITEAOF")
    with caplog.at_level(logging.WARNING, logger="leitmotif"):
        tail.forget(["reader-of-secrets"])
    (said,) = [each.getMessage() for each in caplog.records]
    assert f"redis-cli -p {server.port} BGREWRITEAOF" in said
    tail.close()


def test_a_request_does_not_wait_for_a_rewrite_longer_than_it_lives(server: RedisServer) -> None:
    tail = RedisTail(server.address, "p")
    tail.append([event("a", user="reader-of-secrets")])
    server.command("CONFIG", "SET", "rdb-key-save-delay", 1_000_000)
    server.command("BGREWRITEAOF")
    started = time.monotonic()
    with due(started + 0.3), contextlib.suppress(InputError):
        tail.forget(["reader-of-secrets"])
    assert time.monotonic() - started < 2
    tail.close()


def test_redis_that_is_down_is_an_error_that_says_how_to_start_it(server: RedisServer) -> None:
    server.kill()
    tail = RedisTail(server.address, "p")
    with pytest.raises(InputError, match="redis-server --appendonly yes --appendfsync always"):
        tail.append([event("a")])
    server.start()
    assert tail.append([event("a")]) == [Fate.NEW]
    tail.close()


def test_redis_killed_and_started_again_has_all_that_was_acknowledged(server: RedisServer) -> None:
    tail = RedisTail(server.address, "p")
    acknowledged: list[str] = []

    def write_on() -> None:
        try:
            while True:
                name = f"e{len(acknowledged)}"
                tail.append([event(name, at=len(acknowledged))])
                acknowledged.append(name)
        except InputError:
            pass

    writer = threading.Thread(target=write_on)
    writer.start()
    while len(acknowledged) < 100:
        time.sleep(0.01)
    server.kill()
    writer.join()
    server.start()
    kept = [each.event_id for _, each in tail.since(0, limit=100_000)]
    assert kept[: len(acknowledged)] == acknowledged
    assert len(kept) <= len(acknowledged) + 1
    assert tail.append([event(name) for name in kept]) == [Fate.REPEATED] * len(kept)
    tail.close()


def test_redis_that_does_not_answer_is_a_bounded_error_and_sending_again_is_safe(server: RedisServer) -> None:
    tail = RedisTail(server.address, "p", wait_s=0.3)
    tail.append([event("a")])
    server.pause()
    started = time.monotonic()
    try:
        with pytest.raises(InputError, match=r"did not answer within 0\.3 s"):
            tail.append([event("b")])
        assert time.monotonic() - started < 3
    finally:
        server.resume()
    assert tail.append([event("b")]) in ([Fate.NEW], [Fate.REPEATED])
    assert [each.event_id for _, each in tail.since(0)] == ["a", "b"]
    tail.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--appendonly", "no"), "has appendonly no"),
        (("--appendonly", "yes", "--appendfsync", "everysec"), "appendfsync everysec"),
        (
            (
                "--appendonly",
                "yes",
                "--appendfsync",
                "always",
                "--maxmemory",
                "50mb",
                "--maxmemory-policy",
                "allkeys-lru",
            ),
            "noeviction",
        ),
    ],
)
def test_redis_that_would_lose_events_is_refused(tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    with RedisServer(tmp_path, *options) as server:
        tail = RedisTail(server.address, "p")
        with pytest.raises(InputError, match=message):
            tail.append([event("a")])
        tail.close()


def test_redis_whose_settings_are_not_ours_to_read_is_used(tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--appendonly", "no", "--rename-command", "CONFIG", "") as server:
        tail = RedisTail(server.address, "p")
        assert tail.append([event("a")]) == [Fate.NEW]
        tail.close()


def test_redis_that_is_out_of_memory_keeps_none_of_a_call(tmp_path: Path) -> None:
    with RedisServer(tmp_path, *DURABLE, "--maxmemory", "1500kb") as server:
        tail = RedisTail(server.address, "p")
        with pytest.raises(InputError, match=r"refuses.*Nothing of this call was kept"):
            for number in range(1000):
                tail.append([event(f"{number}-{part}") for part in range(100)])
        assert len(tail.since(0, limit=10**6)) == 100 * number
        tail.close()


def test_an_address_that_names_no_redis_is_an_error() -> None:
    with pytest.raises(InputError, match="does not name a Redis server"):
        RedisTail("redis://localhost:6379", "p")


def test_feast_over_a_redis_that_dies_says_so_and_goes_on_after_it_is_back(tmp_path: Path, server: RedisServer) -> None:
    store = open_feast("redis", tmp_path / "feast", server)
    base, live = [event("a")], [event("b", at=1)]
    write(store, [row_of("u", base)])
    append(store, live)
    server.kill()
    with pytest.raises(InputError, match="redis-server --appendonly yes"):
        read(store, ["u"])
    with pytest.raises(InputError, match="make load"):
        write(store, [row_of("u", base)])
    server.start()
    assert read(store, ["u"]) == [seen(history_of(base + live))]
    close(store)
