"""A mixture that goes on from the trained DIN: it starts as that, is chosen against it, and resumes."""

import shutil

import numpy as np
import pytest
import torch

from contracts.errors import InputError
from tests.training.small_run import changed, contents, make_log, run_train, small_sections
from tests.training.test_resume import EPOCH_STEPS, OUTS, killed
from training import train
from training.fitting.continued import check_start, order
from training.fitting.fit import with_schedule
from training.judging.scoring import score_requests
from training.model.build import build
from training.model.mixture import feature_places

BACKBONE = {"global_expert": "backbone"}


@pytest.fixture(scope="module")
def sections():
    found = small_sections()
    found["model"] = changed(found["model"], **BACKBONE)
    found["train"] = changed(found["train"], start="backbone", min_history=0)
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory, sections):
    return make_log(tmp_path_factory.mktemp("continued") / "data" / "simulator", sections)


@pytest.fixture(scope="module")
def prepared(data, sections):
    spec = train.feature_spec(sections["history"], sections["model"], sections["statistics"])
    return train.prepare(data, spec, sections["split"], sections["labels"], sections["train"], 1)


@pytest.fixture(scope="module")
def baseline(prepared, sections):
    return train.fit_one("din", sections["model"], prepared, sections["train"], 1)


def logits(model, dataset):
    return score_requests("a model", model, dataset).astype(np.float64)


def test_a_mixture_that_gains_nothing_is_left_as_its_baseline(prepared, sections, baseline):
    """A rate at which every step loses: the row of step 0 is kept, and scores are the baseline's."""
    wild = changed(sections["train"], learning_rate=20.0)
    model, record, best = train.fit_one("mos", sections["model"], prepared, wild, 1, baseline=baseline)
    assert (best, record[0].step, record[0].epoch) == (1, 0, 0)
    own = baseline[1][baseline[2] - 1]
    assert record[0].validation_gauc == own.validation_gauc
    assert max(row.validation_gauc for row in record[1:]) < own.validation_gauc
    np.testing.assert_allclose(logits(model, prepared.validation), logits(baseline[0], prepared.validation), atol=1e-5)


def test_a_mixture_that_gains_is_kept_and_is_above_its_baseline(prepared, sections, baseline):
    """A baseline that was hardly trained: the mixture goes on where it stopped, with themes beside."""
    early = train.fit_one("din", sections["model"], prepared, changed(sections["train"], learning_rate=1e-4), 1)
    model, record, best = train.fit_one("mos", sections["model"], prepared, sections["train"], 1, baseline=early)
    assert best > 1
    assert record[best - 1].validation_gauc > record[0].validation_gauc
    assert np.abs(logits(model, prepared.validation) - logits(early[0], prepared.validation)).max() > 1e-3
    first = model.head.layers[0].get_parameter("weight")
    assert first[:, list(feature_places(sections["model"])["theme"])].abs().max() > 0


def test_a_mixture_without_a_baseline_trains_one_before(prepared, sections):
    once = changed(sections["train"], epochs=1)
    of_it = train.fit_one("din", sections["model"], prepared, once, 1)
    given, alone = (
        train.fit_one("mos", sections["model"], prepared, once, 1, baseline=each)[0].state_dict()
        for each in (of_it, None)
    )
    assert all(torch.equal(value, alone[name]) for name, value in given.items())


def test_the_stage_trains_the_baseline_first_and_a_killed_one_ends_with_the_same_bytes(
    data, sections, tmp_path, monkeypatch
):
    sections = sections | {"train": changed(sections["train"], checkpoint_s=0.0)}
    found = []
    for name in ("whole", "killed"):
        root = tmp_path / name
        shutil.copytree(data, root / "data" / "simulator")
        monkeypatch.chdir(root)
        if name == "killed":
            assert killed("mos", root, sections) % EPOCH_STEPS
            assert (root / ".state/simulator/train/din/fitted.json").exists()
        run_train(root / "data" / "simulator", sections)
        found.append(contents(root / "data" / "simulator", *OUTS))
    assert found[0] == found[1]
    rows = (tmp_path / "whole/data/simulator/training_record/record.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["mos"] * 5 + ["din"] * 4, "the served one's first, with its start"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"global_expert": "mean"}, "model.global_expert is mean"),
        ({"backbone": "twin"}, "model.backbone is twin"),
        ({"router": "tied"}, "model.router is tied"),
    ],
)
def test_a_mixture_that_cannot_start_from_it_is_one_error(sections, changes, named):
    with pytest.raises(InputError, match=named) as raised:
        check_start(changed(sections["model"], **changes), sections["train"])
    assert 'make set ARGS="model.backbone=din model.global_expert=backbone model.router=decoupled"' in str(raised.value)
    check_start(changed(sections["model"], **changes), changed(sections["train"], start="random"))


def test_the_order_is_the_graph_s_own_unless_one_starts_from_another(sections):
    assert order(("mos", "din"), sections["train"]) == ["din", "mos"]
    assert order(("mos", "din"), changed(sections["train"], start="random")) == ["mos", "din"]


@pytest.mark.parametrize(
    ("schedule", "name", "requests", "decided"),
    [
        ("auto", "mos", 79_999, "constant"), ("auto", "mos", 80_000, "linear"), ("auto", "din", 80_000, "constant"),
        ("constant", "mos", 80_000, "constant"), ("linear", "din", 10, "linear"),
    ],
)  # fmt: skip
def test_auto_lets_the_rate_of_themes_fall_where_there_is_much_to_learn_from(
    prepared, sections, schedule, name, requests, decided
):
    given, model = changed(sections["train"], schedule=schedule), build(name, sections["model"], prepared.shape)
    assert with_schedule(given, model, requests).schedule == decided
