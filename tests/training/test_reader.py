"""Candidates of chosen requests, read after choosing, are those of requests that are read whole."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.errors import InputError
from contracts.schema import FIRST_INDEX, IMPRESSIONS, PADDING_INDEX, REQUESTS, UNKNOWN_INDEX
from training.requests.reader import BareRequests, Events, Requests, load_bare_requests, load_requests, with_candidates
from training.requests.sample import require_both_labels

NUM, USERS, ITEMS = 80, 6, 9
OFFSETS = np.arange(0, 40 * (USERS + 1), 40)


@pytest.fixture(params=[True, False], ids=["in order of time", "in another order"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    random = np.random.default_rng(3)
    sizes, at = random.integers(1, 5, NUM), random.integers(0, 50, NUM)
    at = np.sort(at) if request.param else at
    of = np.repeat(np.arange(NUM), sizes)
    rows = {
        "request_index": of,
        "user_index": random.integers(0, USERS, NUM)[of],
        "item_index": random.integers(FIRST_INDEX, FIRST_INDEX + ITEMS, len(of)),
        "occurred_at": at[of],
        "label": random.integers(0, 2, len(of)).astype(np.float32),
        "end_offset": random.integers(0, 40, NUM)[of],
    }
    names = [{} if number % 4 == 0 else told(number, at[number]) for number in range(NUM)]
    names = [{"request_index": number, "impression_id": f"r{number}"} | each for number, each in enumerate(names)]
    (tmp_path / "impressions").mkdir()
    (tmp_path / "user_histories").mkdir()
    table = pa.table([pa.array(rows[field.name]).cast(field.type) for field in IMPRESSIONS], schema=IMPRESSIONS)
    pq.write_table(table, tmp_path / "impressions" / "impressions.parquet", row_group_size=30)
    pq.write_table(pa.Table.from_pylist(names, REQUESTS), tmp_path / "impressions" / "requests.parquet")
    items = pa.table({"item_id": [f"i{number}" for number in range(ITEMS)]})
    pq.write_table(items, tmp_path / "user_histories" / "vocabulary.parquet")
    return tmp_path


def told(number: int, at: int) -> dict:
    """What a request says of itself."""
    known_at = pa.scalar(int(at) + 9, pa.timestamp("us", "UTC")).as_py() if number % 3 == 0 else None
    page = "gone" if number % 5 == 0 else f"i{number % ITEMS}"
    return {
        "device": "tv" if number % 2 else "telephone",
        "is_subscriber": number % 2 == 0,
        "reading_item_id": page,
        "known_at": known_at,
    }


def events() -> Events:
    none = np.zeros(0, np.int64)
    return Events(none.astype(np.int32), none, none.astype(np.float32), none.astype(np.int32), OFFSETS)


def one_by_one(data: Path) -> list[dict]:
    """Every request in order of (time, request_index), by plain loops over the tables."""
    names = pq.read_table(data / "impressions" / "requests.parquet").to_pylist()
    found = {}
    for row in pq.read_table(data / "impressions" / "impressions.parquet").to_pylist():
        number = row["request_index"]
        name, start = names[number], int(OFFSETS[row["user_index"]])
        reading = name["reading_item_id"]
        index = (
            PADDING_INDEX if reading is None else UNKNOWN_INDEX if reading == "gone" else FIRST_INDEX + int(reading[1:])
        )
        one = found.setdefault(
            number,
            {"request_index": number, "user_index": row["user_index"], "at": us(row["occurred_at"]), "starts": start,
             "ends": start + row["end_offset"], "known_at": us(name["known_at"]), "reading": index,
             "is_subscriber": bool(name["is_subscriber"]), "device": name["device"] or "", "items": [], "labels": []},
        )  # fmt: skip
        one["items"].append(row["item_index"])
        one["labels"].append(row["label"])
    return sorted(found.values(), key=lambda each: (each["at"], each["request_index"]))


def us(at: object) -> int:
    return 0 if at is None else pa.scalar(at, pa.timestamp("us", "UTC")).cast(pa.int64()).as_py()


def listed(requests: Requests) -> list[dict]:
    bounds = requests.row_starts.tolist()
    plain = {
        name: getattr(requests, name).tolist()
        for name in (
            "request_index",
            "user_index",
            "at",
            "starts",
            "ends",
            "known_at",
            "reading",
            "is_subscriber",
            "device",
        )
    }
    return [
        {name: values[place] for name, values in plain.items()}
        | {
            "items": requests.item_index[bounds[place] : bounds[place + 1]].tolist(),
            "labels": requests.label[bounds[place] : bounds[place + 1]].tolist(),
        }
        for place in range(len(requests))
    ]


def test_all_requests_are_those_of_the_tables_in_order_of_time(data: Path) -> None:
    found = load_requests(data, events())
    assert listed(found) == one_by_one(data)
    assert (found.item_index.dtype, found.label.dtype, found.at.dtype) == (np.int32, np.float32, np.int64)


@pytest.mark.parametrize("chosen", [[], [5], [2, 3, 40, 79], [70, 3, 41, 4], list(range(NUM))])
def test_candidates_of_chosen_requests_equal_those_of_the_same_among_all(data: Path, chosen: list[int]) -> None:
    places = np.array(chosen, np.int64)
    bare, whole = load_bare_requests(data, events()), load_requests(data, events())
    some = bare.take(places)
    found, expected = with_candidates(data, some), whole.take(places)
    assert listed(found) == listed(expected) == [one_by_one(data)[place] for place in chosen]
    assert some.num_rows == found.num_rows == len(found.label)
    assert (some.num_events == found.num_events).all()


def test_a_mask_chooses_bare_requests_too(data: Path) -> None:
    bare = load_bare_requests(data, events())
    late = bare.at >= 25
    assert isinstance(some := bare.take(late), BareRequests)
    assert some.request_index.tolist() == bare.request_index[late].tolist()


def test_labels_of_one_kind_are_refused_and_counted(data: Path) -> None:
    found = load_requests(data, events())
    require_both_labels(found)
    only = Requests(**{**vars(found), "label": np.zeros_like(found.label)})
    with pytest.raises(InputError, match=rf"{len(found.label):,} candidates of the 80 requests .* no clicks"):
        require_both_labels(only)
