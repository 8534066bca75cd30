"""Other models loaded beside the served one: which they are, what store they read; answers are not recorded."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from contracts.errors import InputError
from contracts.publish import write_json
from features.live.places import state_of
from features.online.load import load
from serving.answering.beside import VARIABLE, open_served
from serving.answering.predictor import Predictor
from serving.answering.recommend import RecommendRequest, recommend
from serving.answering.refusal import Refusal
from serving.answering.requests import RankRequest
from serving.answering.succession import Succession
from serving.bundle.loaded import open_bundle, weights_of
from serving.bundle.manifest import read_manifest
from serving.bundle.runner_up import LOGITS, RUNNER_UP, open_runner_up
from tests.prepared import copied
from tests.serving.bundles import rehash, reversed_head, rewritten
from tests.serving.conftest import is_refusal

pytestmark = [
    pytest.mark.xdist_group("serving"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # BentoML's words about what it imports
]

SOURCE = "simulator"


@pytest.fixture(scope="module")
def reigned(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with a champion, one before it and a newest bundle: three models of one log."""
    home = copied(made, tmp_path_factory.mktemp("reigned"))
    newest = home / "data" / SOURCE / "bundle"
    champion = home / "champions" / SOURCE
    rewritten(newest, champion / "former" / "0002-old", reversed_head)
    (champion / "former" / "0001-older").mkdir()
    shutil.copytree(newest, champion / "bundle")
    description = json.loads((champion / "bundle" / "metrics.json").read_text())
    (champion / "bundle" / "metrics.json").write_text(json.dumps(description | {"warnings": ["another bundle"]}))
    rehash(champion / "bundle")
    return home


@pytest.fixture
def served(reigned: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Predictor]:
    monkeypatch.chdir(reigned)
    opened = open_served()
    yield opened
    opened.store.tail.close()


def asked(predictor: Predictor, **fields: object) -> RankRequest:
    golden = predictor.bundle.golden[-1]
    told = {"user_id": golden.user_id, "candidates": predictor.bundle.index.item_ids[:40]}
    return RankRequest.model_validate(told | {"at": "2024-02-01T00:00:00Z"} | fields)


def test_the_runner_up_reproduces_its_golden_requests(data: Path) -> None:
    bundle = open_bundle(data / "bundle")
    other = open_runner_up(bundle)
    assert other is not None
    assert {bundle.model, other.model} == {"mos", "din"}
    assert (other.version, other.theme_names) == (f"{bundle.version}-{other.model}", [])
    for golden, served in zip(other.golden, bundle.golden, strict=True):
        assert golden.rescore(other.scorer) == pytest.approx(golden.logits, abs=1e-5)
        assert golden.logits != served.logits


