"""Both halves as programs: exact for any number of users and of candidates, and loadable without this project."""

import subprocess
import sys

import pytest
import torch

from training.model.exported import HALVES, export_halves

ALONE_SCRIPT = """
import sys, torch
sys.modules["training"] = sys.modules["features"] = sys.modules["contracts"] = None  # importing them would fail
given = torch.load(sys.argv[1] + "/given.pt")
state = torch.export.load(sys.argv[1] + "/user_side.pt2").module()(*given["history"])
found = torch.export.load(sys.argv[1] + "/score.pt2").module()(*state, *given["candidates"])
assert torch.equal(found, given["logits"]), (found, given["logits"])
"""


@pytest.fixture(params=["mos", "din", "hstu"])
def model(request, make_model):
    return make_model(request.param).float().eval()


def test_the_exported_halves_are_exact_for_any_number_of_users_and_candidates(
    model, shape, make_history, make_candidates, tmp_path
):
    halves = export_halves(model, shape)
    assert tuple(halves) == HALVES
    programs = {name: program.module() for name, program in halves.items()}
    tables = model.tables()
    for lengths, each in (([24], 1), ([24, 3, 0], 5), ([11] * 7, 100)):
        history, candidates = make_history(lengths), make_candidates(len(lengths), each)
        candidates = candidates._replace(scalars_BS=candidates.scalars_BS.float())
        expected = model.score(model.user_side(history, tables), candidates, tables)
        found = programs["score"](*programs["user_side"](*history), *candidates)
        assert torch.equal(found, expected)
    for name, program in halves.items():
        torch.export.save(program, tmp_path / f"{name}.pt2")
    given = {"history": tuple(history), "candidates": tuple(candidates), "logits": expected.detach()}
    torch.save(given, tmp_path / "given.pt")
    done = subprocess.run(
        [sys.executable, "-c", ALONE_SCRIPT, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
