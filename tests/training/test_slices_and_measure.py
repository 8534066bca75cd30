"""Parts of the test, and differences between models."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.training.contexts import no_contexts
from training.judging.measure import Scored, differences, measure, measure_slices
from training.judging.slices import NO_THEME, requests_since_shift, slice_masks, true_item_themes
from training.requests.reader import Requests

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


def test_a_request_without_truth_beside_others_is_told_by_the_gap_and_changes_no_theme(tmp_path):
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
    found = requests([0] * 7, range(7), [0, 1, 19, 20, 100, 499, 500])
    masks = slice_masks(found, np.arange(7), np.array([0, 1, 2, 1]))
    for prefix in ("_after_shift", "history_"):
        parts = [mask for name, mask in masks.items() if prefix in name]
        assert (np.sum(parts, axis=0) == 1).all()
    assert masks["history_1_19"].sum() == 4
    assert masks["history_500_up"].sum() == 2
    assert masks["cold_items"].tolist() == [False, True] * 7
    assert masks["second_and_third_after_shift"].sum() == 4


def test_a_slice_is_measured_on_its_rows_alone():
    found = requests([0, 0], [0, 1])
    score = np.array([0.9, 0.1, 0.2, 0.8])
    masks = {"first": np.array([True, True, False, False]), "none": np.zeros(4, bool)}
    slices = measure_slices({"mos": Scored(score, score)}, found, masks)
    assert slices["first"] == {"requests": 1, "impressions": 2, "mos_auc": 1.0, "mos_iauc": 1.0}
    assert slices["none"]["requests"] == 0
    assert math.isnan(slices["none"]["mos_auc"])


def test_figures_and_differences_of_a_hand_computed_case():
    found = requests([0, 1], [0, 1])
    good, bad = np.array([0.9, 0.1, 0.8, 0.2]), np.array([0.1, 0.9, 0.8, 0.2])
    scored = {"mos": Scored(good, good), "din": Scored(bad, bad)}
    assert measure(scored["mos"], found)["auc"] == 1.0
    # din: clicks .1 .8, others .9 .2: pairs won: .8 > .2 only -> 1/4; iAUC (0 + 1) / 2
    assert measure(scored["din"], found)["auc"] == 0.25
    assert measure(scored["din"], found)["iauc"] == 0.5
    row = differences(scored, found, [("mos", "din")], 200, seed=1)["mos_minus_din"]
    assert (row["auc"], row["iauc"]) == (0.75, 0.5)
    assert (row["iauc_low"], row["iauc_high"]) == (0.0, 1.0)  # user 1 alone, user 0 alone


def test_differences_of_no_requests_are_not_a_number():
    found = requests([], [])
    nothing = {name: Scored(np.zeros(0), np.zeros(0)) for name in ("mos", "din")}
    row = differences(nothing, found, [("mos", "din")], 5, seed=1)["mos_minus_din"]
    assert all(math.isnan(value) for value in row.values())
