"""The content of bundles, and what package refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import CheckFailed, InputError
from contracts.params import load_params
from serving import package
from serving.answering.catalogue import SimilarRequest, find_similar
from serving.answering.predictor import Predictor
from serving.answering.recommend import RecommendReply, RecommendRequest, recommend
from serving.answering.requests import RankReply, RankRequest, to_iso
from serving.ask import table
from serving.bundle.golden import check_golden
from serving.bundle.loaded import GOLDEN, MODEL, SPEC, model_of, open_bundle, read_json
from serving.bundle.logged import RequestLog
from serving.bundle.manifest import MANIFEST, Manifest, hash_file, hash_folder, read_manifest, write_manifest
from serving.bundle.runner_up import RUNNER_UP
from tests.serving.reasons import explained
from training import evaluate

pytestmark = pytest.mark.xdist_group("serving")


def repackaged(bundle: Path) -> Manifest:
    """Recompute the hashes of a spoiled bundle, as an attacker would."""
    described = json.loads((bundle / MANIFEST).read_text())
    (bundle / MANIFEST).unlink()
    for name in ("format", "files", "bundle_hash"):
        described.pop(name)
    return write_manifest(bundle, **described)


@pytest.fixture
def copied(data: Path, tmp_path: Path) -> Path:
    """A copy of what package reads."""
    target = tmp_path / "simulator"
    shutil.copytree(data, target, ignore=shutil.ignore_patterns("interactions", "provenance"))
    return target


def test_a_bundle_holds_what_a_service_and_a_reader_need(data: Path) -> None:
    manifest = read_manifest(data / "bundle")
    assert {
        "mos.safetensors",
        "model.json",
        "vocabulary.parquet",
        "feature_spec.json",
        "golden.json",
    } <= manifest.files.keys()
    assert {"metrics.json", "themes.json", "MODEL_CARD.md", "DATA_DICTIONARY.md"} <= manifest.files.keys()
    assert not any(name.endswith((".pkl", ".pt", ".bin")) for name in manifest.files)
    assert manifest.source == "simulator"
    assert manifest.training_data["user_histories"] == hash_folder(data / "user_histories")


def test_the_data_dictionary_explains_every_scalar(data: Path) -> None:
    page = (data / "bundle" / "DATA_DICTIONARY.md").read_text()
    for name in open_bundle(data / "bundle").scorer.spec.scalars:
        assert f"| {name} | " in page


def test_packaging_again_gives_the_same_bytes(made: Path, data: Path, copied: Path) -> None:
    shutil.rmtree(copied / "bundle")
    report = package.run(copied, load_params(made / "params.yaml")["serve"])
    assert report["bundle_hash"] == read_manifest(data / "bundle").bundle_hash
    assert hash_folder(copied / "bundle") == hash_folder(data / "bundle")
    assert report["num_golden_requests"] == 32


def test_a_failed_verdict_is_refused_and_the_last_bundle_stands(made: Path, copied: Path) -> None:
    before = hash_file(copied / "bundle" / MANIFEST)
    path = copied / "metrics" / "verdict.json"
    report = json.loads(path.read_text()) | {
        "verdict": {"state": "failed", "passed": False, "reasons": ["below popularity"]}
    }
    path.write_text(json.dumps(report))
    with pytest.raises(CheckFailed, match="below popularity"):
        package.run(copied, load_params(made / "params.yaml")["serve"])
    assert hash_file(copied / "bundle" / MANIFEST) == before


def test_what_was_not_judged_is_packaged_and_says_so_wherever_it_is_named(data: Path, predictor: Predictor) -> None:
    """SMALL's log is too small to judge: that is not a pass."""
    card = (data / "bundle" / "MODEL_CARD.md").read_text()
    verdict = predictor.info()["verdict"]
    assert (verdict["state"], verdict["passed"]) == ("not judged", False)
    assert "evaluate.min_requests is 100,000" in verdict["reasons"][0]
    assert f"Verdict of the absolute rules: **not judged** ({verdict['reasons'][0]})." in card
    assert "passed" not in card
    for sentence in predictor.info()["standing"]:
        assert f"- {sentence}\n" in card
    assert "MoS ranks" in card


