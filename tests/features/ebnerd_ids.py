"""What the stages number from 0, under the names that the published files have."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.schema import FIRST_INDEX
from training.requests.reader import Requests


def ids(data: Path) -> tuple[pa.ChunkedArray, pa.ChunkedArray, pa.ChunkedArray]:
    """Of request_index, item_index - FIRST_INDEX and user_index."""
    names = pq.read_table(data / "impressions" / "requests.parquet")["impression_id"]
    items = pq.read_table(data / "user_histories" / "vocabulary.parquet")["item_id"]
    return names, items, pq.read_table(data / "user_histories" / "users.parquet")["user_id"]


def in_published_order(data: Path, requests: Requests) -> npt.NDArray[np.int64]:
    """[N] the candidates' rows by (request, item), as tests/features/published.py has them."""
    names, item_ids, _ = ids(data)
    rows = pa.table(
        {
            "request": names.take(pa.array(requests.request_index[requests.request_of_row])),
            "item_id": item_ids.take(pa.array(requests.item_index - FIRST_INDEX)),
            "row": np.arange(len(requests.item_index)),
        }
    )
    return rows.sort_by([("request", "ascending"), ("item_id", "ascending")])["row"].to_numpy()
