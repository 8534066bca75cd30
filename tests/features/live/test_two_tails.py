"""SQLite and Redis keep live events of one source side by side: neither's are lost for what was sealed of the other."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.errors import InputError
from contracts.publish import write_json
from features.live.absorb import absorb
from features.live.open_tail import ENGINE_VARIABLE, live_path, open_tail
from features.live.places import STAMP, read_stamp, state_of
from features.live.tail import LiveTail
from features.online.load import load
from features.online.snapshot import absorbed_seq
from features.online.store import OnlineStore
from features.sealed.files import live_of, read_sealed, sealed_files, sealed_seq
from tests.features.live_tails import event, tails_of
from tests.features.redis_server import RedisServer
from tests.features.small_source import make, take

pytestmark = pytest.mark.xdist_group("redis")
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def tails(tmp_path: Path, redis_server: RedisServer) -> Iterator[dict[str, LiveTail]]:
    with tails_of(tmp_path, None) as sqlite, tails_of(tmp_path, redis_server) as redis:
        yield {"sqlite": sqlite(), "redis": redis()}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """data/<source> of a small log with its snapshot; the source's name is of this test alone."""
    return make(tmp_path)


def absorbing(root: Path, online: str) -> str:
    shutil.copy(ROOT / "params.yaml", root)
    told = os.environ | {ENGINE_VARIABLE: online, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "features.live.absorb"]
    return subprocess.run(command, cwd=root, env=told, capture_output=True, text=True, check=True).stdout


def test_an_event_is_sealed_although_a_newer_one_of_the_other_engine_was(
    tails: dict[str, LiveTail], tmp_path: Path
) -> None:
    folder = tmp_path / "live" / "table"
    tails["sqlite"].append([event("older")])
    tails["redis"].append([event("newer")])
    (of_redis,) = absorb(tails["redis"], folder)
    (of_sqlite,) = absorb(tails["sqlite"], folder)
    assert of_redis == of_sqlite.replace(".parquet", ".redis.parquet")
    assert absorb(tails["redis"], folder) == absorb(tails["sqlite"], folder) == {}
    rows = {path.name: read_sealed(path)["event_id"].to_pylist() for path in sealed_files(folder)}
    assert rows == {of_sqlite: ["older"], of_redis: ["newer"]}
    for engine, tail in tails.items():
        assert sealed_seq(folder, engine) == tail.newest_seq()


def test_an_event_that_only_the_other_engine_s_watermark_covers_is_counted_and_not_pruned(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENGINE_VARIABLE, "sqlite")
    state = state_of(data)
    load(data, state)
    store = OnlineStore.open(state)
    store.append([event("kept", user="u1", item="new")])
    for more in (1, 2):
        take(data, {"redis": store.tail.newest_seq() + more})
        assert load(data, state)
    again = OnlineStore.open(state)
    assert [each.event_id for _, each in again.tail.since(0)] == ["kept"]
    assert again.live.num_events == 1
    for more in (0, 1):
        take(data, {"sqlite": store.tail.newest_seq(), "redis": more})
        assert load(data, state)
    assert OnlineStore.open(state).tail.since(0) == []


def test_a_state_with_one_seq_for_both_engines_is_loaded_again(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENGINE_VARIABLE, "sqlite")
    state = state_of(data)
    load(data, state)
    write_json(state / STAMP, (read_stamp(state) or {}) | {"absorbed_seq": 7})
    with pytest.raises(InputError, match=r"loaded by another version\. `make load`"):
        OnlineStore.open(state)
    assert load(data, state)
    assert (read_stamp(state) or {})["absorbed_seq"] == {"sqlite": 0, "redis": 0}
    OnlineStore.open(state)


def test_a_snapshot_or_watermark_of_another_version_is_named(data: Path) -> None:
    path = data / "feature_snapshot" / "snapshot.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"absorbed_seq": 7}))
    with pytest.raises(InputError, match=r"absorbed_seq is 7, not one seq per engine\. `make run`"):
        load(data, state_of(data))
    write_json(data / "absorbed" / "absorbed.json", {"seq": 7})
    with pytest.raises(InputError, match=r"names \['seq'\].*`dvc repro ingest`"):
        absorbed_seq(data)


def test_absorb_says_where_it_looked_and_that_sqlite_has_more(
    tmp_path: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ENGINE_VARIABLE, raising=False)
    data = tmp_path / "data" / "simulator"
    state, address = state_of(data), f"127.0.0.1:{redis_server.port},db=7"
    said = absorbing(tmp_path, address)
    assert said == f"no live events are left to seal in the Redis at 127.0.0.1:{redis_server.port}\n"
    tail = open_tail(state)
    tail.append([event("here")])
    hint = f"{tmp_path}/live/simulator.db (SQLite) holds live events too, not sealed: `make absorb ONLINE=sqlite`"
    assert hint in absorbing(tmp_path, address)
    assert "sealed 1 in live/simulator/" in absorbing(tmp_path, "sqlite").replace(f"{tmp_path}/", "")
    assert "SQLite" not in absorbing(tmp_path, address)
    told = absorbing(tmp_path, "sqlite")
    assert told == f"no live events are left to seal in {tmp_path}/live/simulator.db (SQLite)\n"
    assert len(sealed_files(live_of(data))) == 1


def test_a_scratch_state_has_a_file_of_its_own_whatever_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEITMOTIF_LIVE", str(tmp_path / "kept.db"))
    assert live_path(tmp_path / ".state" / "s" / "feast") == tmp_path / "kept.db"
    assert live_path(tmp_path / ".state" / "s" / ".replay-1" / "replay-1" / "feast") != tmp_path / "kept.db"
