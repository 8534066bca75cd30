"""Requests of the log that are read for a comparison are those of the whole tables, which no one holds."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.encoding import stored_requests
from features.encoding.asked import Context
from features.online.offline_log import OfflineLog
from tests.features.small_log import build, random_log


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("log") / "data" / "table"
    build(folder, random_log(7, num_requests=120))
    return folder


@pytest.mark.parametrize("batch", [1, 7, 1 << 16])
@pytest.mark.parametrize("chosen", [[], [0], [3, 4, 50, 119], list(range(120))])
def test_chosen_requests_are_those_of_the_whole_tables(
    data: Path, monkeypatch: pytest.MonkeyPatch, batch: int, chosen: list[int]
) -> None:
    monkeypatch.setattr(stored_requests, "DECODED_AT_ONCE", batch)
    log = OfflineLog.open(data)
    rows = pq.read_table(data / "impressions" / "impressions.parquet")
    contexts = pq.read_table(data / "impressions" / "requests.parquet").select(list(Context._fields)).to_pylist()
    assert len(log.stored.at) == 120
    assert (np.diff(log.stored.at) >= 0).all()
    found = list(log.requests(np.array(chosen, np.int64)))
    assert len(found) == len(chosen)
    for number, request in zip(chosen, found, strict=True):
        own = rows.filter(pa.array(rows["request_index"].to_numpy() == number))
        assert request.item_index.tolist() == own["item_index"].to_pylist()
        assert request.item_index.dtype == np.int32
        assert {request.user_index} == set(own["user_index"].to_pylist())
        assert {request.at} == set(own["occurred_at"].cast(pa.int64()).to_pylist())
        assert {request.end_offset} == set(own["end_offset"].to_pylist())
        assert request.context == Context(**contexts[number])
    if len(chosen) == 120:
        assert len({request.context for request in found}) > 3
