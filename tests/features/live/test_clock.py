"""What `now` is: the wall clock, or the log's end and the time since it was first served; no event moves it."""

import time
from pathlib import Path

import pytest

from features.live.clock import Clock, wall_us
from features.live.places import state_of
from features.live.tail import LiveTail
from features.online.store import OnlineStore
from tests.features.live_tails import ENGINES, event, tails_of
from tests.features.online.test_online import loaded
from tests.features.redis_server import RedisServer
from tests.features.small_log import START_US, row

pytestmark = pytest.mark.xdist_group("redis")
YEAR_US = 365 * 86_400 * 1_000_000


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
