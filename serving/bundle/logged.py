"""user_histories/ and impressions/ -> logged requests in the service's form: ids, and the user's whole history."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.schema import FIRST_INDEX
from features.encoding.asked import Context
from features.tables.histories import UserHistories
from serving.bundle.scorer import Events

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LoggedRequest:
    """One request of the log."""

    index: int
    name: str
    user_id: str
    user_key: int  # user_index
    at: int  # us
    candidates: Sequence[str]
    context: Context
    events: Events  # all stored events of the user, later ones included


@dataclass(frozen=True)
class RequestLog:
    """Requests of one history build."""

    impressions: pa.Table
    names: pa.Table  # contracts.schema.REQUESTS; a row's position is its request_index
    histories: UserHistories

    @classmethod
    def open(cls, data: Path) -> "RequestLog":
        """Open the tables of data/<source>."""
        return cls(
            pq.read_table(data / "impressions" / "impressions.parquet"),
            pq.read_table(data / "impressions" / "requests.parquet"),
            UserHistories.open(data / "user_histories"),
        )

    @property
    def item_ids(self) -> pa.ChunkedArray:
        """The ids of item_index FIRST_INDEX, FIRST_INDEX + 1, ..."""
        return self.histories.vocabulary["item_id"]

    def read(self, request_index: Int64) -> Iterator[LoggedRequest]:
        """Yields the requests of these indices."""
        index_B = self.impressions["request_index"].to_numpy()  # ascending
        for index in request_index:
            first, last = np.searchsorted(index_B, [index, index + 1])
            rows = self.impressions.slice(first, last - first)
            user = rows["user_index"][0].as_py()
            named = self.names.slice(int(index), 1).to_pylist()[0]
            yield LoggedRequest(
                index=int(index),
                name=named["impression_id"],
                user_id=self.histories.user_ids[user].as_py(),
                user_key=user,
                at=pc.cast(rows["occurred_at"], pa.int64())[0].as_py(),
                candidates=self._ids(rows["item_index"].to_numpy()),
                context=Context(*(named[name] for name in Context._fields)),
                events=self._events(user),
            )

    def item_keys(self, item_ids: Sequence[str | None]) -> Int64:
        """The counters' keys of items, which are positions in the vocabulary; -1 where it lacks the id."""
        rows = pc.index_in(pa.array(item_ids, pa.string()), value_set=self.item_ids)  # pyright: ignore
        return pc.fill_null(rows, -1).to_numpy().astype(np.int64)

    def _events(self, user: int) -> Events:
        stored = self.histories
        own = slice(stored.offsets[user], stored.offsets[user + 1])
        return Events(
            self._ids(stored.item_index[own]),
            np.array(stored.occurred_at[own]),
            np.array(stored.label[own]),
            np.array(stored.session[own], np.int64),
        )

    def _ids(self, item_index: npt.NDArray[np.int32]) -> list[str]:
        return self.item_ids.take(pa.array(item_index.astype(np.int64) - FIRST_INDEX)).to_pylist()
