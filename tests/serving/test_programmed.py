"""A service that computes by exported programs: the same answers without the models' code, and clear refusals."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import InputError
from serving.answering.predictor import Predictor
from serving.answering.recommend import RecommendRequest, recommend
from serving.answering.requests import RankRequest, to_iso
from serving.bundle.golden import check_golden
from serving.bundle.loaded import MODEL, Bundle, load_scorer, open_bundle, read_json
from serving.bundle.programmed import VARIABLE, ProgramScorer, open_program_scorer
from serving.bundle.programs import DESCRIPTION, TABLES
from serving.bundle.runner_up import open_runner_up
from serving.export import export

ROOT = Path(__file__).parents[2]
EVERY = 8
"""One golden request in so many is asked over the store too."""

pytestmark = pytest.mark.xdist_group("serving")


@pytest.fixture(scope="module")
def exported(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("programs") / "exported"
    export(predictor.bundle, out, compiled=False)
    return out


@pytest.fixture
def programs(exported: Path, tmp_path: Path) -> Path:
    """A copy of the programs, to be spoiled."""
    return Path(shutil.copytree(exported, tmp_path / "programs"))


def opened_by(folder: Path, bundle: Bundle, **changes: str) -> ProgramScorer:
    params = read_json(bundle.path / MODEL)["params"] | changes
    return open_program_scorer(folder, bundle.manifest.bundle_hash, params, bundle.scorer.spec, bundle.scorer.index_of)


def run_alone(data: Path, state: Path, more: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.serving.programs_alone", str(EVERY)]
    places = [data / "bundle", state, data / "feature_snapshot"]
    return subprocess.run(
        [*command, *places], cwd=ROOT, env=os.environ | more, capture_output=True, text=True, check=False
    )


def test_a_service_without_training_answers_the_same_by_programs(
    predictor: Predictor, exported: Path, data: Path, state: Path
) -> None:
    done = run_alone(data, state, {VARIABLE: str(exported)})
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["scorer"] == "ProgramScorer"
    assert told["off"] <= 1e-6
    assert told["beside"] == "None"  # programs are of the served model alone
    assert "Ask without `explain`" in told["refused"]
    for one, ranked, recommended in zip(
        predictor.bundle.golden[::EVERY], told["ranked"], told["recommended"], strict=True
    ):
        asked = {"user_id": one.user_id, "at": to_iso(one.at)}
        assert ranked == predictor.rank(RankRequest(**asked, candidates=one.candidates)).model_dump(mode="json")
        assert recommended == recommend(predictor, RecommendRequest(**asked)).reply.model_dump(mode="json")


def test_without_the_setting_the_service_needs_the_models_code(data: Path, state: Path) -> None:
    done = run_alone(data, state, {})
    assert done.returncode == 1
    assert "training" in done.stderr


@pytest.mark.parametrize("name", ["mos", "din"])
def test_programs_of_either_model_score_and_route_as_its_weights(
    predictor: Predictor, name: str, tmp_path: Path
) -> None:
    own = predictor.bundle
    bundle = own if own.model == name else open_runner_up(own)
    assert bundle is not None
    described = read_json(own.path / MODEL)
    export(bundle, tmp_path / "exported", compiled=False)
    by_programs, by_weights = opened_by(tmp_path / "exported", bundle), load_scorer(own.path, name)
    assert described["params"]["route"] == "item"
    assert check_golden(by_programs, bundle.golden).num_flipped == 0
    golden = bundle.golden[-1]
    scalars, index = np.array(golden.scalars, np.float32), by_weights.item_index(golden.candidates)
    for one, other in ((index, scalars), (index[:0], scalars[:0])):
        found, wanted = (
            each.score(each.user_side(golden.events, golden.at), one, other) for each in (by_programs, by_weights)
        )
        for column in wanted._fields:
            np.testing.assert_array_equal(getattr(found, column), getattr(wanted, column), err_msg=column)
    encoded = by_weights.encode(golden.events, golden.at)
    np.testing.assert_array_equal(by_programs.routing(encoded), by_weights.routing(encoded))
    np.testing.assert_array_equal(by_programs.cold_N, by_weights.cold_N)
    found, wanted = (each.current(golden.events, golden.at) for each in (by_programs, by_weights))
    np.testing.assert_array_equal(found, wanted)


def test_the_folder_is_found_from_here_or_beside_the_bundle(
    bundle: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "programs")
    assert programs.parent == bundle.parent
    assert isinstance(open_bundle(bundle).scorer, ProgramScorer)
    monkeypatch.chdir(bundle.parent)
    assert isinstance(open_bundle(bundle).scorer, ProgramScorer)
    monkeypatch.setenv(VARIABLE, "nowhere")
    with pytest.raises(InputError, match=r"LEITMOTIF_PROGRAMS is .*nowhere, where there is no exported\.json"):
        open_bundle(bundle)


def test_programs_that_do_not_fit_are_refused_and_say_why(predictor: Predictor, programs: Path) -> None:
    bundle, file = predictor.bundle, programs / DESCRIPTION
    described = json.loads(file.read_text())
    for name in ("bundle_hash", "torch", "device"):
        file.write_text(json.dumps(described | {name: "another"}))
        with pytest.raises(InputError, match=f"for another {name} .*make export"):
            opened_by(programs, bundle)
    file.write_text(json.dumps(described | {"compiled": True, "processor": "another"}))
    with pytest.raises(InputError, match="for another processor"):
        opened_by(programs, bundle)
    file.write_text(json.dumps({key: value for key, value in described.items() if key != "state"}))
    with pytest.raises(InputError, match="lacks state: an older version wrote it"):
        opened_by(programs, bundle)
    file.write_text("{")
    with pytest.raises(InputError, match=r"exported\.json cannot be read"):
        opened_by(programs, bundle)
    file.write_text(json.dumps(described | {"has_router": True}))
    with pytest.raises(InputError, match=r"model\.route session"):
        opened_by(programs, bundle, route="session")


@pytest.mark.parametrize("name", ["score.pt2", "user_side.pt2", TABLES])
def test_a_damaged_file_is_named(bundle: Path, programs: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(programs))
    (programs / name).write_bytes(b"no archive")
    with pytest.raises(InputError, match="programs cannot be read"):
        open_bundle(bundle)


def test_swapped_halves_do_not_reproduce(predictor: Predictor, exported: Path) -> None:
    scorer = opened_by(exported, predictor.bundle)
    golden = [replace(one, logits=[each + 1 for each in one.logits]) for one in predictor.bundle.golden[:1]]
    with pytest.raises(InputError, match="does not reproduce"):
        check_golden(scorer, golden)
