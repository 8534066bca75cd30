"""Requests are split by time, and nothing crosses the cuts."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import InputError
from features.terms.params import LabelParams, SplitParams
from tests.training.contexts import no_contexts
from training.model.params import TrainParams
from training.requests.reader import Cuts, Events, Requests, cut_times, iso, log_end, rows_of
from training.requests.sample import sample_train, sample_validation

TRAIN = TrainParams(
    epochs=1,
    max_requests=10,
    min_history=20,
    batch_requests=4,
    loss="pointwise",
    learning_rate=0.005,
    schedule="constant",
    start="random",
    mutual_information=0.3,
    router_steps=0,
    router_starts=1,
    min_item_events=2,
    min_category_events=2,
    num_threads=1,
    optimizer="auto",
    gradient_clip=None,
    validations_per_epoch=1,
    choose_by="gauc",
    patience=4,
    calibrate=False,
    checkpoint_s=60.0,
    accelerator="cpu",
    devices=1,
    precision="32-true",
    strategy="auto",
    num_nodes=1,
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
        **no_contexts(len(at)),
    )


def cut(at, validation, test, train_from=None, delay_us=0, end=None):
    """The cuts of requests at these times; the log ends with its newest request."""
    split = SplitParams(train_from=train_from, validation=validation, test=test)
    at = np.sort(np.asarray(at, np.int64))
    return cut_times(split, LabelParams(delay_s=delay_us / 1e6), at, int(at[-1]) + 1 if end is None else end)


def moment(at_us):
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=at_us)


PARTS = ("train", "validation", "test")


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=40),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_the_parts_are_disjoint_complete_and_apart_in_time(times, one, other):
    found = requests(times)
    cuts = cut(found.at, min(one, other), max(one, other))
    parts = [cuts.part(found, name) for name in PARTS]
    assert sum(map(len, parts)) == len(found)
    assert np.concatenate([part.request_index for part in parts]).tolist() == list(range(len(found)))
    for earlier, later in ((parts[0], parts[1]), (parts[1], parts[2]), (parts[0], parts[2])):
        if len(earlier) and len(later):
            assert earlier.at.max() < later.at.min()


def test_requests_at_the_cut_all_go_to_the_later_part():
    found = requests([1, 2, 2, 2, 3])
    cuts = cut(found.at, 0.5, 1.0)  # the third of five stands at 2
    assert [len(cuts.part(found, name)) for name in PARTS] == [1, 4, 0]


def test_a_cut_may_be_an_iso_time_and_is_read_as_utc():
    second = datetime(2024, 1, 2, tzinfo=UTC)
    at_us = int(second.timestamp() * 1e6)
    cuts = cut([at_us - 1, at_us], second.replace(tzinfo=None), second, train_from=second.replace(tzinfo=None))
    assert cuts == Cuts(at_us, at_us, at_us, log_end=at_us + 1, delay=0)
    assert iso(at_us) == "2024-01-02T00:00:00+00:00"


def test_validation_after_test_is_refused():
    with pytest.raises(InputError, match=r"split\.validation"):
        cut(np.arange(10), 0.9, 0.1)


def test_train_after_validation_is_refused():
    with pytest.raises(InputError, match=r"split\.train_from is .*Set split\.train_from to an earlier"):
        cut(np.arange(10), 0.5, 0.9, train_from=0.6)


@pytest.mark.parametrize("train_from", [0.3, moment(3)])
def test_earlier_requests_than_train_from_are_in_no_part_and_a_request_at_it_is_trained_on(train_from):
    found = requests([0, 1, 2, 3, 3, 4, 5, 6, 7, 8])
    cuts = cut(found.at, moment(6), moment(8), train_from=train_from)
    assert [cuts.part(found, name).at.tolist() for name in PARTS] == [[3, 3, 4, 5], [6, 7], [8]]
    assert cuts.num_label_unknown(found, *PARTS) == 0


def test_a_request_is_in_a_part_only_where_its_labels_were_known_at_the_end_of_it():
    """Delay 3, cuts at 10 and 20, the log ends at 26: the last of each part is at 7, 17 and 23, that included."""
    found = requests([6, 7, 7, 8, 9, 10, 16, 17, 18, 20, 22, 23, 24, 25])
    cuts = cut(found.at, moment(10), moment(20), delay_us=3)
    assert cuts.log_end == 26
    assert [cuts.part(found, name).at.tolist() for name in PARTS] == [[6, 7, 7], [10, 16, 17], [20, 22, 23]]
    assert [cuts.num_label_unknown(found, name) for name in PARTS] == [2, 1, 2]
    assert cuts.num_label_unknown(found, "train", "validation") == 3


def test_if_the_log_ends_before_a_cut_its_end_decides():
    found = requests([1, 5, 6])
    cuts = cut(found.at, moment(100), moment(200), delay_us=2)  # known at 7, the log's end, or not at all
    assert [cuts.part(found, name).at.tolist() for name in PARTS] == [[1, 5], [], []]
    assert cuts.num_label_unknown(found, *PARTS) == 1


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=40),
    st.tuples(*[st.integers(0, 45)] * 3),
    st.integers(0, 12),
    st.integers(1, 9),
)
def test_no_part_knows_a_label_before_its_time(times, moments, delay, beyond):
    found = requests(times)
    train_at, validation_at, test_at = sorted(moments)
    end = max(times) + beyond
    cuts = cut(found.at, moment(validation_at), moment(test_at), moment(train_at), delay, end)
    bounds = {"train": (train_at, validation_at), "validation": (validation_at, test_at), "test": (test_at, end)}
    for name, (first, last) in bounds.items():
        of_part = [at for at in sorted(times) if first <= at < last]
        known = [at for at in of_part if at + delay <= last and at + delay <= end]
        assert cuts.part(found, name).at.tolist() == known
        assert cuts.num_label_unknown(found, name) == len(of_part) - len(known)


def events(occurred_at):
    at = np.array(occurred_at, np.int64)
    return Events(np.ones(len(at), np.int32), at, np.ones(len(at), np.float32), np.zeros(len(at), np.int32), at[:0])


def test_the_log_ends_after_the_newest_of_its_requests_and_events():
    assert log_end(requests([3, 7]), events([2, 9, 4])) == 10  # an event that no request holds
    assert log_end(requests([3, 7]), events([2, 4])) == 8
    assert log_end(requests([3, 7]), events([])) == 8


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


def test_short_histories_are_used_if_there_are_no_longer_ones_and_a_note_says_so():
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
