"""Counts in a Redis whose rows a newer load replaces: workers of the previous load count nothing twice."""

from pathlib import Path

import pytest

from features.feast_store.kept_before import StaleStoreError
from features.feast_store.redis_rows import stored
from features.live.places import state_of
from features.online import load as loading
from features.online.load import load
from features.online.store import OnlineStore
from tests.features.online.test_load import Source
from tests.features.redis_server import RedisServer
from tests.features.small_log import random_log, row

pytestmark = pytest.mark.xdist_group("feast")


def shows_of(store: OnlineStore, user: str) -> int:
    key, counters = store.counters_of(user, store.read(user).counted)
    return int(counters.user_counters.read([key], store.log_end + 10**12)[0][0])


def test_workers_of_the_previous_load_read_its_counts(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEITMOTIF_ONLINE", f"127.0.0.1:{redis_server.port},db=10")
    rows = random_log(7, num_requests=40)
    source = Source(tmp_path, rows)
    source.take_up(rows)
    load(source.data, source.state)
    first = OnlineStore.open(source.state)
    before = shows_of(first, "u1")
    assert before == sum(each["user_id"] == "u1" for each in rows)

    rows += [row("u1", "i03", 9000, 0), row("new", "i03", 9000, 0)]
    source.take_up(rows)
    with monkeypatch.context() as patched:  # a load that ends before it is whole, and is done again

        def fail(*_: object) -> None:
            raise RuntimeError("killed")

        patched.setattr(loading, "_stored", fail)
        with pytest.raises(RuntimeError, match="killed"):
            load(source.data, source.state)
    assert (shows_of(first, "u1"), shows_of(first, "new")) == (before, 0)
    load(source.data, source.state)
    second = OnlineStore.open(source.state)
    assert (shows_of(first, "u1"), shows_of(second, "u1")) == (before, before + 1)
    assert (shows_of(first, "new"), shows_of(second, "new")) == (0, 1)
    assert set(second.user_ids("")) == {"u0", "u1", "u2", "u3", "u4", "new"}
    assert list(second.user_ids("ne")) == ["new"]

    rows += [row("u1", "i03", 9500, 0)]
    source.take_up([each for each in rows if each["user_id"] != "new"])
    load(source.data, source.state)
    third = OnlineStore.open(source.state)
    assert (shows_of(second, "u1"), shows_of(third, "u1")) == (before + 1, before + 2)
    assert shows_of(third, "u2") == shows_of(first, "u2") > 0
    assert "new" not in stored(third.feast, third.state_view)
    with pytest.raises(StaleStoreError, match="open it again"):
        shows_of(first, "u1")
    assert state_of(source.data) == source.state
