"""The baselines on a small simulated log: every row is there, fitted before the test, and repeats."""

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

pytest.importorskip("lightgbm", reason="pip install -e '.[benchmarks]'")

from benchmarks import baselines, lag_curve
from benchmarks.ablation import BAR, GROUPS, blanked
from benchmarks.contenders import blend, calibrated, figures, floors, graph_models, logistic, trees, within_request
from benchmarks.tracks import Log, Track, open_log
from benchmarks.trees import fit_seeds
from contracts.errors import InputError
from tests.training.contexts import no_contexts
from training.judging.baselines import popularity
from training.judging.measure import Scored
from training.judging.tables import predictions_schema
from training.metrics import iauc
from training.requests.reader import Requests

ROOT = Path(__file__).parents[2]


def test_the_floors_are_the_pipeline_s_own_popularity(source: Log, track: Track, sections: dict) -> None:
    window = sections["evaluate"].popularity_window_s
    found = {each.name: each.scored[0].score for each in floors(track, window)}
    clicks = popularity(track.test.requests, source.counters, track.spec.clicks_lag_s, window)
    assert found["popularity_clicks"] == pytest.approx(np.log1p(clicks), rel=1e-6)
    request = track.test.requests.request_of_row
    assert iauc(found["list_length"], track.test.label, request) == 0.5
    with pytest.raises(InputError, match="windows_s"):
        floors(track, 77)


def test_a_contender_never_sees_a_label_of_the_test_part(track: Track) -> None:
    requests = track.test.requests
    flipped = replace(track, test=replace(track.test, requests=replace(requests, label=1 - requests.label)))
    for made, again in [
        (logistic(track), logistic(flipped)),
        tuple(trees(each, "binary", fit_seeds(each, "binary", [1], 1)) for each in (track, flipped)),
    ]:
        np.testing.assert_array_equal(made.scored[0].score, again.scored[0].score)
        np.testing.assert_array_equal(made.scored[0].probability, again.scored[0].probability)


@pytest.mark.parametrize("objective", ["binary", "lambdarank"])
def test_trees_rank_above_chance_and_a_seed_repeats(track: Track, objective) -> None:
    requests = track.test.requests
    first, again = (trees(track, objective, fit_seeds(track, objective, [1, 2], 1)) for _ in range(2))
    for one, other in zip(first.scored, again.scored, strict=True):
        np.testing.assert_array_equal(one.score, other.score)
    assert not np.array_equal(first.scored[0].score, first.scored[1].score)
    row = figures(first, requests, 20, 1)
    assert row["iauc"] > 0.52
    assert row["iauc_low"] <= row["iauc"] <= row["iauc_high"]
    assert row["logloss"] < 0.75


def small_requests() -> Requests:
    """Two requests of 2 and 3 candidates."""
    return Requests(
        request_index=np.arange(2),
        user_index=np.arange(2),
        at=np.array([1, 2]),
        starts=np.zeros(2, int),
        ends=np.zeros(2, int),
        row_starts=np.array([0, 2, 5]),
        item_index=np.arange(2, 7),
        label=np.array([1, 0, 0, 1, 0], np.float32),
        **no_contexts(2),
    )


def test_a_softmax_within_the_request_sums_to_one() -> None:
    p = np.array([0.5, 0.5, 0.5, 0.8, 0.2])  # odds 1, 1 | 1, 4, 1/4
    found = within_request(Scored(p, p), small_requests()).probability
    assert found == pytest.approx([0.5, 0.5, 1 / 5.25, 4 / 5.25, 0.25 / 5.25])


def test_a_blend_is_the_mean_of_log_odds_seed_by_seed() -> None:
    one, other = (baselines.Contender(name, [Scored(np.array([p]), np.array([p])) for p in values])
                  for name, values in [("a", [0.8, 0.5]), ("b", [0.5])])  # fmt: skip
    found = blend("both", one, other)
    assert [each.probability[0] for each in found.scored] == pytest.approx([2 / 3, 0.5])  # odds 4 and 1: 2


def test_calibration_keeps_the_order_and_finds_the_click_share() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=2000)
    labels = (rng.random(2000) < 0.1).astype(np.float32)
    found = calibrated(scores, scores, labels)
    assert found.probability.mean() == pytest.approx(labels.mean(), abs=1e-3)


def test_predictions_of_another_test_part_are_refused(tmp_path: Path) -> None:
    requests = small_requests()
    columns = {"request_index": requests.request_of_row, "item_index": requests.item_index, "label": requests.label}
    columns |= {name: np.arange(5.0) for name in ("mos", "din", "popularity")}
    import pyarrow as pa

    schema = predictions_schema(["mos", "din", "popularity"])
    table = pa.table({field.name: pa.array(columns[field.name]).cast(field.type) for field in schema})
    path = tmp_path / "predictions.parquet"
    pq.write_table(table, path)
    (mos,) = graph_models(str(path), requests, ("mos",))
    assert mos.scored[0].score.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(InputError, match="dvc repro evaluate"):
        graph_models(str(path), requests.take([1]), ("mos",))


def test_a_log_without_outs_says_what_makes_them(tmp_path: Path, sections: dict) -> None:
    with pytest.raises(InputError, match="make run SOURCE=nowhere"):
        open_log(tmp_path / "nowhere", sections, 10)


@pytest.mark.parametrize(("module", "rows"), [(baselines, 16), (lag_curve, 2)])
def test_the_commands_write_a_table(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module, rows: int, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(ROOT)
    own = ["--lags-s", "0", "3600"] if module is lag_curve else []
    monkeypatch.setattr(
        sys, "argv", [module.__name__, "--data", str(data), "--out", str(tmp_path), "--seeds", "2", *own]
    )
    monkeypatch.setattr(logging.getLogger("leitmotif"), "level", logging.WARNING)
    module.main()
    name = module.__name__.rpartition(".")[2]
    made = json.loads((tmp_path / f"{name}.json").read_text())
    assert len(made["rows"]) == rows
    assert {"command", "hardware", "source", "lags_s"} <= made.keys()
    page = (tmp_path / f"{name}.md").read_text()
    assert all(f"{row['iauc']:.4f}" in page for row in made["rows"])
    assert "iauc" in capsys.readouterr().out


def test_an_ablation_blanks_its_group_and_nothing_else(track: Track) -> None:
    for name, blank in GROUPS.items():
        made = blanked(track, blank)
        gone = np.array([blank(column) for column in track.spec.scalars])
        assert not made.test.scalars[:, gone].any(), name
        np.testing.assert_array_equal(made.test.scalars[:, ~gone], track.test.scalars[:, ~gone])
        assert gone.any() == (name not in (BAR, "without co-clicks", "without context", "without windows below 1 h"))
