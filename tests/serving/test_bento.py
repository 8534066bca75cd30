"""The Bento holds all it needs but the online state, which is named where it runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from serving.answering.predictor import Predictor
from serving.answering.requests import RankRequest, to_iso
from serving.bento import requirements
from tests.clones import ROOT, run, surroundings
from tests.serving.conftest import serving

pytestmark = pytest.mark.xdist_group("serving")


@pytest.fixture(scope="module")
def tag(made: Path) -> str:
    """The tag of a Bento built from the small bundle."""
    run(made, "python", "-m", "serving.bento")
    listed = run(made, "bentoml", "list", "leitmotif", "-o", "json").stdout
    return next(line.split('"')[3] for line in listed.splitlines() if '"tag"' in line)


def test_it_serves_by_itself_from_anywhere(
    made: Path, state: Path, tag: str, predictor: Predictor, tmp_path: Path
) -> None:
    golden = predictor.bundle.golden[0]
    request = {"user_id": golden.user_id, "candidates": golden.candidates, "at": to_iso(golden.at)}
    home = surroundings(made)["BENTOML_HOME"]
    with serving(tmp_path, tag, BENTOML_HOME=home, LEITMOTIF_STATE=str(state)) as client:
        assert client.post("/rank", json=request).json() == predictor.rank(RankRequest(**request)).model_dump()


def test_it_names_the_commit_and_holds_no_data_but_the_bundle(made: Path, tag: str) -> None:
    home = Path(surroundings(made)["BENTOML_HOME"])
    source = home / "bentos" / tag.replace(":", "/") / "src"
    assert {path.name for path in source.iterdir()} - {"bentofile.yaml"} == {
        "bundle", "contracts", "features", "serving", "training"}  # fmt: skip
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=made, capture_output=True, text=True, check=True).stdout
    assert f"git_revision: {commit.strip()}" in (source.parent / "bento.yaml").read_text()


def test_its_packages_are_pinned_as_locked() -> None:
    pinned = requirements(ROOT)
    assert all("==" in line for line in pinned)
    assert {"bentoml==1.4.39", "feast==0.67.0", "torch==2.13.0"} <= set(pinned)
    assert not [line for line in pinned if line.startswith(("lightning", "dagster", "dvc", "duckdb"))]
    assert sys.version_info[:2] in ((3, 11), (3, 12))
