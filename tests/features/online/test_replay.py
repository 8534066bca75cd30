"""A log that is fed event by event reads, at every request, as the log's tables do, on SQLite and on Redis."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.errors import InputError
from contracts.publish import write_json
from contracts.schema import ROLE_IMPRESSION
from features.live.open_tail import ENGINE_VARIABLE, redis_address
from features.live.places import read_stamp, state_of
from features.online.load import load
from features.online.parity import replay_from, replay_requests
from features.online.replay import Replay, replaying
from features.online.snapshot import write_snapshot
from features.online.store import OnlineStore
from features.sealed.event import EVENT, LiveEvent
from features.stages.materialize import parity_spec, run
from features.tables.histories import UserHistories
from tests.features.live_tails import PLACES, server_of
from tests.features.small_log import (
    START_US,
    build,
    history,
    labels,
    materialize,
    random_log,
    row,
    settings,
    statistics,
    validate,
)

pytestmark = [pytest.mark.xdist_group("redis"), pytest.mark.usefixtures("engine")]
TOLD = statistics(context=True, devices=("phone", "tv"), coclick_rank=4)


@pytest.fixture(scope="module", params=PLACES)
def address(request: pytest.FixtureRequest) -> str:
    """What LEITMOTIF_ONLINE says."""
    server = server_of(request, request.param)
    return server.address if server else "sqlite"


@pytest.fixture
def engine(address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(ENGINE_VARIABLE, address)
    return address


def made(folder: Path, rows: list[dict[str, Any]], told: Any = TOLD, **changes: Any) -> tuple[Path, dict[str, Any]]:
    """data/<source> of a log with its snapshot, and what snapshot.json holds."""
    data = folder / "data" / f"log{folder.name[-8:]}"
    histories = build(data, rows, told, **changes)
    sections = {"statistics": told, "validate": validate()}
    named = {name: section.model_dump(mode="json") for name, section in sections.items()}
    held = history(**changes).model_dump(mode="json") | named
    (data / "feature_snapshot").mkdir()
    stamp = write_snapshot(data, histories, held["max_length"], held, data / "feature_snapshot")
    return data, stamp


@pytest.mark.parametrize(
    "changes",
    [
        {"lag_s": 5},
        {"labels": "all", "session_gap_s": 40, "session_max_s": 90},
        {"max_length": 14, "session_gap_s": 100},
        {"retention_s": 1500},
    ],
    ids=["lagged", "all labels, short sessions", "cut", "retention"],
)
def test_every_request_of_a_replayed_log_reads_as_its_tables(tmp_path: Path, changes: dict[str, Any]) -> None:
    rows = random_log(7, num_users=6, num_requests=120)
    data, stamp = made(tmp_path, [each | {"session_id": f"s{n % 7}"} if n % 3 else each for n, each in enumerate(rows)],
                       **changes)  # fmt: skip
    spec, from_us = parity_spec(history(**changes), TOLD), replay_from(data, 0.7)
    with replaying(data, stamp, from_us, tmp_path / "scratch") as replay:
        compared, left_out = replay_requests(replay, data, spec, from_us, 10_000)
        assert replay.fed > 100
    assert compared.checked + left_out == 84
    assert compared.checked > (40 if "max_length" in changes else 80)
    assert compared.first == []
    assert not (tmp_path / "scratch").exists()


def test_a_replay_leaves_nothing_behind(tmp_path: Path, engine: str) -> None:
    data, stamp = made(tmp_path, random_log(3))
    with replaying(data, stamp, replay_from(data, 0.5), tmp_path / "scratch") as replay:
        replay.upto(2**62)
        assert replay.store.history("u1") is not None
    if address := redis_address():
        client = address.connect(wait_s=1)
        assert [key for key in client.scan_iter() if b"scratch" in key] == []
        client.close()


@pytest.fixture
def replay(tmp_path: Path) -> Iterator[tuple[Replay, Path, int]]:
    data, stamp = made(tmp_path, random_log(9, num_requests=100), lag_s=5)
    from_us = replay_from(data, 0.6)
    with replaying(data, stamp, from_us, tmp_path / "scratch") as opened:
        yield opened, data, from_us


def compare(replay: tuple[Replay, Path, int]) -> list[dict[str, str]]:
    opened, data, from_us = replay
    return replay_requests(opened, data, parity_spec(history(lag_s=5), TOLD), from_us, 10_000)[0].first


def test_an_event_that_no_history_got_is_caught_and_named(replay: tuple[Replay, Path, int]) -> None:
    opened, *_ = replay
    feed = opened.feed
    lost = int(np.flatnonzero(feed.in_history)[2])
    user = feed.events["user_id"][lost].as_py()
    feed.in_history[lost] = False
    first = compare(replay)[0]
    assert first["whose"].startswith(f"{user} at ")
    assert first["field"] == "item_index"
    assert first["offline"] != first["online"]


def test_an_event_that_came_a_second_late_is_caught(replay: tuple[Replay, Path, int]) -> None:
    opened, *_ = replay
    late = int(np.flatnonzero(opened.feed.in_history)[3])
    opened.feed.occurred_at = opened.feed.occurred_at + np.where(
        np.arange(len(opened.feed.times)) == late, 1_000_000, 0
    )
    assert compare(replay)


def test_a_show_that_was_counted_twice_is_caught_and_named(replay: tuple[Replay, Path, int]) -> None:
    opened, *_ = replay
    item = opened.feed.events["item_id"][0].as_py()
    extra = LiveEvent("extra", EVENT, "nobody", item, int(opened.feed.times[0]), 0.0, ROLE_IMPRESSION, False)
    opened.store.append([extra])
    assert compare(replay)[0]["field"].startswith("item_shows")


def test_materialize_replays_on_the_chosen_engine_and_finds_nothing(tmp_path: Path) -> None:
    data, _ = made(tmp_path, random_log(5, num_requests=80), lag_s=5)
    report = run(data, history(lag_s=5), TOLD, materialize(), validate(), labels())
    assert report["first_mismatches"] == []
    assert report["parity_by_part"]["replay"]["checked"] >= 20


def test_live_events_change_what_is_loaded_and_a_later_load_holds_them(tmp_path: Path, engine: str) -> None:
    rows = random_log(4)
    data, _ = made(tmp_path, rows, statistics())
    state = state_of(data)
    assert load(data, state)
    assert not load(data, state)
    assert (state / "online.db").exists() == (engine == "sqlite")
    store = OnlineStore.open(state)
    before = store.history("u1")
    assert before is not None
    at = START_US + 5_000_000_000
    store.append([LiveEvent("live", EVENT, "u1", "new", at, 1.0, ROLE_IMPRESSION, True)])
    after = store.history("u1")
    assert after is not None
    assert after.item_ids == [*before.item_ids, "new"]
    assert store.log_end == at + 1
    seq = store.tail.newest_seq()
    build(data, [*rows, row("u1", "new", 5_000, event_id="live")], statistics())
    write_json(data / "absorbed" / "absorbed.json", {store.tail.engine: seq})
    write_snapshot(data, UserHistories.open(data / "user_histories"), 50, settings(), data / "feature_snapshot")
    assert load(data, state)
    assert (read_stamp(state) or {})["absorbed_seq"][store.tail.engine] == seq
    again = OnlineStore.open(state)
    held = again.history("u1")
    assert held is not None
    assert held.item_ids == after.item_ids
    assert again.live.num_events == 0
    shows = again.counters.item_counters.read([again.item_key("new")], again.log_end)[0]
    assert shows.tolist() == [1]
    store.tail.close()
    again.tail.close()


def test_rows_that_are_older_or_gone_in_a_later_snapshot_are_so_online(tmp_path: Path) -> None:
    rows = [row("u1", f"i{n}", n) for n in range(6)] + [row("u2", "i0", 3), row("u3", "i1", 4)]
    data, _ = made(tmp_path, rows, statistics())
    state = state_of(data)
    load(data, state)
    build(data, [*rows[:3], *rows[6:7]], statistics())
    write_snapshot(data, UserHistories.open(data / "user_histories"), 50, settings(), data / "feature_snapshot")
    load(data, state)
    store = OnlineStore.open(state)
    first, second, third = store.histories(["u1", "u2", "u3"])
    assert first is not None
    assert second is not None
    assert (first.item_ids, second.item_ids, third) == (["i0", "i1", "i2"], ["i0"], None)
    store.tail.close()


def test_a_state_of_another_engine_or_an_emptied_redis_is_loaded_again(
    tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine == "sqlite":
        pytest.skip("said by the case of Redis")
    data, _ = made(tmp_path, random_log(2), statistics())
    state = state_of(data)
    load(data, state)
    address = redis_address()
    assert address is not None
    client = address.connect(wait_s=1)
    client.flushall()
    client.close()
    with pytest.raises(InputError, match="make load"):
        OnlineStore.open(state)
    assert load(data, state)
    assert OnlineStore.open(state).history("u1") is not None
    monkeypatch.setenv(ENGINE_VARIABLE, "sqlite")
    assert load(data, state)
    assert OnlineStore.open(state).history("u1") is not None
