"""A champion, then new data: a better model is promoted over it; one that learnt nothing is refused, and it serves."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.params import load_params
from features.stages import histories, statistics
from serving import package
from serving.answering.predictor import Predictor
from serving.answering.requests import RankRequest
from serving.bundle.manifest import read_manifest
from serving.promote import promote
from tests.clones import run, surroundings
from tests.serving.bundles import judged
from training import evaluate, train
from training.requests.reader import cut_times, load_events, load_requests, log_end

pytestmark = pytest.mark.xdist_group("serving")

WEAK = {"max_requests": 64, "epochs": 1, "router_steps": 0}
TRAINED = ("history", "labels", "model", "seed", "split", "statistics", "train")


@pytest.fixture(scope="module")
def params(made: Path) -> dict[str, Any]:
    found = load_params(made / "params.yaml")
    limits = {"min_requests": 50, "num_bootstrap": 100}
    for name in ("evaluate", "promote"):
        found[name] = found[name].model_copy(update=limits)
    return found


@pytest.fixture(scope="module")
def repository(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the clone, to be worked in."""
    target = tmp_path_factory.mktemp("newer") / "clone"
    shutil.copytree(made, target, symlinks=True)
    shutil.rmtree(target / "champions", ignore_errors=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(target)
        yield target


def learn(data: Path, params: dict[str, Any], **changes: dict[str, Any]) -> dict[str, Any]:
    """train and evaluate with changed sections; returns evaluate's report."""
    sections = params | {name: params[name].model_copy(update=change) for name, change in changes.items()}
    train.run(data, **{name: sections[name] for name in TRAINED})
    return evaluate.run(data, **{name: sections[name] for name in ("evaluate", "labels", "seed", "split")})


@pytest.fixture(scope="module")
def old(repository: Path, params: dict[str, Any]) -> Path:
    """The champion: of the log as it was before its last days came, little trained, put there by `promote`."""
    data, before = repository / "data" / "simulator", repository / "before"
    shutil.move(data, before)
    shutil.copytree(before, data, symlinks=True)
    for name in ("interactions", "validated_interactions"):
        partitions = sorted((data / name).glob("*.parquet"))
        for later in partitions[len(partitions) * 3 // 5 :]:
            later.unlink()
    histories.run(data, params["request"], params["history"])
    statistics.run(data, params["statistics"])
    learn(data, params, train=WEAK, evaluate={"min_requests": 10**6})  # not judged: too weak to pass
    package.run(data, params["serve"])
    judged(data / "bundle")
    assert promote("simulator", params["labels"], params["promote"])["promoted"]
    shutil.rmtree(data)
    shutil.move(before, data)  # the last days came
    judged(data / "bundle")
    return repository / "champions" / "simulator" / "bundle"


def test_a_better_model_is_promoted_after_new_data_came_and_can_be_taken_back(
    repository: Path, old: Path, params: dict[str, Any]
) -> None:
    before, newest = read_manifest(old), read_manifest(repository / "data" / "simulator" / "bundle")
    then, now = (pq.read_metadata(bundle / "vocabulary.parquet").num_rows
                 for bundle in (old, repository / "data" / "simulator" / "bundle"))  # fmt: skip
    assert then <= now
    report = promote("simulator", params["labels"], params["promote"])
    assert report["promoted"], report["reason"]
    assert not report["forced"]
    assert "the newest is better than the champion: iauc" in report["reason"]
    assert read_manifest(old) == newest
    said = run(repository, "python", "-m", "serving.rollback").stdout
    assert f"{before.model_version} is champion again, {newest.model_version} is withdrawn" in said
    assert read_manifest(old) == before


def test_shuffled_labels_teach_nothing_and_the_champion_still_serves(
    repository: Path, old: Path, params: dict[str, Any], state: Path, data: Path
) -> None:
    here = repository / "data" / "simulator"
    before, last = read_manifest(old), read_manifest(here / "bundle")
    events = load_events(here)
    requests = load_requests(here, events)
    cuts = cut_times(params["split"], params["labels"], requests.at, log_end(requests, events))
    path = here / "impressions" / "impressions.parquet"
    table = pq.read_table(path)
    seen = table["occurred_at"].cast(pa.int64()).to_numpy() < cuts.test_at
    label = table["label"].to_numpy().copy()
    label[seen] = np.random.default_rng(5).permutation(label[seen])
    column = table.schema.get_field_index("label")
    pq.write_table(table.set_column(column, "label", pa.array(label, pa.float32())), path)
    report = learn(here, params)
    assert report["models"]["mos"]["auc"] == pytest.approx(0.5, abs=0.06)
    assert report["verdict"]["state"] == "failed"
    reasons = "; ".join(report["verdict"]["reasons"])
    assert "evaluate.min_auc_over_popularity" in reasons or "better than chance" in reasons
    done = subprocess.run(
        [sys.executable, "-m", "serving.package"],
        cwd=repository, env=surroundings(repository), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert report["verdict"]["reasons"][0][:60] in done.stdout + done.stderr
    assert read_manifest(here / "bundle") == last  # the last good one stands
    assert read_manifest(old) == before
    served = Predictor.open(old, state, data / "feature_snapshot")
    golden = served.bundle.golden[0]
    reply = served.rank(RankRequest(user_id=golden.user_id, candidates=golden.candidates))
    assert reply.model_version == before.model_version
    assert len(reply.items) == len(golden.candidates)
    json.dumps(report, allow_nan=False)
