"""New live events get greater numbers than all sealed ones, whatever became of the store that gave those."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from features.live.absorb import absorb
from features.live.open_tail import ENGINE_VARIABLE, open_tail
from features.live.tail import LiveTail
from features.sealed.files import read_sealed, sealed_name
from tests.features.live_tails import ENGINES, event
from tests.features.redis_server import RedisServer

pytestmark = pytest.mark.xdist_group("redis")
AHEAD_US = 40 * 86_400_000_000
"""How far the clock was ahead."""


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> str:
    online = "sqlite" if request.param == "sqlite" else f"127.0.0.1:{redis_server.port}"
    monkeypatch.setenv(ENGINE_VARIABLE, online)
    return request.param


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Of a source of this test alone."""
    return tmp_path / ".state" / tmp_path.name / "feast"


@pytest.fixture
def lost(engine: str, state: Path, tmp_path: Path) -> Iterator[Path]:
    """The file that was sealed of a store that is lost, and whose clock was ahead."""
    ahead = time.time_ns() // 1_000 + AHEAD_US
    tail, folder = open_tail(state, acknowledged=ahead), tmp_path / "live" / tmp_path.name
    tail.append([event("before")])
    day = sealed_name(f"{datetime.fromtimestamp(ahead / 1e6, UTC):%Y-%m-%d}", engine)
    assert absorb(tail, folder) == {day: 1}
    tail.drop()
    yield folder / day
    open_tail(state).drop()


def appended(state: Path) -> LiveTail:
    """The store made anew, with one event."""
    tail = open_tail(state)
    tail.append([event("after")])
    return tail


def test_events_of_a_new_store_are_sealed_although_the_clock_was_ahead_before(state: Path, lost: Path) -> None:
    assert absorb(appended(state), lost.parent) == {lost.name: 1}
    assert read_sealed(lost)["event_id"].to_pylist() == ["before", "after"]


def test_beside_a_damaged_file_they_are_numbered_after_its_day(state: Path, lost: Path) -> None:
    end = datetime.fromisoformat(lost.name.partition(".")[0]).replace(tzinfo=UTC).timestamp() + 86_400
    lost.write_bytes(lost.read_bytes()[:-9])
    ((seq, _),) = appended(state).since(0)
    assert seq == round(end * 1e6)
