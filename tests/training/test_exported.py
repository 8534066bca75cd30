"""Both halves as programs: exact for any number of users and of candidates, and loadable without this project."""

import subprocess
import sys

import torch

from training.model.exported import HALVES, export_halves

ALONE_SCRIPT = """
import sys, torch
sys.modules["training"] = sys.modules["features"] = sys.modules["contracts"] = None  # importing them would fail
for folder in sys.argv[1:]:
    given = torch.load(folder + "/given.pt")
    state = torch.export.load(folder + "/user_side.pt2").module()(*given["history"])
    found = torch.export.load(folder + "/score.pt2").module()(*state, *given["candidates"])
    assert torch.equal(found, given["logits"]), (folder, found, given["logits"])
"""


def test_the_exported_halves_are_exact_for_any_number_of_users_and_candidates_and_need_torch_alone(
    make_model, shape, make_history, make_candidates, tmp_path
):
    folders = []
    for name in ("mos", "din", "hstu"):
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        export_exact(make_model(name).float().eval(), shape, make_history, make_candidates, folders[-1])
    done = subprocess.run(
        [sys.executable, "-c", ALONE_SCRIPT, *folders], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr


def export_exact(model, shape, make_history, make_candidates, folder):
    """The programs of one model score as it does; kept in the folder, with the last numbers of users and candidates."""
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
        torch.export.save(program, folder / f"{name}.pt2")
    given = {"history": tuple(history), "candidates": tuple(candidates), "logits": expected.detach()}
    torch.save(given, folder / "given.pt")
