"""Requests read batch by batch are those of the whole table, whatever the batches, and memory holds no candidates."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.schema import IMPRESSIONS
from features.encoding import stored_requests
from features.encoding.stored_requests import ROWS, StoredRequests, ranges, read_rows

GROUP = 10


def write(data: Path, sizes: list[int], row_group: int = GROUP) -> pa.Table:
    """A log whose requests have so many candidates, at least one each."""
    request, random = np.repeat(np.arange(len(sizes)), sizes), np.random.default_rng(len(sizes))
    user, end = random.integers(0, 9, len(sizes)), random.integers(0, 99, len(sizes))
    columns = {
        "request_index": request,
        "user_index": user[request],
        "item_index": random.integers(2, 50, len(request)),
        "occurred_at": np.sort(random.integers(0, 1 << 50, len(sizes)))[request],
        "label": random.random(len(request)),
        "end_offset": end[request],
    }
    table = pa.table([pa.array(columns[field.name]).cast(field.type) for field in IMPRESSIONS], schema=IMPRESSIONS)
    (data / ROWS).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, data / ROWS, row_group_size=row_group, use_dictionary=False)
    return table


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 12), max_size=12), st.integers(1, 13))
def test_what_requests_have_once_is_that_of_their_first_row(tmp_path_factory, sizes, batch):
    data = tmp_path_factory.mktemp("log")
    rows = write(data, sizes).to_pylist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored_requests, "DECODED_AT_ONCE", batch)
        stored = StoredRequests.read(data)
    first = [
        place for place, row in enumerate(rows) if not place or row["request_index"] != rows[place - 1]["request_index"]
    ]
    assert stored.row_starts.tolist() == [*first, len(rows)]
    for name, values in (("request_index", stored.request_index), ("user_index", stored.user_index)):
        assert values.tolist() == [rows[place][name] for place in first]
    assert stored.end_offset.tolist() == [rows[place]["end_offset"] for place in first]
    at = [rows[place]["occurred_at"] for place in first]
    assert stored.at.tolist() == pa.array(at, IMPRESSIONS.field("occurred_at").type).cast(pa.int64()).to_pylist()
    kinds = [stored.request_index.dtype, stored.user_index.dtype, stored.at.dtype, stored.end_offset.dtype]
    assert kinds == [np.int32, np.int32, np.int64, np.int32]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=12), st.integers(1, 13), st.data())
def test_rows_at_positions_are_those_of_the_whole_table(tmp_path_factory, sizes, batch, data):
    folder = tmp_path_factory.mktemp("log")
    table = write(folder, sizes)
    positions = np.array(sorted(data.draw(st.sets(st.integers(0, len(table) - 1)))), np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored_requests, "DECODED_AT_ONCE", batch)
        found = read_rows(folder / ROWS, ["label", "item_index"], positions)
    assert found.column_names == ["label", "item_index"]
    assert found.to_pylist() == table.select(["label", "item_index"]).take(pa.array(positions)).to_pylist()
    assert found["item_index"].to_numpy().dtype == np.int32


def test_row_groups_without_a_chosen_row_are_not_read(tmp_path):
    table = write(tmp_path, [5] * 8)  # 4 row groups
    path, group = tmp_path / ROWS, pq.read_metadata(tmp_path / ROWS).row_group(1)
    begin = min(group.column(column).data_page_offset for column in range(group.num_columns))
    content = bytearray(path.read_bytes())
    content[begin : begin + group.column(0).total_compressed_size] = bytes(group.column(0).total_compressed_size)
    path.write_bytes(content)
    positions = np.array([3, 9, 20, 39])
    assert (
        read_rows(path, ["request_index"], positions).to_pylist()
        == table.select(["request_index"]).take(pa.array(positions)).to_pylist()
    )
    with pytest.raises(OSError, match=r"."):
        read_rows(path, ["request_index"], np.array([15]))


def test_memory_does_not_grow_with_the_candidates_of_a_request(tmp_path):
    peaks = []
    for candidates in (100, 1_000):
        write(tmp_path / str(candidates), [candidates] * 500, row_group=1 << 20)
        pool = pa.proxy_memory_pool(pa.default_memory_pool())
        before = pa.default_memory_pool()
        pa.set_memory_pool(pool)
        try:
            stored = StoredRequests.read(tmp_path / str(candidates))
            chosen = np.arange(0, 500, 100)
            rows, _ = ranges(stored.row_starts[chosen], stored.row_starts[chosen + 1])
            read_rows(tmp_path / str(candidates) / ROWS, ["item_index"], rows)
        finally:
            pa.set_memory_pool(before)
        peaks.append(pool.max_memory())
    whole = 1_000 * 500 * 28
    assert peaks[1] < whole / 2
    assert peaks[1] < 4 * peaks[0]
