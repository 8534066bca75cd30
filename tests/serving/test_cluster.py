"""The service over a Redis Cluster: the simulator's log loaded, read as it is, and answered while a node is away."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from contracts.params import load_params
from features.encoding.encode import FeatureSpec
from features.live.open_tail import ENGINE_VARIABLE, prefix_of
from features.live.places import state_of
from features.online.parity import compare_requests, compare_snapshot
from features.online.store import OnlineStore
from features.stages.materialize import parity_spec
from tests.clones import run
from tests.features.redis_cluster import Cluster
from tests.prepared import copied
from tests.serving.conftest import is_refusal, serving

pytestmark = pytest.mark.xdist_group("redis")
LIMIT_S = 60.0


@pytest.fixture(scope="module")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Whole at the start of every test."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def spread(
    house: Path,
    redis_cluster: Cluster,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A copy of the house, loaded into the cluster by the command."""
    repository = copied(house, tmp_path_factory.mktemp("spread"))
    environment = {ENGINE_VARIABLE: redis_cluster.address}
    run(repository, "python", "-m", "features.online.load", **environment)
    return repository


@pytest.fixture
def cluster(redis_cluster: Cluster) -> Iterator[Cluster]:
    """One whose nodes may be killed: it is whole again afterwards."""
    yield redis_cluster
    redis_cluster.heal()


def test_the_simulator_s_log_reads_from_a_cluster_as_its_tables_and_its_snapshot(
    spread: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENGINE_VARIABLE, cluster.address)
    data, sections = spread / "data" / "simulator", load_params(spread / "params.yaml")
    store = OnlineStore.open(state_of(data))
    read = compare_snapshot(store, data / "feature_snapshot")
    assert [each.mismatches for each in read] == [0, 0, 0]
    assert min(each.checked for each in read) > 50
    spec: FeatureSpec = parity_spec(sections["history"], sections["statistics"])
    compared, _ = compare_requests(store, data, spec, sections["history"].max_length, 200)
    assert (compared.checked, compared.mismatches) == (200, 0)
    store.tail.close()


def answered(ask: Callable[[], httpx.Response], is_so: Callable[[httpx.Response], bool]) -> httpx.Response:
    """The first answer that is so."""
    deadline = time.monotonic() + LIMIT_S
    while not is_so(answer := ask()):
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.05)
    return answer


def history_of(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return answer.json()["history"]


def test_a_node_away_flags_rankings_refuses_events_and_is_over_once_its_replica_has_taken_over(
    spread: Path, cluster: Cluster
) -> None:
    state = state_of(spread / "data" / "simulator")
    ask = {"user_id": "u00001", "candidates": ["i00001", "i00002", "i00003"], "preview": True}
    click = {"events": [{"user_id": "u00001", "item_id": "i00001", "event_id": f"cluster-{os.getpid()}"}]}
    with serving(spread, LEITMOTIF_ONLINE=cluster.address) as client:
        before = history_of(client.post("/rank", json=ask))
        assert (before["known"], before["store_away"]) == (True, False)
        assert before["length"] > 0
        assert client.post("/events", json=click).json()["num_new"] == 1
        assert history_of(client.post("/rank", json=ask))["length"] == before["length"] + 1

        primary = cluster.primary_of(f"{{{prefix_of(state)}}}:log")
        primary.kill()
        away = answered(lambda: client.post("/rank", json=ask), lambda answer: history_of(answer)["store_away"])
        assert history_of(away)["known"] is False
        refused = client.post("/events", json={"events": [{"user_id": "u00001", "item_id": "i00002"}]})
        assert refused.status_code == 503
        assert is_refusal(refused)
        back = answered(lambda: client.post("/rank", json=ask), lambda answer: not history_of(answer)["store_away"])
        assert history_of(back)["length"] == before["length"] + 1
        again = answered(lambda: client.post("/events", json=click), lambda answer: answer.status_code == 200)
        assert again.json()["events"][0]["fate"] == "repeated"
        assert cluster.primary_of(f"{{{prefix_of(state)}}}:log") is not primary
        assert client.get("/readyz").status_code == 200
        assert "u00001" in str(client.get("/users", params={"prefix": "u0000"}).json())
