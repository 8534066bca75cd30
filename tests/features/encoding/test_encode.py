"""A history becomes tensors: newest events on the right, nothing at or after the cut, one user as many."""

import math
from dataclasses import fields, replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.errors import InputError
from features.encoding.encode import (
    NUM_AGE_BUCKETS,
    EncodedHistory,
    FeatureSpec,
    age_bucket,
    encode_histories,
    encode_one,
)

SECOND = 1_000_000
SPEC = FeatureSpec(
    history_length=4,
    labels="clicked",
    history_lag_s=0.0,
    session_gap_s=1800.0,
    session_max_s=None,
    windows_s=(60, 3600),
    shows_lag_s=10.0,
    clicks_lag_s=30.0,
    user_lag_s=10.0,
    context=False,
    devices=(),
    coclick_rank=0,
    coclick_period_s=86_400.0,
    in_list=False,
)

Arrays = tuple[npt.NDArray, npt.NDArray, npt.NDArray, npt.NDArray]


@st.composite
def users(draw: st.DrawFn) -> Arrays:
    """One user's events in time order; times in whole seconds of a short span, so that ties are common."""
    times = sorted(draw(st.lists(st.integers(0, 30), max_size=12)))
    size = len(times)
    items = draw(st.lists(st.integers(2, 9), min_size=size, max_size=size))
    labels = draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=size, max_size=size))
    sessions = np.cumsum(draw(st.lists(st.integers(0, 1), min_size=size, max_size=size)))
    return (
        np.array(items, np.int32),
        np.array(times, np.int64) * SECOND,
        np.array(labels, np.float32),
        sessions.astype(np.int32),
    )


def slow_encode(spec: FeatureSpec, events: Arrays, at: int) -> dict[str, list]:
    """The definition, one event at a time."""
    item_index, occurred_at, label, session = (list(map(float, column)) for column in events)
    lag = spec.history_lag_s * SECOND
    known = [i for i in range(len(item_index)) if occurred_at[i] < at - lag][-spec.history_length :]
    made: dict[str, list] = {each.name: [] for each in fields(EncodedHistory)}
    for _ in range(spec.history_length - len(known)):
        for name, padding in [("item_index", 0), ("label", 0), ("rank_bucket", 0), ("age_bucket", 0), ("session", -1)]:
            made[name].append(padding)
        made["mask"].append(False)
    for place, i in enumerate(known):
        made["item_index"].append(item_index[i])
        made["label"].append(int(label[i]))
        made["rank_bucket"].append(math.floor(math.log2(len(known) - place)))
        made["age_bucket"].append(math.floor(math.log2(1 + (at - occurred_at[i]) / SECOND / 30)))
        made["session"].append(session[known[-1]] - session[i])
        made["mask"].append(True)
    made["length"] = len(known)
    made["last_age_bucket"] = made["age_bucket"][-1] if known else NUM_AGE_BUCKETS - 1
    made["session_open"] = bool(known) and at - occurred_at[known[-1]] <= spec.session_gap_s * SECOND
    return made


def assert_equal(one: EncodedHistory, other: EncodedHistory) -> None:
    for each in fields(EncodedHistory):
        left, right = getattr(one, each.name), getattr(other, each.name)
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right, err_msg=each.name)


@given(users(), st.integers(0, 40), st.sampled_from([0.0, 0.5, 3.0]), st.integers(1, 6))
def test_the_encoding_is_its_slow_definition(events: Arrays, at_s: int, lag_s: float, length: int) -> None:
    spec = replace(SPEC, history_length=length, history_lag_s=lag_s)
    encoded = encode_one(spec, *events, at=at_s * SECOND)
    for name, value in slow_encode(spec, events, at_s * SECOND).items():
        np.testing.assert_array_equal(getattr(encoded, name)[0], value, err_msg=name)


@given(users(), users(), st.integers(0, 40))
def test_events_at_or_after_the_time_never_change_an_encoding(events: Arrays, later: Arrays, at_s: int) -> None:
    at = at_s * SECOND
    known = events[1] < at
    cut = tuple(column[known] for column in events)
    extended = tuple(
        np.concatenate([column, more + (at if name == 1 else 0)])
        for name, (column, more) in enumerate(zip(cut, later, strict=True))
    )
    assert_equal(encode_one(SPEC, *extended, at=at), encode_one(SPEC, *cut, at=at))


