"""A head start from a simple model: the model begins as that one, and the command compares it with itself without."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lightgbm", reason="pip install -e '.[benchmarks]'")

from benchmarks import head_start
from training.judging.baselines import logistic
from training.judging.scoring import score_requests
from training.model.build import build, fit_buffers
from training.train import feature_spec, prepare


@pytest.fixture
def small(sections: dict) -> dict:
    few = {"router_steps": 5, "router_starts": 1, "epochs": 1, "validations_per_epoch": 1, "max_requests": 300}
    return sections | {"train": sections["train"].model_copy(update=few)}


@pytest.mark.parametrize("start", ["logistic_first", "trees_first"])
def test_a_model_begins_as_the_simple_one(data: Path, small: dict, start: str) -> None:
    spec = feature_spec(small["history"], small["model"], small["statistics"])
    prepared = prepare(data, spec, small["split"], small["labels"], small["train"], 1)
    test = prepared.validation
    if start == "trees_first":
        prepared, test = head_start.with_trees(prepared, test)
    model = build("mos", small["model"], prepared.shape).eval()
    mean, scale = prepared.train.standardisation()
    scale[scale < 1e-6] = 1.0
    fit_buffers(model, prepared.tables.row_of_item, prepared.tables.item_categories, mean, scale)
    head_start.give(model, start, prepared, mean, scale)
    wanted = test.scalars[:, -1]
    if start == "logistic_first":
        wanted = logistic(prepared.train.scalars, prepared.train.requests.label, test.scalars)
    logits = score_requests("mos", model, test)
    near = np.abs(wanted - mean[-1]) < 4.9 * scale[-1] if start == "trees_first" else np.ones(len(wanted), bool)
    assert near.mean() > 0.9
    np.testing.assert_allclose(logits[near], wanted[near], atol=1e-3)
    assert len(torch.unique(torch.from_numpy(logits))) > 10


def test_the_command_compares_each_with_itself_and_resumes(
    data: Path, small: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_start, "load_params", lambda: small)
    kept = tmp_path / "kept"
    asked = ["head_start", "--data", str(data), "--out", str(tmp_path), "--keep-in", str(kept), "--seeds", "1"]
    monkeypatch.setattr(sys, "argv", [*asked, "--size", "300", "--max-test", "200"])
    head_start.main()
    made = {path.name: path.stat().st_mtime_ns for path in kept.glob("*.npz")}
    assert len(made) == 8  # two models with three starts, the router, the simple models
    told = json.loads((tmp_path / "head_start_simulator.json").read_text())
    rows = {(row["model"], row["start"]): row for row in told["rows"]}
    assert len(rows) == 14
    assert "iauc_minus_plain" not in rows["mos", "plain"]
    own = rows["mos", "logistic_first"]
    assert own["iauc_minus_plain"] == pytest.approx(own["iauc"] - rows["mos", "plain"]["iauc"])
    assert own["auc_minus_plain_low"] <= own["auc_minus_plain"] <= own["auc_minus_plain_high"]
    assert rows["mos", "logistic alone"]["auc"] == rows["din", "logistic alone"]["auc"]
    head_start.main()
    assert {path.name: path.stat().st_mtime_ns for path in kept.glob("*.npz")} == made
