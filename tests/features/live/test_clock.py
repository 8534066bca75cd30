"""What `now` is: the wall clock, or the log's end and the time since it was first served; no event moves it."""

import sqlite3
import time
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from redis import Redis

from features.live.clock import Behind, Clock, agreed, wall_us
from features.live.places import state_of
from features.live.tail import LiveTail
from features.online.store import OnlineStore
from tests.features.live_tails import ENGINES, PLACES, event, server_of, tails_of
from tests.features.online.test_online import loaded
from tests.features.redis_server import RedisServer
from tests.features.small_log import START_US, row

pytestmark = pytest.mark.xdist_group("redis")
DAY_US = 86_400 * 1_000_000
YEAR_US = 365 * DAY_US


def test_it_goes_at_the_pace_of_the_wall_clock_and_never_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(behind_us=YEAR_US)
    first, wall = clock.now(), wall_us()
    assert abs(wall - YEAR_US - first) < 1_000_000
    time.sleep(0.01)
    assert 10_000 <= clock.now() - first < 5_000_000
    before = clock.now()
    monkeypatch.setattr(time, "time_ns", lambda: (wall - YEAR_US) * 1_000)  # somebody sets it back
    assert before <= clock.now() < before + 5_000_000


def test_what_is_acknowledged_after_the_wall_clock_was_set_back_is_read_by_the_next_request(
    store: OnlineStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour back: until it has caught up, the clock goes at half the pace."""
    store.follow_log()
    before, wall, began = store.clock.now(), time.time_ns(), time.monotonic_ns()
    monkeypatch.setattr(time, "time_ns", lambda: wall - 3600 * 10**9 + time.monotonic_ns() - began)
    at = store.clock.now()
    store.append([event("a", user="u0", at=at - START_US)._replace(known_at=at)])
    time.sleep(0.1)
    asked = store.clock.now()
    history = store.history("u0")
    assert history is not None
    assert history.occurred_at[-1] == at < asked, "events strictly before the request are read"
    assert 40_000 < asked - at < 0.6 * (time.monotonic_ns() - began) / 1_000
    monkeypatch.setattr(time, "time_ns", lambda: wall + 3600 * 10**9)  # it has caught up
    assert abs(store.clock.now() - before - 3600 * 10**6) < 5_000_000


@pytest.mark.parametrize("engine", ENGINES)
def test_the_least_that_any_process_told_is_what_all_are_behind(
    engine: str, tmp_path: Path, redis_server: RedisServer
) -> None:
    with tails_of(tmp_path, redis_server if engine == "redis" else None) as open_tail:
        one, other = open_tail(), open_tail()
        assert one.marks().behind is None
        assert [one.behind(70), other.behind(90), other.behind(50), one.behind(60)] == [70, 70, 50, 50]
        assert one.marks().behind == other.marks().behind == 50
        assert one.behind(-3) == -3  # the log is ahead of the wall clock


@pytest.fixture
def store(tmp_path: Path) -> OnlineStore:
    return loaded(tmp_path / "data" / "table", [row(f"u{number}", f"i{number}", number) for number in range(3)])


def test_one_event_of_a_stranger_moves_nobody_s_clock(store: OnlineStore) -> None:
    store.follow_log()
    before = store.clock.now()
    assert 0 <= before - store.logged_end < 60_000_000
    store.append([event("today", user="stranger", at=3 * YEAR_US)])
    store.refresh()
    assert store.log_end > before + 2 * YEAR_US
    assert store.clock.now() - before < 60_000_000


def test_it_is_the_same_where_the_store_is_opened_again_later(store: OnlineStore, tmp_path: Path) -> None:
    store.follow_log()
    time.sleep(0.05)
    again = OnlineStore.open(state_of(tmp_path / "data" / "table"))
    assert again.clock.behind_us == 0
    again.follow_log()
    assert again.clock.behind_us == store.clock.behind_us
    assert abs(wall_us() - store.clock.behind_us - again.clock.now()) < 1_000_000


def test_it_is_never_before_the_end_of_what_is_loaded_and_every_worker_follows(
    store: OnlineStore, tmp_path: Path
) -> None:
    """The raw log had grown by an hour when it was loaded again."""
    store.follow_log()
    hour = 3_600
    longer = loaded(tmp_path / "data" / "table", [row("u0", "i0", 0), row("u1", "i1", hour)])
    longer.follow_log()
    assert START_US + hour * 1_000_000 < longer.clock.now() < START_US + (hour + 60) * 1_000_000
    store.refresh()
    assert store.clock.now() >= longer.clock.now() - 60_000_000 > START_US + (hour - 61) * 1_000_000


@pytest.mark.parametrize("engine", ENGINES)
def test_a_row_with_a_wrong_time_moves_the_clock_until_a_log_without_it_is_loaded(
    engine: str, tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps the time since it was first served, and no restart of what was loaded before brings it forth again."""
    monkeypatch.setenv("LEITMOTIF_ONLINE", redis_server.address if engine == "redis" else engine)
    data, rows = tmp_path / "data" / f"log{uuid4().hex}", [row("u0", "i0", 0), row("u1", "i1", 60)]
    far_s = 30 * 86_400
    wrong = loaded(data, [*rows, row("u2", "i2", far_s)])
    wrong.tail.behind(wall_us() - wrong.logged_end - 10**9, wrong.logged_end, wrong.loaded_at)  # a thousand seconds ago
    wrong.follow_log()
    assert wrong.clock.now() >= START_US + (far_s + 1_000) * 10**6
    right = loaded(data, rows)
    assert right.clock.behind_us == 0
    right.follow_log()
    assert 1_000 <= (right.clock.now() - right.logged_end) / 1e6 < 1_060
    wrong.follow_log()  # a worker that had opened it just before
    again = OnlineStore.open(state_of(data))
    again.follow_log()
    assert again.clock.behind_us == right.clock.behind_us
    told = wrong.clock.now()
    wrong.refresh()
    right.refresh()
    assert wrong.clock.now() >= told, "it goes back in no store that is open"
    assert wrong.clock.behind_us == right.clock.behind_us == again.clock.behind_us
    longer = loaded(data, [*rows, row("u0", "i1", 90)])
    longer.follow_log()
    assert longer.clock.behind_us == right.clock.behind_us, "the clock is past its end already"


SAID = [  # (us, end, load), how far it is behind for who told it, and for all; in days
    ((100, 900, 1), 100, 100),
    ((90, 950, 2), 90, 90),  # the log grew
    ((105, 940, 3), 100, 100),  # what came after 940 was corrected
    ((96, 950, 2), 96, 100),  # a restart of what was loaded before, alone with its end
    ((107, 940, 3), 100, 100),
    ((500, 700, 4), 340, 340),
    ((500, 800, 5), 340, 340),
    ((600, 700, 6), 340, 340),  # 800 did not set it
    ((600, 699, 7), 340, 340),  # the last rows of a day are gone, such as a forgotten user's
    ((600, 698, 8), 342, 342),
]


@pytest.mark.parametrize("place", PLACES)
def test_it_goes_back_by_what_a_later_load_lacks_at_the_end(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with tails_of(tmp_path, server_of(request, place)) as open_tail:
        one, other = open_tail(), open_tail()
        for number, ((us, end, load), own, shared) in enumerate(SAID):
            assert (one, other)[number % 2].behind(us * DAY_US, end * DAY_US, load) == own * DAY_US
            assert one.marks().behind == shared * DAY_US


@pytest.mark.parametrize("engine", ENGINES)
def test_both_stores_keep_what_the_rule_says(engine: str, tmp_path: Path, redis_server: RedisServer) -> None:
    random, far = np.random.default_rng(5), 4_000_000_000 * 10**6  # 2096, in us
    with tails_of(tmp_path, redis_server if engine == "redis" else None) as open_tail:
        tail, held = open_tail(), None
        for _ in range(300):
            end, load = int(random.integers(far)), int(random.integers(40))
            told = Behind(far // 2 - end, end, load)
            held = agreed(held, told)
            assert tail.behind(*told) == min(told.us, held.us)
            assert tail.marks().behind == held.us


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("held", "told", "then"), [(-50, 70, 70), (-50, -40, -50), (50, 70, 50), (50, 40, 40)])
def test_a_clock_that_an_older_version_left_in_the_future_follows_a_log_that_ends_in_the_past(
    engine: str, held: int, told: int, then: int, tmp_path: Path, redis_server: RedisServer
) -> None:
    with tails_of(tmp_path, redis_server if engine == "redis" else None) as open_tail:
        tail = open_tail()
        tail.newest_seq()  # opens it
        if engine == "redis":
            Redis("127.0.0.1", redis_server.port).hset(f"{tmp_path}:marks", "behind", str(held))
        else:
            with sqlite3.connect(tmp_path / "live" / "log.db") as file:
                file.execute("INSERT INTO marks VALUES ('behind', ?)", (held,))
        assert tail.behind(told, 1, 1) == then
        assert tail.marks().behind == then


def test_a_lost_tail_does_not_set_it_back_while_somebody_serves(store: OnlineStore, tmp_path: Path) -> None:
    tail: LiveTail = store.tail
    told = tail.behind(wall_us() - store.logged_end - 10**9)  # served for a thousand seconds
    store.follow_log()
    assert store.clock.behind_us == told
    store.append([event("a")])
    for left in tmp_path.glob("live/table.db*"):
        left.unlink()
    with pytest.raises(Exception, match="lost, emptied or replaced"):
        store.refresh()
    again = OnlineStore.open(state_of(tmp_path / "data" / "table"))
    again.follow_log()
    assert again.clock.behind_us == told
