"""The bundle's model as programs: the same scores, and the last good ones stand."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from contracts.errors import InputError
from serving.answering.predictor import Predictor
from serving.export import export

pytestmark = pytest.mark.xdist_group("serving")


def test_every_golden_request_is_scored_alike_and_a_failure_leaves_the_last_good_programs(
    predictor: Predictor, tmp_path: Path
) -> None:
    bundle, out = predictor.bundle, tmp_path / "exported"
    made = export(bundle, out, compiled=False)
    assert made["num_golden_requests"] == len(bundle.golden) > 0
    assert made["largest_difference"] == 0.0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert set(before) == {"user_side.pt2", "score.pt2", "exported.json"}
    spoiled = replace(bundle.golden[0], scalars=[[float("nan")] * len(row) for row in bundle.golden[0].scalars])
    with pytest.raises(InputError, match="Nothing was written"):
        export(replace(bundle, golden=[spoiled]), out, compiled=False)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["exported"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_machine_code_scores_alike(predictor: Predictor, tmp_path: Path) -> None:
    made = export(predictor.bundle, tmp_path / "exported", compiled=True)
    assert made["compiled"]
    assert made["largest_difference"] < 1e-5