@given(st.lists(users(), min_size=1, max_size=5), st.data())
def test_many_histories_at_once_equal_one_by_one_even_where_ends_are_wrong(histories: list[Arrays], data) -> None:
    at = np.array([data.draw(st.integers(0, 40)) for _ in histories]) * SECOND
    bounds = np.r_[0, np.cumsum([len(events[0]) for events in histories])]
    flat = [np.concatenate(columns) for columns in zip(*histories, strict=True)]
    batch = encode_histories(SPEC, *flat, starts=bounds[:-1], ends=bounds[1:], at=at)
    for number, events in enumerate(histories):
        one = encode_one(SPEC, *events, at=int(at[number]))
        for each in fields(EncodedHistory):
            np.testing.assert_array_equal(getattr(batch, each.name)[number], getattr(one, each.name)[0])


@given(users(), st.integers(0, 40))
def test_a_shorter_window_is_the_right_end_of_a_longer_one(events: Arrays, at_s: int) -> None:
    long, short = (encode_one(replace(SPEC, history_length=length), *events, at=at_s * SECOND) for length in (12, 3))
    for name in ("item_index", "label", "rank_bucket", "age_bucket", "session", "mask"):
        np.testing.assert_array_equal(getattr(long, name)[:, -3:], getattr(short, name))


def test_padding_is_on_the_left_and_marked() -> None:
    encoded = encode_one(
        SPEC, np.array([7, 8]), np.array([0, 5]) * SECOND, np.array([1.0, 0.0]), np.array([0, 3]), at=6 * SECOND
    )
    np.testing.assert_array_equal(encoded.item_index, [[0, 0, 7, 8]])
    np.testing.assert_array_equal(encoded.mask, [[False, False, True, True]])
    np.testing.assert_array_equal(encoded.session, [[-1, -1, 3, 0]])
    np.testing.assert_array_equal(encoded.label, [[0, 0, 1, 0]])
    np.testing.assert_array_equal(encoded.rank_bucket, [[0, 0, 1, 0]])


def test_age_buckets_change_exactly_where_their_formula_does() -> None:
    edges = [30 * (2**bucket - 1) for bucket in range(6)]  # floor(log2(1 + age / 30 s)) steps at 0, 30, 90, 210 s ...
    assert age_bucket(np.array(edges) * SECOND).tolist() == [0, 1, 2, 3, 4, 5]
    assert age_bucket(np.array(edges[1:]) * SECOND - 1).tolist() == [0, 1, 2, 3, 4]
    assert age_bucket([200 * 365 * 86400 * SECOND]).tolist() == [NUM_AGE_BUCKETS - 1]


def test_an_unknown_user_has_an_empty_encoding() -> None:
    nothing = np.zeros(0, np.int64)
    encoded = encode_one(SPEC, nothing, nothing, nothing.astype(np.float32), nothing, at=0)
    assert encoded.length.tolist() == [0]
    assert not encoded.mask.any()
    assert encoded.last_age_bucket.tolist() == [NUM_AGE_BUCKETS - 1]
    assert not encoded.session_open.any()


def test_memory_maps_encode_as_arrays_do(tmp_path) -> None:
    events = (np.arange(2, 8, dtype=np.int32), np.arange(6) * SECOND, np.ones(6, np.float32), np.zeros(6, np.int32))
    mapped = []
    for number, column in enumerate(events):
        np.save(tmp_path / f"{number}.npy", column)
        mapped.append(np.load(tmp_path / f"{number}.npy", mmap_mode="r"))
    assert_equal(encode_one(SPEC, *mapped, at=4 * SECOND), encode_one(SPEC, *events, at=4 * SECOND))


def test_a_spec_survives_json_and_its_hash_names_it() -> None:
    again = FeatureSpec.from_json(SPEC.to_json())
    assert again == SPEC
    assert again.hash() == SPEC.hash()
    hashes = {replace(SPEC, **{name: value}).hash() for name, value in [("history_length", 5), ("user_lag_s", 11.0)]}
    assert len(hashes | {SPEC.hash()}) == 3


def test_a_spec_of_other_code_is_refused_by_what_differs() -> None:
    with pytest.raises(InputError, match="version"):
        FeatureSpec.from_json(SPEC.to_json() | {"version": 0})
    with pytest.raises(InputError, match="num_rank_buckets"):
        FeatureSpec.from_json(SPEC.to_json() | {"num_rank_buckets": 99})
    with pytest.raises(InputError, match=r"lacks history_length, "):
        FeatureSpec.from_json({})
