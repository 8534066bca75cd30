"""A Redis Cluster that wants a password and speaks TLS alone: loaded, read and followed through a failover."""

import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts.errors import InputError
from features.live.open_tail import ENGINE_VARIABLE, place_of, prefix_of
from features.live.redis import RedisTail
from features.online.load import load
from features.online.parity import compare_snapshot
from features.online.store import OnlineStore
from features.sealed.event import Fate
from tests.features.live_tails import event
from tests.features.online.test_load import Source
from tests.features.online.test_redis_cluster import append_until_taken
from tests.features.redis_cluster import Cluster, Guard
from tests.features.small_log import random_log

pytestmark = pytest.mark.xdist_group("redis")
PASSWORD = "1e5-of-nobody"


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Guard:
    """An authority of its own, and a certificate for loopback."""
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "san").write_text("subjectAltName=IP:127.0.0.1")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -keyout ca.key -out ca.crt -subj /CN=ours",
        "req -newkey rsa:2048 -nodes -keyout node.key -out node.csr -subj /CN=node",
        "x509 -req -in node.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile san -out node.crt",
    ):
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    return Guard(folder, PASSWORD)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, guard: Guard) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("guarded"), guard) as cluster:
        yield cluster


def test_a_log_is_loaded_over_tls_with_a_password_and_read_as_its_snapshot_before_and_after_a_failover(
    tmp_path: Path, guarded: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(ENGINE_VARIABLE, guarded.address)
    source = Source(tmp_path, random_log(7, num_users=40, num_requests=60), f"log{tmp_path.name[-12:]}")
    source.take_up(source.rows)
    with caplog.at_level(logging.INFO):
        assert load(source.data, source.state)
    store = OnlineStore.open(source.state)
    assert [each.mismatches for each in compare_snapshot(store, source.snapshot)] == [0, 0, 0]
    assert min(each.checked for each in compare_snapshot(store, source.snapshot)) > 5
    assert store.append([event("a", user="u3")]) == [Fate.NEW]
    primary = guarded.primary_of(f"{{{prefix_of(source.state)}}}:log")
    primary.kill()
    assert append_until_taken(store.tail, [event("a", user="u3")]) == [Fate.REPEATED]  # type: ignore[arg-type]
    assert [each.event_id for _, each in store.tail.since(0)] == ["a"]
    guarded.heal()
    assert PASSWORD not in caplog.text
    assert PASSWORD not in place_of(source.state)
    assert not [
        path for path in source.state.parent.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()
    ]
    store.tail.close()


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(lambda guard: (f"password={PASSWORD}",), id="no TLS"),
        pytest.param(lambda guard: (f"password={PASSWORD}", "ssl=true"), id="an authority nobody knows"),
        pytest.param(lambda guard: ("password=another", *guard.told[1:]), id="another password"),
        pytest.param(lambda guard: guard.told[1:], id="no password"),
    ],
)
def test_who_lacks_the_password_or_the_authority_is_refused_in_a_line_without_it(
    guarded: Cluster, guard: Guard, told: object
) -> None:
    nodes = ",".join(each for each in guarded.address.split(",") if "=" not in each)
    tail = RedisTail(",".join([nodes, *told(guard)]), "guarded")  # type: ignore[operator]
    with pytest.raises(InputError, match=r"The Redis Cluster at 127\.0\.0\.1:") as refused:
        tail.append([event("a")])
    assert PASSWORD not in str(refused.value)
    assert "\n" not in str(refused.value)
    tail.close()