@pytest.fixture(scope="module")
def without_themes(made: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same log where the validation part chose DIN: evaluated and packaged by the real stages."""
    target = tmp_path_factory.mktemp("din") / "simulator"
    shutil.copytree(data, target, ignore=shutil.ignore_patterns("interactions", "provenance"))
    path = target / "weights" / "model.json"
    description = json.loads(path.read_text()) | {"validation": {"mos": {"iauc": 0.5}, "din": {"iauc": 0.6}}}
    path.write_text(json.dumps(description))
    params = load_params(made / "params.yaml")
    best = params["evaluate"].model_copy(update={"serve": "best"})
    evaluate.run(target, best, params["labels"], params["seed"], params["split"])
    package.run(target, params["serve"])
    return target


def test_a_model_without_themes_is_packaged_and_served(without_themes: Path, data: Path, state: Path) -> None:
    manifest = read_manifest(without_themes / "bundle")
    assert "din.safetensors" in manifest.files
    assert model_of(without_themes / "bundle") == "din"
    assert read_json(without_themes / "bundle" / RUNNER_UP)["name"] == "mos"
    card = (without_themes / "bundle" / "MODEL_CARD.md").read_text()
    assert "Deep Interest Network" in card
    assert "DIN is served: its iAUC on the validation part was 0.6000 (MoS 0.5000)." in card
    served = Predictor.open(without_themes / "bundle", state, data / "feature_snapshot")
    golden = served.bundle.golden[0]
    reply = served.rank(RankRequest(user_id=golden.user_id, candidates=golden.candidates, at=to_iso(golden.at)))
    assert reply.themes == []
    assert {(item.theme, item.theme_name, item.match) for item in reply.items} == {(None, None, None)}
    assert RankReply.model_validate(reply.model_dump()) == reply
    scores = dict(zip(golden.candidates, 1 / (1 + np.exp(-np.array(golden.logits))), strict=True))
    assert {item.item_id: item.score for item in reply.items} == pytest.approx(scores, abs=1e-5)
    assert served.info()["model"] == "din"
    assert served.info()["theme_names"] == []
    asked = RankRequest(user_id=golden.user_id, candidates=golden.candidates, at=to_iso(golden.at))
    explained_reply = explained(served, asked)
    reasons = [item.reasons for item in explained_reply.items if item.reasons]
    assert {tuple(each.contributions) for each in reasons} == {("base", "history")}
    assert any(each.history for each in reasons)
    printed = table(reply.model_dump(), {})
    assert "None" not in printed
    assert "the model has none" in printed
    request = RecommendRequest(user_id=golden.user_id, k=10, at=to_iso(golden.at))
    found = RecommendReply.model_validate(recommend(served, request).reply.model_dump())
    assert len({item.item_id for item in found.items}) == 10
    assert {(item.theme, item.match) for item in found.items} == {(None, None)}
    assert "theme" in {item.source for item in found.items}  # near to the newest events, whatever their themes
    near = find_similar(served, SimilarRequest(item_id=golden.candidates[0], k=3))
    assert [item.theme for item in near.items] == [None] * 3


def test_the_two_models_of_one_log_score_otherwise(without_themes: Path, data: Path) -> None:
    """So that a bundle of the one with the weights of the other could not pass for it."""
    of_din, of_mos = (open_bundle(folder / "bundle").golden for folder in (without_themes, data))
    assert [golden.request for golden in of_din] == [golden.request for golden in of_mos]
    assert all(din.logits != mos.logits for din, mos in zip(of_din, of_mos, strict=True))


def test_weights_that_evaluate_did_not_measure_are_refused(made: Path, copied: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(copied / "weights" / "mos.safetensors")
    weights["head.layers.0.bias"] = weights["head.layers.0.bias"] + torch.tensor(0.1)
    save_file(weights, copied / "weights" / "mos.safetensors")
    with pytest.raises(CheckFailed, match="by evaluate"):
        package.run(copied, load_params(made / "params.yaml")["serve"])


def test_a_golden_score_that_does_not_reproduce_is_refused(bundle: Path) -> None:
    golden = json.loads((bundle / GOLDEN).read_text())
    golden[3]["logits"][0] += 1e-3
    (bundle / GOLDEN).write_text(json.dumps(golden))
    repackaged(bundle)
    opened = open_bundle(bundle)
    with pytest.raises(InputError, match="does not reproduce"):
        check_golden(opened.scorer, opened.golden)


@pytest.mark.parametrize(("key", "value"), [("history_lag_s", 60.0), ("num_age_buckets", 7), ("version", 0)])
def test_another_feature_spec_is_refused(bundle: Path, key: str, value: float) -> None:
    spec = json.loads((bundle / SPEC).read_text()) | {key: value}
    (bundle / SPEC).write_text(json.dumps(spec))
    repackaged(bundle)
    with pytest.raises(InputError, match="serve with the code that packaged it"):
        open_bundle(bundle)


def test_weights_that_do_not_fit_their_description_are_refused(bundle: Path) -> None:
    model = json.loads((bundle / MODEL).read_text())
    model["params"]["width"] += 1
    (bundle / MODEL).write_text(json.dumps(model))
    repackaged(bundle)
    with pytest.raises(InputError, match="does not fit"):
        open_bundle(bundle)


@pytest.mark.parametrize("which", ["user", "item"])
def test_ids_that_the_service_would_refuse_are_not_packaged(data: Path, which: str) -> None:
    requests = RequestLog.open(data)
    ids = requests.histories.user_ids if which == "user" else requests.item_ids
    longest = max(map(len, ids.to_pylist()))
    package._require_short_ids(requests, longest)
    with pytest.raises(
        InputError, match=rf"ids of up to {longest} characters, but serve.max_id_length is {longest - 1}"
    ):
        package._require_short_ids(requests, longest - 1)
