"""The comparison on a small log: every variant can be fitted, rows are paired, and what is kept is not fitted again."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import reproduce
from benchmarks.fixed_routing import fix_routing
from benchmarks.variants import ABLATIONS, GROUPS, make
from contracts.schema import UNKNOWN_INDEX
from training.model.params import ModelParams
from training.model.shape import ModelShape

SHAPE = ModelShape(
    num_items=62,
    num_categories=9,
    max_categories=2,
    num_labels=2,
    num_rank_buckets=9,
    num_age_buckets=20,
    num_scalars=4,
)


@pytest.fixture
def params(sections: dict) -> ModelParams:
    return sections["model"].model_copy(update={"history_length": 20, "theme_capacity": 6, "short_length": 4})


@pytest.mark.parametrize("name", [name for group in GROUPS.values() for name in group])
def test_every_variant_is_a_model_of_its_own_params(params: ModelParams, name: str) -> None:
    variant = next(group[name] for group in GROUPS.values() if name in group)
    theme_N = np.arange(SHAPE.num_items) % params.num_themes
    model = make(variant, params.model_copy(update=dict(variant.changes)), SHAPE, theme_N)
    assert model.params == params.model_copy(update=dict(variant.changes))
    assert set(variant.train) <= {"mutual_information", "router_steps", "schedule", "start"}


def test_given_themes_are_what_the_mixture_routes_by(params: ModelParams) -> None:
    theme_N = np.arange(SHAPE.num_items) % params.num_themes
    theme_N[:2] = -1
    oracle = GROUPS["controls"]["oracle"]
    model = make(oracle, params.model_copy(update=dict(oracle.changes)), SHAPE, theme_N)
    model.catalogue.row_of_N.copy_(torch.arange(SHAPE.num_items))
    model.catalogue.row_of_N[::3] = UNKNOWN_INDEX  # items that training did not know have their true themes too
    routing_NT = model.tables().routing_NT
    assert routing_NT[2:].argmax(1).tolist() == theme_N[2:].tolist()
    assert routing_NT[2:].max(1).values.min() > 0.9
    assert not any(parameter.requires_grad for parameter in model.router.parameters())
    with pytest.raises(ValueError, match="themes"):
        fix_routing(model, theme_N + params.num_themes)


def test_the_command_writes_paired_rows_and_fits_nothing_twice(
    data: Path, sections: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = sections["train"].model_copy(update={"router_steps": 5, "epochs": 1, "validations_per_epoch": 1})
    monkeypatch.setattr(reproduce, "load_params", lambda: sections | {"train": small})
    groups = {name: GROUPS[name] for name in ("core", "started")} | {"ablations": {"no_theme": ABLATIONS["no_theme"]}}
    monkeypatch.setattr(reproduce, "GROUPS", groups)
    kept = tmp_path / "kept"
    asked = ["reproduce", "--data", str(data), "--out", str(tmp_path), "--keep-in", str(kept), "--seeds", "2"]
    asked += ["--groups", *groups, "--sizes", "100", "--max-test", "300", "--processes", "2"]
    monkeypatch.setattr(sys, "argv", [*asked, "--limit-s", "0"])
    with pytest.raises(SystemExit):
        reproduce.main()
    assert "nothing is fitted yet" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", asked)
    reproduce.main()
    made = {path.name: path.stat().st_mtime_ns for path in kept.glob("*.npz")}
    assert len(made) == 10
    told = json.loads((tmp_path / "reproduce_simulator.json").read_text())
    rows = {row["model"]: row for row in told["rows"]}
    assert set(rows) == {"din", "mos_din", "mos_din_whole", "mos_din_started", "no_theme"}
    assert rows["din"]["iauc_minus_din"] == 0.0
    mos = rows["mos_din"]
    assert mos["iauc_minus_din"] == pytest.approx(mos["iauc"] - rows["din"]["iauc"])
    assert mos["iauc_minus_din_low"] <= mos["iauc_minus_din"] <= mos["iauc_minus_din_high"]
    assert 0 <= mos["nmi"] <= 1
    assert told["test_requests"] == 300
    capsys.readouterr()
    reproduce.main()
    assert {path.name: path.stat().st_mtime_ns for path in kept.glob("*.npz")} == made
