"""Parts of the test, and differences between models."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.training.contexts import no_contexts
from training.judging.measure import Scored, bootstrap, differences, intervals, measure, measure_slices
from training.judging.slices import (
    NO_THEME,
    after_shift_at,
    cold_users,
    requests_since_shift,
    slice_masks,
    true_item_themes,
)
from training.metrics import grouped_auc
from training.requests.reader import Events, Requests

MINUTE = 60_000_000


def requests(users, minutes, num_events=None):
    """One request of two candidates, one clicked, for each user and minute."""
    number = len(users)
    return Requests(
        request_index=np.arange(number),
        user_index=np.array(users),
        at=np.array(minutes) * MINUTE,
        starts=np.zeros(number, int),
        ends=np.zeros(number, int) if num_events is None else np.array(num_events),
        row_starts=np.arange(number + 1) * 2,
        item_index=np.tile([2, 3], number),
        label=np.tile([1.0, 0.0], number).astype(np.float32),
        **no_contexts(number),
    )


def test_without_truth_a_shift_is_a_session_gap(tmp_path):
    found = requests_since_shift(tmp_path, requests([0, 1, 0, 0, 1, 0], [0, 1, 10, 60, 61, 62]), 1800)
    # user 0: minutes 0, 10, then 60 after a gap, 62; user 1: 1, then 61 after a gap
    assert found.tolist() == [0, 0, 1, 0, 0, 1]


def test_with_truth_a_shift_is_a_change_of_theme(tmp_path):
    (tmp_path / "truth").mkdir()
    (tmp_path / "impressions").mkdir()
    names = ["c", "a", "b", "d"]
    pq.write_table(
        pa.table({"request_index": pa.array(range(4), pa.int32()), "impression_id": names}),
        tmp_path / "impressions" / "requests.parquet",
    )
    pq.write_table(
        pa.table({"impression_id": ["a", "b", "c", "d", "not kept"], "theme": pa.array([5, 5, 4, 4, 9], pa.int32())}),
        tmp_path / "truth" / "requests.parquet",
    )
    found = requests_since_shift(tmp_path, requests([0, 0, 0, 0], [0, 100, 200, 201]), 1800)
    assert found.tolist() == [0, 0, 1, 0]  # themes 4 5 5 4


def test_a_request_without_a_true_theme_uses_the_session_gap_and_changes_no_theme(tmp_path):
    (tmp_path / "truth").mkdir()
    (tmp_path / "impressions").mkdir()
    names = ["a", "live 1", "live 2", "b", "c"]
    pq.write_table(
        pa.table({"request_index": pa.array(range(5), pa.int32()), "impression_id": names}),
        tmp_path / "impressions" / "requests.parquet",
    )
    truth = pa.table({"impression_id": ["a", "b", "c"], "theme": pa.array([5, 5, 4], pa.int32())})
    pq.write_table(truth, tmp_path / "truth" / "requests.parquet")
    found = requests_since_shift(tmp_path, requests([0] * 5, [0, 1, 100, 101, 102]), 1800)
    assert found.tolist() == [0, 1, 0, 1, 0]  # a gap of 99 minutes before live 2; the theme changes from b to c


def test_an_item_that_the_simulator_did_not_draw_has_no_true_theme(tmp_path):
    (tmp_path / "truth").mkdir()
    truth = pa.table({"item_id": ["a", "b"], "theme": pa.array([3, 0], pa.int32())})
    pq.write_table(truth, tmp_path / "truth" / "items.parquet")
    assert true_item_themes(tmp_path, ["b", "live", "a"]).tolist() == [0, NO_THEME, 3]


def test_shift_slices_and_history_slices_each_cover_every_row_once():
    found = requests([0] * 7, [0, 300, 301, 800, 1100, 1500, 1600], [0, 1, 19, 20, 100, 499, 500])
    masks = slice_masks(found, np.arange(7), np.array([0, 1, 2, 1]), np.arange(7) > 4, 20)
    for part in ("_after_shift", "history_", "_users", "_items", "hour_", "period_", "trained_history"):
        parts = [mask for name, mask in masks.items() if name.startswith(part) or name.endswith(part)]
        assert len(parts) > 1
        assert (np.sum(parts, axis=0) == 1).all(), part
    assert masks["history_1_19"].sum() == 4
    assert masks["history_500_up"].sum() == 2
    assert masks["cold_items"].tolist() == [False, True] * 7
    assert masks["second_and_third_after_shift"].sum() == 4
    assert masks["cold_users"].sum() == 4
    assert masks["untrained_history"].sum() == 6
    assert masks["hour_00_05"][::2].tolist() == [True, True, True, False, False, True, True]  # 1500: 01:00, a day on
    assert [int(masks[f"period_{n}"].sum()) for n in (1, 2, 3)] == [6, 2, 6]
    assert [int(mask.sum()) for mask in after_shift_at(np.arange(7)).values()] == [1, 1, 1, 1, 1, 2]


def test_a_user_is_cold_who_had_no_event_when_training_ended():
    events = Events(
        item_index=np.zeros(3, np.int32),
        occurred_at=np.array([5, 50, 20]),
        label=np.ones(3, np.float32),
        session=np.zeros(3, np.int32),
        offsets=np.array([0, 2, 2, 3]),  # user 1 has none
    )
    assert cold_users(events, requests([0, 1, 2, 2], range(4)), 20).tolist() == [False, True, True, True]


def test_a_slice_is_measured_on_its_rows_alone():
    found = requests([0, 0], [0, 1])
    score = np.array([0.9, 0.1, 0.2, 0.8])
    masks = {"first": np.array([True, True, False, False]), "none": np.zeros(4, bool)}
    slices = measure_slices({"mos": Scored(score, score)}, found, masks, [], 20, seed=1)
    sizes = {"requests": 1, "requests_ranked": 1, "users_ranked": 1, "impressions": 2}
    interval = {"mos_iauc_low": 1.0, "mos_iauc_high": 1.0}
    assert slices["first"] == sizes | {"mos_auc": 1.0, "mos_iauc": 1.0} | interval
    assert slices["none"]["requests"] == 0
    assert math.isnan(slices["none"]["mos_auc"])
    assert math.isnan(slices["none"]["mos_iauc_low"])


def slow_iauc(score, found, mask, times):
    """Of requests repeated as often as their user was drawn: sorted anew for each draw."""
    within = grouped_auc(score[mask], found.label[mask], found.request_of_row[mask])
    return np.average(within.auc, weights=times[found.user_index[within.group]])


def test_the_intervals_of_slices_and_models_are_those_of_rows_drawn_one_by_one():
    rng = np.random.default_rng(5)
    number = 60
    found = requests(rng.integers(0, 8, number), range(number))
    label = rng.integers(0, 2, 2 * number).astype(np.float32)
    found = Requests(**{**vars(found), "label": label})
    one, two = rng.normal(size=(2, 2 * number)).round(1)
    scored = {"mos": Scored(one, 1 / (1 + np.exp(-one))), "din": Scored(two, 1 / (1 + np.exp(-two)))}
    mask = np.repeat(rng.random(number) < 0.5, 2)
    row = measure_slices(scored, found, {"part": mask}, [("mos", "din")], 100, seed=3)["part"]
    times_RU = np.random.default_rng(3).multinomial(8, np.full(8, 1 / 8), 100)  # users 0 to 7 are all there
    drawn = {name: [slow_iauc(each.score, found, mask, times) for times in times_RU] for name, each in scored.items()}
    low, high = np.percentile(drawn["mos"], (2.5, 97.5))
    assert (row["mos_iauc_low"], row["mos_iauc_high"]) == (pytest.approx(low), pytest.approx(high))
    gained = np.array(drawn["mos"]) - np.array(drawn["din"])
    assert row["mos_minus_din_iauc_low"] == pytest.approx(np.percentile(gained, 2.5))

    whole = bootstrap(scored, found, 100, seed=3, ndcg_at=10)["mos"]
    user = found.user_index[found.request_of_row]
    per_user = grouped_auc(one, label, user)
    weighted = [np.average(per_user.auc, weights=per_user.size * times[per_user.group]) for times in times_RU]
    assert intervals(whole)["gauc_low"] == pytest.approx(np.percentile(weighted, 2.5))
    for name, value in whole.value.items():
        assert value == pytest.approx(measure(scored["mos"], found, 10)[name]), name


def test_figures_and_differences_of_a_hand_computed_case():
    found = requests([0, 1], [0, 1])
    good, bad = np.array([0.9, 0.1, 0.8, 0.2]), np.array([0.1, 0.9, 0.8, 0.2])
    scored = {"mos": Scored(good, good), "din": Scored(bad, bad)}
    assert measure(scored["mos"], found)["auc"] == 1.0
    # din: clicks .1 .8, others .9 .2: pairs won: .8 > .2 only -> 1/4; iAUC (0 + 1) / 2
    assert measure(scored["din"], found)["auc"] == 0.25
    assert measure(scored["din"], found)["iauc"] == 0.5
    row = differences(bootstrap(scored, found, 200, 1, ndcg_at=1), [("mos", "din")])["mos_minus_din"]
    assert (row["auc"], row["iauc"]) == (0.75, 0.5)
    assert (row["iauc_low"], row["iauc_high"]) == (0.0, 1.0)  # user 1 alone, user 0 alone
    assert (row["gauc"], row["ndcg"]) == (0.5, 0.5)
    # probabilities are the scores: -(log .9 + log .9 + log .8 + log .8) / 4 against -(log .1 + log .1 + ...) / 4
    assert row["logloss"] == pytest.approx((math.log(0.1) - math.log(0.9)) / 2)
    figures = measure(scored["mos"], found)
    assert figures["normalised_entropy"] == pytest.approx(figures["logloss"] / math.log(2))
    assert figures["calibration_ratio"] == pytest.approx(1.0)  # 2 of 4 are predicted, 2 came


def test_differences_of_no_requests_are_not_a_number():
    found = requests([], [])
    nothing = {name: Scored(np.zeros(0), np.zeros(0)) for name in ("mos", "din")}
    row = differences(bootstrap(nothing, found, 5, 1, ndcg_at=10), [("mos", "din")])["mos_minus_din"]
    assert all(math.isnan(value) for value in row.values())
