"""data/<source> -> requests, histories and counters as training reads them, to compare an online store with."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from contracts.files import in_temp, scratch
from contracts.schema import FIRST_INDEX
from features.encoding.asked import Context
from features.encoding.counters import KEYS, Counters, from_parquet
from features.encoding.stored_requests import NAMES, ROWS, StoredRequests, ranges, read_rows
from features.tables.histories import UserHistories

log = logging.getLogger("leitmotif")

SAID_EVERY = 2_000


@dataclass(frozen=True)
class LoggedRequest:
    """One request of the log. at: us; item_index: of its candidates."""

    user_index: int
    at: int
    end_offset: int
    item_index: npt.NDArray[np.int32]
    context: Context


@dataclass(frozen=True)
class OfflineLog:
    """The tables that training reads, by request_index. Opening it builds counters of items, so do it once.

    Of all requests only what chooses among them is held; candidates and contexts are read of chosen ones.
    """

    histories: UserHistories
    data: Path
    counters: Counters  # of items, with co-clicks
    item_ids: list[str]
    index_of: dict[str, int]
    stored: StoredRequests  # `at` ascends

    @classmethod
    def open(cls, data: Path) -> "OfflineLog":
        histories = UserHistories.open(data / "user_histories")
        item_ids = histories.vocabulary["item_id"].to_pylist()
        return cls(
            histories=histories,
            data=data,
            counters=Counters.of_items(data, histories.vocabulary["item_id"], histories.user_ids),
            item_ids=item_ids,
            index_of={item_id: position + FIRST_INDEX for position, item_id in enumerate(item_ids)},
            stored=StoredRequests.read(data),
        )

    def counters_of(self, chosen: npt.NDArray[np.int64]) -> Counters:
        """The counters of items and of the users of the requests at these positions, by training's own reader."""
        users = self.histories.user_ids.take(pa.array(np.unique(self.stored.user_index[chosen])))
        ids = {"item_id": self.histories.vocabulary["item_id"], "user_id": self.histories.user_ids}
        with scratch(in_temp("offline")) as folder:
            own, pairs = (
                from_parquet([_only(self.data / name, users, folder)], {key: ids[key] for key in KEYS[name]})
                for name in ("user_counters", "user_item_counters")
            )
        return replace(self.counters, user_counters=own, user_item_counters=pairs)

    def user_id(self, request: LoggedRequest) -> str:
        """The user of a request."""
        return self.histories.user_ids[request.user_index].as_py()

    def requests(self, chosen: npt.NDArray[np.int64]) -> Iterator[LoggedRequest]:
        """Yields the requests at the chosen positions, which ascend, and logs the progress."""
        rows, starts = ranges(self.stored.row_starts[chosen], self.stored.row_starts[chosen + 1])
        item_index = read_rows(self.data / ROWS, ["item_index"], rows)["item_index"].to_numpy()
        contexts = read_rows(self.data / NAMES, list(Context._fields), chosen).to_pylist()
        for number, row in enumerate(chosen.tolist()):
            if number and number % SAID_EVERY == 0:
                log.info("%s of %s requests compared", f"{number:,}", f"{len(chosen):,}")
            yield LoggedRequest(
                user_index=int(self.stored.user_index[row]),
                at=int(self.stored.at[row]),
                end_offset=int(self.stored.end_offset[row]),
                item_index=item_index[starts[number] : starts[number + 1]],
                context=Context(**contexts[number]),
            )


def _only(table: Path, users: pa.ChunkedArray, folder: Path) -> Path:
    """The rows that a table of counters has of these users, as a file; those of others are read, but never kept."""
    path = folder / f"{table.name}.parquet"
    rows = ds.dataset(table, format="parquet")
    wanted = ds.field("user_id").isin(users.combine_chunks())
    with pq.ParquetWriter(path, rows.schema) as writer:
        for batch in rows.scanner(filter=wanted, batch_readahead=1, fragment_readahead=1).to_batches():
            writer.write_batch(batch)
    return path