def test_a_runner_up_with_other_scores_is_refused_by_name(
    bundle: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = json.loads((bundle / RUNNER_UP).read_text())
    told[LOGITS][0][0] += 1.0
    (bundle / RUNNER_UP).write_text(json.dumps(told))
    rehash(bundle)
    monkeypatch.chdir(made)
    monkeypatch.setenv("LEITMOTIF_BUNDLE", str(bundle))
    with pytest.raises(InputError, match=RUNNER_UP):
        open_served()
    monkeypatch.setenv(VARIABLE, "none")
    opened = open_served()
    assert not opened.beside
    opened.store.tail.close()


def test_the_champion_before_and_the_newest_are_loaded_beside_the_champion(served: Predictor, reigned: Path) -> None:
    former = read_manifest(reigned / "champions" / SOURCE / "former" / "0002-old")
    newest = read_manifest(reigned / "data" / SOURCE / "bundle")
    versions = {name: each.bundle.version for name, each in served.beside.items()}
    assert versions == {
        "runner_up": f"{served.bundle.version}-din",
        "previous": former.model_version,
        "newest": newest.model_version,
    }
    assert [each["name"] for each in served.info()["beside"]] == list(versions)
    assert all(each.store is served.store for each in served.beside.values())


def test_each_ranks_with_its_own_weights_and_the_served_one_as_before(served: Predictor) -> None:
    orders = {}
    for name in (None, *served.beside):
        reply, shown = served.answer(asked(served, model=name))
        assert reply.model_version == served.of(name).bundle.version
        assert shown is None
        orders[name] = [item.item_id for item in reply.items]
    assert orders["newest"] == orders[None]  # the same weights in another bundle
    assert orders["previous"] != orders[None]
    assert orders["runner_up"] not in (orders[None], orders["previous"])
    alone = Predictor.open(served.bundle.path, Path(".state") / SOURCE / "feast")
    assert [item.item_id for item in alone.answer(asked(served)).reply.items] == orders[None]
    alone.store.tail.close()


def test_a_recommendation_is_found_and_ranked_by_the_model_that_is_named(served: Predictor) -> None:
    user = served.bundle.golden[-1].user_id
    mine, other = (recommend(served, RecommendRequest(user_id=user, k=20, model=name)) for name in (None, "runner_up"))
    assert other.shown is None
    assert other.reply.model_version.endswith("-din")
    assert not other.reply.themes
    assert [item.item_id for item in other.reply.items] != [item.item_id for item in mine.reply.items]


def test_without_the_store_a_named_model_answers_too(served: Predictor) -> None:
    reply = served.rank_without_store(asked(served, model="previous"))
    assert reply.model_version == served.beside["previous"].bundle.version
    assert reply.history.store_away


def test_one_that_is_not_loaded_is_refused_with_those_that_are(served: Predictor, predictor: Predictor) -> None:
    with pytest.raises(Refusal, match="none is loaded beside the served one") as refused:
        predictor.answer(asked(predictor, model="previous"))
    assert (refused.value.status, refused.value.field) == (400, "model")
    assert served.of("previous").of("previous") is served.of("previous")


def test_the_models_to_load_can_be_chosen_and_an_unknown_name_is_refused(
    reigned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(reigned)
    monkeypatch.setenv(VARIABLE, "previous")
    opened = open_served()
    assert list(opened.beside) == ["previous"]
    opened.store.tail.close()
    monkeypatch.setenv(VARIABLE, "runner_up, champion")
    with pytest.raises(InputError, match=f"{VARIABLE} names champion. It takes runner_up, previous, newest, or none"):
        open_served()


def test_a_model_that_cannot_be_read_is_left_out_with_a_warning_and_the_champion_serves(
    reigned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    home = copied(reigned, tmp_path)
    spoiled = home / "champions" / SOURCE / "former" / "0002-old" / weights_of("mos")
    spoiled.write_bytes(spoiled.read_bytes()[:-8] + b"12345678")
    monkeypatch.chdir(home)
    opened = open_served()
    assert list(opened.beside) == ["runner_up", "newest"]
    assert "as `previous`" in caplog.text
    assert weights_of("mos") in caplog.text
    opened.store.tail.close()


def test_loaded_bundles_are_not_read_again(served: Predictor) -> None:
    again = open_served(served)
    for name, each in again.beside.items():
        assert each.bundle is served.beside[name].bundle
        assert each.store is again.store
    again.store.tail.close()


def test_a_new_champion_brings_the_old_one_along_as_the_previous(
    reigned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serving.promoting.places import exchange

    home = copied(reigned, tmp_path)
    monkeypatch.chdir(home)
    found = Succession()
    old = read_manifest(home / "champions" / SOURCE / "bundle").model_version
    crowned = tmp_path / "crowned"
    shutil.copytree(home / "champions" / SOURCE, crowned)
    shutil.move(crowned / "bundle", crowned / "former" / f"0003-{old}")
    rewritten(home / "data" / SOURCE / "bundle", crowned / "bundle", reversed_head)
    exchange(crowned, home / "champions" / SOURCE)
    taken = found.look()
    assert taken is not None
    assert taken.beside["previous"].bundle.version == old
    taken.store.tail.close()


def package_another(home: Path, tmp_path: Path) -> None:
    """Replace the newest bundle by one with other weights, as `package` does."""
    newest = home / "data" / SOURCE / "bundle"
    other = rewritten(newest, tmp_path / "other", reversed_head)
    shutil.rmtree(newest)
    shutil.move(other, newest)


def test_a_newly_packaged_bundle_becomes_the_newest_of_a_running_service(
    reigned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = copied(reigned, tmp_path)
    monkeypatch.chdir(home)
    found, served = Succession(), open_served()
    assert found.look_beside(served) is None
    package_another(home, tmp_path)
    assert found.look() is None, "the champion did not change"
    taken = found.look_beside(served)
    assert taken is not None
    assert taken.beside["newest"].bundle.version == read_manifest(home / "data" / SOURCE / "bundle").model_version
    assert taken.beside["newest"].bundle.version != served.beside["newest"].bundle.version
    assert taken.bundle is served.bundle
    assert taken.beside["previous"] is served.beside["previous"]
    assert found.look_beside(taken) is None
    served.store.tail.close()


def test_the_newest_bundle_is_loaded_also_if_a_newer_load_than_the_served_one_came_with_it(
    reigned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after `make run` with new data: the service keeps the load that it has open."""
    home = copied(reigned, tmp_path)
    monkeypatch.chdir(home)
    found, served = Succession(), open_served()
    data = home / "data" / SOURCE
    snapshot = data / "feature_snapshot" / "snapshot.json"
    write_json(snapshot, json.loads(snapshot.read_text()) | {"snapshot_id": "newer"})
    assert load(data, state_of(data))
    package_another(home, tmp_path)
    taken = found.look_beside(served)
    assert taken is not None
    assert taken.beside["newest"].bundle.version == read_manifest(data / "bundle").model_version
    assert taken.beside["newest"].store is served.store
    served.store.tail.close()


def test_a_bundle_that_is_packaged_while_a_service_starts_becomes_its_newest(
    reigned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = copied(reigned, tmp_path)
    monkeypatch.chdir(home)
    found, served = Succession(), open_served()
    package_another(home, tmp_path)
    taken: list[Predictor] = []
    found.watch(lambda: (taken or [served])[-1], taken.append)
    (watcher,) = [each for each in threading.enumerate() if each.name == "succession"]
    for _ in range(200):
        if taken:
            break
        time.sleep(0.1)
    found.end()
    watcher.join(60)
    assert not watcher.is_alive(), "it would open bundles beside later tests, and silence their warnings"
    wanted = read_manifest(home / "data" / SOURCE / "bundle").model_version
    assert [each.beside["newest"].bundle.version for each in taken] == [wanted]
    served.store.tail.close()


def test_over_http_it_is_named_documented_refused_and_never_recorded(keeping: httpx.Client) -> None:
    info = keeping.get("/info").json()
    assert [each["name"] for each in info["beside"]] == ["runner_up"]
    described = keeping.get("/docs.json").json()["components"]["schemas"]["RankRequest"]["properties"]["model"]
    assert described["anyOf"] == [{"type": "string", "enum": ["runner_up"]}, {"type": "null"}]
    user = keeping.get("/users").json()["users"][0]
    served, other = (
        keeping.post("/recommend", json={"user_id": user, "model": model}).json() for model in (None, "runner_up")
    )
    assert served["impression_id"]
    assert other["impression_id"] is None
    assert other["model_version"] == f"{served['model_version']}-din"
    for name in ("previous", "best"):
        answer = keeping.post("/rank", json={"user_id": user, "candidates": ["a"], "model": name})
        assert answer.status_code == 400
        assert is_refusal(answer)
        assert answer.json()["error"]["field"] == "model"
