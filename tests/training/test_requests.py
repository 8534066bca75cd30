"""Requests by time: what is trained on, what is held out, and that nothing crosses the cuts."""

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import InputError
from features.params import SplitParams
from training.params import TrainParams
from training.requests import Cuts, Requests, cut_times, iso, rows_of
from training.sample import sample_train, sample_validation

TRAIN = TrainParams(
    epochs=1,
    max_requests=10,
    min_history=20,
    batch_requests=4,
    loss="pointwise",
    learning_rate=0.005,
    schedule="constant",
    mutual_information=0.3,
    router_steps=0,
    min_item_events=2,
    num_threads=1,
)


def requests(at, num_events=None, sizes=None):
    """Requests at these times with so many events and candidates each."""
    at = np.sort(np.asarray(at, np.int64))
    sizes = np.full(len(at), 2) if sizes is None else np.asarray(sizes)
    rows = int(sizes.sum())
    ends = np.full(len(at), 30) if num_events is None else np.asarray(num_events)
    return Requests(
        request_index=np.arange(len(at)),
        user_index=np.arange(len(at)) % 3,
        at=at,
        starts=np.zeros(len(at), int),
        ends=ends,
        row_starts=np.concatenate([[0], np.cumsum(sizes)]),
        item_index=np.arange(2, 2 + rows),
        label=(np.arange(rows) % 2).astype(np.float32),
    )


def split(validation, test):
    return SplitParams(validation=validation, test=test)


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=40),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_the_parts_are_disjoint_complete_and_apart_in_time(times, one, other):
    found = requests(times)
    cuts = cut_times(split(min(one, other), max(one, other)), found.at)
    parts = [cuts.part(found, name) for name in ("train", "validation", "test")]
    assert sum(map(len, parts)) == len(found)
    assert np.concatenate([part.request_index for part in parts]).tolist() == list(range(len(found)))
    for earlier, later in ((parts[0], parts[1]), (parts[1], parts[2]), (parts[0], parts[2])):
        if len(earlier) and len(later):
            assert earlier.at.max() < later.at.min()


def test_requests_at_the_cut_all_go_to_the_later_part():
    found = requests([1, 2, 2, 2, 3])
    cuts = cut_times(split(0.5, 1.0), found.at)  # the third of five stands at 2
    assert [len(cuts.part(found, name)) for name in ("train", "validation", "test")] == [1, 4, 0]


def test_a_cut_may_be_an_iso_time_and_is_read_as_utc():
    moment = datetime(2024, 1, 2, tzinfo=UTC)
    at_us = int(moment.timestamp() * 1e6)
    cuts = cut_times(split(moment.replace(tzinfo=None), moment), np.array([at_us - 1, at_us]))
    assert cuts == Cuts(at_us, at_us)
    assert iso(at_us) == "2024-01-02T00:00:00+00:00"


def test_validation_after_test_is_refused():
    with pytest.raises(InputError, match=r"split\.validation"):
        cut_times(split(0.9, 0.1), np.arange(10))


def test_taking_requests_takes_their_rows():
    found = requests([1, 2, 3], sizes=[1, 3, 2]).take([2, 0])
    assert found.request_index.tolist() == [2, 0]
    assert found.item_index.tolist() == [6, 7, 2]
    assert found.row_starts.tolist() == [0, 2, 3]
    assert found.request_of_row.tolist() == [0, 0, 1]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.data())
def test_rows_of_requests_equal_the_concatenated_ranges(sizes, data):
    starts = np.concatenate([[0], np.cumsum(sizes)])
    chosen = np.array(data.draw(st.lists(st.integers(0, len(sizes) - 1), max_size=8)), int)
    rows, row_starts = rows_of(starts, chosen)
    assert rows.tolist() == [row for c in chosen for row in range(starts[c], starts[c + 1])]
    assert np.diff(row_starts).tolist() == [sizes[c] for c in chosen]


def test_the_sample_is_drawn_from_the_latest_with_enough_history():
    num_events = np.where(np.arange(100) % 2 == 0, 19, 20)
    sample = sample_train(requests(np.arange(100), num_events), TRAIN, seed=1)
    assert len(sample.requests) == 10
    assert (sample.requests.num_events == 20).all()
    assert sample.requests.request_index.min() >= 60  # the latest 20 of the 50 odd ones
    assert (np.diff(sample.requests.at) > 0).all()
    assert (sample.min_history, sample.notes) == (20, [])


def test_a_sample_is_the_same_for_the_same_seed_only():
    found = requests(np.arange(100))
    draws = [sample_train(found, TRAIN, seed).requests.request_index.tolist() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_short_histories_are_trained_on_where_there_are_no_longer_ones_and_a_note_says_so():
    sample = sample_train(requests(np.arange(8), np.full(8, 6)), TRAIN, seed=1)
    assert len(sample.requests) == 8
    assert sample.min_history == 5
    assert "train.min_history = 20" in sample.notes[0]
    assert "8 requests" in sample.notes[1]


def test_no_request_before_the_split_is_an_input_error():
    with pytest.raises(InputError, match=r"split\.validation"):
        sample_train(requests([]), TRAIN, seed=1)


def test_validation_is_a_quarter_and_may_be_empty():
    assert len(sample_validation(requests(np.arange(100)), 20, TRAIN, seed=1)) == 2
    assert len(sample_validation(requests([]), 20, TRAIN, seed=1)) == 0
