"""Sequence models in the harness use the rows of the trees and nothing of the test part; a stopped run resumes."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("lightgbm", reason="pip install -e '.[benchmarks]'")

from benchmarks import baselines
from benchmarks.kept import digest_arrays, kept
from benchmarks.rolling import DAY_US, rolling_trees
from benchmarks.sequence_models import VARIANTS, Bench, open_bench, prepare_variant, sequence_model
from benchmarks.tracks import Log, Part, Track
from benchmarks.trees import fit_seeds
from contracts.params import PARAMS
from training.metrics import iauc
from training.model.build import MODELS

ROOT = Path(__file__).parents[2]
SMALL = {
    "model": {"history_length": 20, "width": 8, "num_themes": 4, "theme_capacity": 8, "short_length": 5},
    "train": {"epochs": 1, "router_steps": 3},
    "evaluate": {"num_bootstrap": 20},
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def make_bench(source: Log, track: Track, data: Path, sections: dict, tmp_path: Path) -> Callable[..., Bench]:
    """Of a small model; keywords change its training, `track` the parts."""

    def make(track: Track = track, **changes: object) -> Bench:
        model = sections["model"].model_copy(update=SMALL["model"])
        train = sections["train"].model_copy(update=SMALL["train"] | changes)
        return open_bench(source, track, data, model, train, tmp_path / "kept")

    return make


def flipped(part: Part, rows: np.ndarray) -> Part:
    label = np.where(rows, 1 - part.label, part.label)
    return replace(part, requests=replace(part.requests, label=label))


def test_a_sequence_model_is_fitted_on_the_rows_and_scalars_of_the_trees(make_bench) -> None:
    bench = make_bench()
    prepared = prepare_variant(bench, VARIANTS["din"], bench.model, bench.train)
    for found, part in [(prepared.train, bench.track.train), (prepared.validation, bench.track.validation)]:
        assert found.requests is part.requests
        assert found.scalars is part.scalars
    assert prepared.shape.num_scalars == len(bench.track.spec.scalars)


def test_the_ablations_see_no_history_and_no_scalars(make_bench) -> None:
    bench = make_bench()
    without = {name: prepare_variant(bench, VARIANTS[name], bench.model, bench.train).train[5] for name in VARIANTS}
    assert not without["din_no_history"].history.mask_UL.any()
    assert without["din_no_history"].candidates.scalars_BS.shape[1] > 0
    assert without["din_no_scalars"].history.mask_UL.any()
    assert without["din_no_scalars"].candidates.scalars_BS.shape[1] == 0
    assert without["din"].history.mask_UL.any()


def test_every_variant_names_a_model_and_params_that_exist(make_bench) -> None:
    bench = make_bench()
    for variant in VARIANTS.values():
        assert variant.model in MODELS
        assert set(variant.changes) <= set(type(bench.model).model_fields)


@pytest.mark.parametrize("name", ["din_listwise", "mos"])
def test_a_sequence_model_never_sees_a_label_of_the_test_part(make_bench, track: Track, name: str) -> None:
    other = replace(track, test=flipped(track.test, np.ones(len(track.test.label), bool)))
    made, again = (sequence_model(make_bench(each), name, [1]).scored[0] for each in (track, other))
    np.testing.assert_array_equal(made.score, again.score)
    np.testing.assert_array_equal(made.probability, again.probability)


def test_probabilities_are_calibrated_whatever_the_loss(make_bench, track: Track) -> None:
    for name in ("din", "din_listwise"):
        (scored,) = sequence_model(make_bench(), name, [1]).scored
        assert scored.probability.mean() == pytest.approx(track.test.label.mean(), abs=0.08)
        assert iauc(scored.score, track.test.label, track.test.requests.request_of_row) > 0.5


def test_a_fitted_model_is_kept_until_what_it_was_made_from_changes(make_bench, track: Track, tmp_path: Path) -> None:
    first = sequence_model(make_bench(), "twin", [1])
    (path,) = (tmp_path / "kept").glob("*.npz")
    written = path.stat().st_mtime_ns
    again = sequence_model(make_bench(), "twin", [1])
    np.testing.assert_array_equal(first.scored[0].score, again.scored[0].score)
    assert path.stat().st_mtime_ns == written
    moved = replace(track, train=replace(track.train, scalars=track.train.scalars + 1))
    for bench, seed in [(make_bench(), 2), (make_bench(learning_rate=0.02), 1), (make_bench(moved), 1)]:
        before = set((tmp_path / "kept").glob("*.npz"))
        sequence_model(bench, "twin", [seed])
        assert len(set((tmp_path / "kept").glob("*.npz")) - before) == 1


def test_nothing_is_kept_of_what_failed(tmp_path: Path) -> None:
    def fail() -> dict:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        kept(tmp_path, "it", {"seed": 1}, fail)
    assert kept(tmp_path, "it", {"seed": 1}, lambda: {"a": np.arange(3)})["a"].tolist() == [0, 1, 2]
    assert kept(tmp_path, "it", {"seed": 1}, fail)["a"].tolist() == [0, 1, 2]


def test_a_digest_tells_order_type_and_shape_apart() -> None:
    a, b = np.arange(6), np.arange(6) + 1
    different = [[a, b], [b, a], [a.astype(np.int32), b], [a.reshape(2, 3), b], [a]]
    assert len({digest_arrays(each) for each in different}) == len(different)
    assert digest_arrays([a[::2]]) == digest_arrays([a[::2].copy()])


def test_a_rolling_day_sees_earlier_days_and_never_itself_or_later(track: Track) -> None:
    at = np.repeat(track.test.requests.at, track.test.sizes)
    day = (at - at.min()) // DAY_US
    assert day.max() >= 2
    fitted = fit_seeds(track, "binary", [1], 1)

    def scores(part: Part) -> np.ndarray:
        return rolling_trees(replace(track, test=part), fitted, [1], 0, 1).scored[0].score

    expected, changed = scores(track.test), scores(flipped(track.test, day == 1))
    np.testing.assert_array_equal(changed[day <= 1], expected[day <= 1])
    assert (changed[day == 2] != expected[day == 2]).any()


def test_the_command_adds_sequence_models_blends_and_rolling_trees(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = yaml.safe_load((ROOT / PARAMS).read_text())
    for section, changes in SMALL.items():
        params[section] |= changes
    (tmp_path / PARAMS).write_text(yaml.safe_dump(params))
    monkeypatch.chdir(tmp_path)
    own = ["--seeds", "2", "--tracks", "serving", "--max-requests", "300", "--rolling", "--num-threads", "1"]
    own += ["--models", "din", "mos", "mos_random_routing"]
    monkeypatch.setattr(sys, "argv", ["baselines", "--data", str(data), "--out", str(tmp_path), *own])
    baselines.main()
    rows = {row["model"]: row for row in json.loads((tmp_path / "baselines.json").read_text())["rows"]}
    expected = {"din", "mos", "mos_random_routing", "din_trees_blend", "mos_trees_blend", "trees_rolling", "trees"}
    assert expected <= rows.keys()
    assert "listwise_trees_blend" not in rows
    assert rows["din"]["seeds"] == rows["mos"]["seeds"] == 2
    assert rows["din"]["iauc_sd"] > 0
    for row in rows.values():
        assert row["minus_din_low"] <= row["minus_din"] <= row["minus_din_high"]
    assert rows["din"]["minus_din"] == 0
    assert len(list((tmp_path / ".cache" / "benchmarks" / data.name).glob("*.npz"))) == 6
