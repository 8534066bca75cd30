"""What tests of live events share: an event in few words, and a tail of either engine over files of a test's own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from features.live.redis import RedisTail
from features.live.sqlite import SqliteTail
from features.live.tail import LiveTail
from features.sealed.event import EVENT, LiveEvent
from tests.features.redis_cluster import Cluster
from tests.features.redis_server import RedisServer

Server = RedisServer | Cluster

ENGINES = ("sqlite", "redis")
PLACES = (*ENGINES, "cluster")
"""Where an engine may be: Redis on one server, or on a cluster of them."""
START_US = 1_700_000_000_000_000


def event(event_id: str, user: str = "u", item: str = "i", at: int = 0, **changes: Any) -> LiveEvent:
    """A click. at: microseconds after START_US."""
    values: dict[str, Any] = {"revision": EVENT, "label": 1.0, "role": "impression", "in_history": True}
    return LiveEvent(event_id=event_id, user_id=user, item_id=item, occurred_at=START_US + at, **(values | changes))


def server_of(request: pytest.FixtureRequest, place: str) -> Server | None:
    """The shared one; None for SQLite."""
    return None if place == "sqlite" else request.getfixturevalue(f"redis_{'server' if place == 'redis' else place}")


@contextmanager
def tails_of(folder: Path, server: Server | None) -> Iterator[Callable[[], LiveTail]]:
    """Makes tails over one store: each as another process would open it. server: for Redis; no two folders meet."""
    made: list[LiveTail] = []

    def open_tail() -> LiveTail:
        made.append(RedisTail(server.address, str(folder)) if server else SqliteTail(folder / "live" / "log.db"))
        return made[-1]

    yield open_tail
    for tail in made:
        tail.close()
