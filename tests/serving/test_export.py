"""The bundle's model as programs: the same scores, the last good ones stand, and a service uses machine code."""

import json
import logging
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from contracts.errors import InputError
from serving.answering.predictor import Predictor
from serving.answering.requests import RankRequest, to_iso
from serving.bundle.golden import check_golden
from serving.bundle.programs import DESCRIPTION, Programs, load_half, open_programs, processor
from serving.export import export

pytestmark = pytest.mark.xdist_group("serving")


@pytest.fixture(scope="module")
def exported(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("programs") / "exported"
    made = export(predictor.bundle, out, compiled=False)
    assert made["num_golden_requests"] == len(predictor.bundle.golden) > 0
    assert made["largest_difference"] == 0.0
    return out


def test_a_failure_leaves_the_last_good_programs(predictor: Predictor, exported: Path) -> None:
    bundle = predictor.bundle
    before = {path.name: path.read_bytes() for path in exported.iterdir()}
    assert set(before) == {"user_side.pt2", "score.pt2", "tables.safetensors", "exported.json"}
    spoiled = replace(bundle.golden[0], scalars=[[float("nan")] * len(row) for row in bundle.golden[0].scalars])
    with pytest.raises(InputError, match="Nothing was written"):
        export(replace(bundle, golden=[spoiled]), exported, compiled=False)
    assert {path.name: path.read_bytes() for path in exported.iterdir()} == before
    assert [path.name for path in exported.parent.iterdir()] == ["exported"]


def test_a_scorer_reads_the_same_from_programs(predictor: Predictor, exported: Path) -> None:
    scorer = predictor.bundle.scorer
    halves = Programs(*(load_half(exported / f"{name}.pt2", compiled=False) for name in Programs._fields))
    of_programs = replace(scorer, programs=halves)
    assert check_golden(of_programs, predictor.bundle.golden).num_flipped == 0
    golden = predictor.bundle.golden[-1]
    scalars = np.array(golden.scalars, np.float32)
    index = scorer.item_index(golden.candidates)
    ours, theirs = (
        each.score(each.user_side(golden.events, golden.at), index, scalars) for each in (scorer, of_programs)
    )
    for name, column in ours._asdict().items():
        np.testing.assert_array_equal(getattr(theirs, name), column, err_msg=name)
    assert len(of_programs.score(of_programs.user_side(golden.events, golden.at), index[:0], scalars[:0]).logit_M) == 0


def test_what_is_not_machine_code_of_this_bundle_here_is_not_loaded(
    predictor: Predictor, exported: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "leitmotif")
    folder = tmp_path / "programs"
    bundle_hash, device = predictor.bundle.manifest.bundle_hash, torch.device("cpu")

    def said() -> str:
        caplog.clear()
        assert open_programs(folder, bundle_hash, device) is None
        return caplog.text

    assert said() == ""  # nobody made any
    shutil.copytree(exported, folder)
    assert "no machine code" in said()
    described = json.loads((folder / DESCRIPTION).read_text()) | {"compiled": True}
    assert described["processor"] == processor()
    for name in ("bundle_hash", "torch", "processor"):
        (folder / DESCRIPTION).write_text(json.dumps(described | {name: "another"}))
        assert f"made for another {name}" in said()
        # made for this bundle, it was counted on
        assert caplog.records[-1].levelname == ("INFO" if name == "bundle_hash" else "WARNING")
    (folder / DESCRIPTION).write_text(json.dumps(described))
    (folder / "score.pt2").write_bytes(b"no archive")
    assert "cannot be loaded" in said()
    (folder / DESCRIPTION).write_text("{")
    assert "cannot be read" in said()


FAILS = '#!/bin/sh\n[ "$1" = --version ] && echo "g++ 1.0" && exit\necho "fatal: omp.h: no such file" >&2\nexit 1\n'


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({}, r"no C\+\+ compiler called g\+\+.*leave --compile out"),
        ({"clang++": FAILS}, r"no C\+\+ compiler called g\+\+.*CXX=clang\+\+"),  # which torch does not look for
        ({"g++": FAILS}, r"compiler failed: .*omp\.h.*leave --compile out"),
    ],
)
def test_without_a_compiler_machine_code_is_refused_and_the_last_programs_stand(
    predictor: Predictor,
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    there: dict[str, str],
    said: str,
) -> None:
    before = {path.name: path.read_bytes() for path in exported.iterdir()}
    for name, script in there.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(InputError, match=said):
        export(predictor.bundle, exported, compiled=True)
    assert {path.name: path.read_bytes() for path in exported.iterdir()} == before


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_machine_code_that_is_loaded_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch unpacks it into a temporary folder, and leaves that when a process ends: a disk of memory would fill."""
    layer, given = torch.nn.Linear(4, 4), torch.arange(12.0).view(3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about itself
        program = torch.export.export(layer, (given,))
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "layer.pt2"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    half = load_half(Path(package), compiled=True)
    assert not list((tmp_path / "temporary").iterdir())
    torch.testing.assert_close(half(given), layer(given))
    kept = torch._inductor.aoti_load_package(package)
    assert list((tmp_path / "temporary").iterdir()), f"{kept} needs no files any more: load_half may let torch do it"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")
def test_a_service_ranks_alike_by_machine_code_and_by_pytorch_where_it_is_damaged(
    predictor: Predictor, data: Path, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "exported" / predictor.bundle.manifest.source
    made = export(predictor.bundle, out, compiled=True)
    assert made["compiled"]
    assert made["largest_difference"] < 1e-5
    monkeypatch.chdir(tmp_path)
    compiled = Predictor.open(data / "bundle", state, data / "feature_snapshot")
    assert (compiled.info()["computes"], predictor.info()["computes"]) == ("machine code", "PyTorch, traced")
    golden = predictor.bundle.golden[-1]
    at = to_iso(golden.at)  # both rank as of one time
    request = RankRequest(user_id=golden.user_id, candidates=golden.candidates, at=at, preview=True)
    found, wanted = ({item.item_id: item.score for item in each.rank(request).items} for each in (compiled, predictor))
    assert found == pytest.approx(wanted, abs=1e-6)
    (out / "score.pt2").write_bytes((out / "user_side.pt2").read_bytes())  # it loads, and is the wrong half
    assert Predictor.open(data / "bundle", state, data / "feature_snapshot").info()["computes"] == "PyTorch, traced"
