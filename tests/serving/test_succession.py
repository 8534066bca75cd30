"""A new bundle in the champion's folder takes over while requests are answered; a damaged one does not."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import httpx
import pytest

from contracts.errors import InputError
from serving.answering import succession
from serving.answering.beside import open_served
from serving.answering.predictor import Predictor
from serving.answering.succession import Succession
from serving.bundle.loaded import GOLDEN
from serving.bundle.manifest import MANIFEST, read_manifest
from serving.promoting.places import exchange
from tests.serving.bundles import reversed_head, rewritten
from tests.serving.conftest import serving

pytestmark = [
    pytest.mark.xdist_group("serving"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # BentoML's words about what it imports
]


@pytest.fixture
def served(made: Path, bundle: Path) -> Iterator[httpx.Client]:
    """A service with a configured bundle path."""
    with serving(made, LEITMOTIF_BUNDLE=str(bundle)) as client:
        yield client


def until(true: Callable[[], bool]) -> None:
    for _ in range(300):
        if true():
            return
        time.sleep(0.1)
    pytest.fail("it did not come to that")


def version(client: httpx.Client) -> str:
    return client.get("/info").json()["model_version"]


def test_a_new_bundle_takes_over_without_losing_a_request_and_a_damaged_one_does_not(
    served: httpx.Client, bundle: Path, predictor: Predictor, tmp_path: Path
) -> None:
    user = predictor.bundle.golden[0].user_id
    asked = {"user_id": user, "candidates": predictor.bundle.index.item_ids[:20], "at": "2024-02-01T00:00:00Z"}
    first = served.post("/rank", json=asked).json()
    other = rewritten(bundle, tmp_path / "other", reversed_head)
    ended = Event()

    def ask() -> list[tuple[int, str]]:
        told = []
        with httpx.Client(base_url=served.base_url, timeout=30) as client:
            while not ended.is_set():
                answer = client.post("/rank", json=asked)
                told.append((answer.status_code, answer.json().get("model_version", "")))
        return told

    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(ask) for _ in range(2)]
        try:
            exchange(other, bundle)
            until(lambda: version(served) != first["model_version"])
        finally:
            ended.set()
        told = [answer for each in asking for answer in each.result()]
    assert {status for status, _ in told} == {200}
    second = served.post("/rank", json=asked).json()
    assert second["model_version"] == version(served)
    assert {each for _, each in told} <= {first["model_version"], second["model_version"]}
    assert [item["item_id"] for item in second["items"]] != [item["item_id"] for item in first["items"]]

    (other / GOLDEN).write_bytes(b"no table")  # the first one, which stands aside now
    exchange(other, bundle)
    until(lambda: "leitmotif_bundle_refused 1" in served.get("/metrics").text)
    assert served.post("/rank", json=asked).json() == second
    exchange(other, bundle)
    until(lambda: "leitmotif_bundle_refused 0" in served.get("/metrics").text)
    assert served.post("/rank", json=asked).json() == second


def test_a_refused_bundle_is_tried_again_even_if_it_has_not_changed(
    made: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example, a checkout of the bundle may not have been finished."""
    monkeypatch.chdir(made)
    monkeypatch.setenv("LEITMOTIF_BUNDLE", str(bundle))
    found = Succession()
    assert found.look() is None
    whole = (bundle / GOLDEN).read_bytes()
    (bundle / GOLDEN).write_bytes(whole[:100])
    os.utime(bundle / MANIFEST)
    assert found.look() is None
    assert GOLDEN in found.refused
    (bundle / GOLDEN).write_bytes(whole)
    assert found.look() is None  # not yet
    monkeypatch.setattr(succession, "AGAIN_S", 0.0)
    monkeypatch.setattr(found, "_again_at", 0.0)
    predictor = found.look()
    assert predictor is not None
    assert not found.refused
    predictor.store.tail.close()


def test_a_bundle_that_is_promoted_while_a_newer_load_is_opened_stays_in_use(
    made: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request's thread has opened the old bundle over the new load when the new bundle arrives."""
    monkeypatch.chdir(made)
    monkeypatch.setenv("LEITMOTIF_BUNDLE", str(bundle))
    other = rewritten(bundle, tmp_path / "other", reversed_head)
    found, first = Succession(), open_served()
    in_use, opened = [first], Event()

    def take_late(predictor: Predictor) -> None:
        opened.set()
        time.sleep(2.0)
        in_use.append(predictor)

    with ThreadPoolExecutor(2) as pool:
        reopening = pool.submit(found.reopen, first, "outdated", lambda: in_use[-1], take_late)
        assert opened.wait(60)
        exchange(other, bundle)
        pool.submit(found.follow, lambda: in_use[-1], in_use.append).result()
        assert reopening.result().bundle.version == first.bundle.version
    old, new = first.bundle.version, read_manifest(bundle).model_version
    assert [each.bundle.version for each in in_use] == [old, old, new]
    assert found.reopen(first, "outdated", lambda: in_use[-1], in_use.append) is in_use[2], (
        "another thread has replaced it"
    )
    for each in in_use:
        each.store.tail.close()


def test_a_load_that_cannot_be_opened_is_not_tried_at_every_request(
    made: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while a Redis is empty: rankings are answered without the store meanwhile, and fast."""
    monkeypatch.chdir(made)
    monkeypatch.setenv("LEITMOTIF_BUNDLE", str(bundle))
    monkeypatch.setattr(succession, "REOPEN_S", 600.0)
    found, first = Succession(), open_served()
    in_use = [first]
    monkeypatch.setenv("LEITMOTIF_STATE", str(tmp_path / "nothing" / "feast"))
    with pytest.raises(InputError, match="holds no loaded snapshot") as said:
        found.reopen(first, "outdated", lambda: in_use[-1], in_use.append)
    monkeypatch.delenv("LEITMOTIF_STATE")
    with pytest.raises(InputError) as again:
        found.reopen(first, "outdated", lambda: in_use[-1], in_use.append)
    assert str(again.value) == str(said.value)
    monkeypatch.setattr(found, "_reopen_at", 0.0)
    assert found.reopen(first, "outdated", lambda: in_use[-1], in_use.append) is in_use[1]
    for each in in_use:
        each.store.tail.close()
