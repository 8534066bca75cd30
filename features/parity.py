"""An opened online store and the offline tables -> how many values differ between what training and serving read."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.schema import FIRST_INDEX, UNKNOWN_INDEX
from features.asked import Asked, Context, recent_clicks, recent_of_histories
from features.convention import RECENT, micros
from features.counters import Counters
from features.encode import EncodedHistory, FeatureSpec, encode_histories, encode_one
from features.history_reader import UserHistories
from features.online import ItemProfile, OnlineStore, UserHistory
from features.scalars import scalars_of_one

USERS_AT_ONCE = 256
NUM_NAMED = 5
NO_HISTORY = UserHistory([], np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.int64))


@dataclass
class Comparison:
    """What was compared and what differed; the first few differences by name, with both values."""

    checked: int = 0
    mismatches: int = 0
    first: list[dict[str, str]] = field(default_factory=list)

    def compare(self, whose: str, pairs: dict[str, tuple[Any, Any]]) -> None:
        """Count one more checked; pairs: field -> (offline, online). One mismatch however many fields differ."""
        self.checked += 1
        differing = [name for name, (offline, online) in pairs.items() if not _same(offline, online)]
        self.mismatches += bool(differing)
        for name in differing[: NUM_NAMED - len(self.first)]:
            offline, online = pairs[name]
            self.first.append({"whose": whose, "field": name, "offline": _short(offline), "online": _short(online)})


def compare_snapshot(store: OnlineStore, snapshot: Path) -> tuple[Comparison, Comparison]:
    """Read every user and every item back from Feast: is it what the snapshot holds?"""
    users, items = Comparison(), Comparison()
    for batch in pq.ParquetFile(snapshot / "user_history.parquet").iter_batches(USERS_AT_ONCE):
        rows = batch.to_pylist()
        for row, online in zip(rows, store.histories([row["user_id"] for row in rows]), strict=True):
            online = online or NO_HISTORY
            pairs = {
                "item_ids": (row["item_ids"], online.item_ids),
                "occurred_at": (np.array(row["occurred_at"], np.int64), online.occurred_at),
                "labels": (np.array(row["labels"], np.float32), online.label),
                "sessions": (np.array(row["sessions"], np.int64), online.session),
            }
            users.compare(row["user_id"], pairs)
    for batch in pq.ParquetFile(snapshot / "item_profile.parquet").iter_batches(USERS_AT_ONCE):
        rows = batch.to_pylist()
        for row, online in zip(rows, store.profiles([row["item_id"] for row in rows]), strict=True):
            names = ItemProfile._fields
            found = online or ItemProfile(None, [], None, None)
            pairs = {name: (row[name], getattr(found, name)) for name in names}
            items.compare(row["item_id"], pairs | {"known": (True, online is not None)})
    return users, items


def compare_requests(
    store: OnlineStore, data: Path, spec: FeatureSpec, max_length: int, num_requests: int
) -> tuple[Comparison, int]:
    """Encode the same requests from the flat arrays and from the online store: are the tensors equal, bit by bit?

    Requests are spread evenly over the log. Those that look further back than the newest max_length events that the
    store keeps are left out; returns their number beside the comparison.
    """
    histories = UserHistories.open(data / "user_histories")
    counters = Counters.from_folder(data, histories.vocabulary["item_id"], histories.user_ids)
    requests, left_out = _sample(data, histories, spec.num_events_read, max_length, num_requests)
    item_ids = histories.vocabulary["item_id"].to_pylist()
    index_of = {item_id: position + FIRST_INDEX for position, item_id in enumerate(item_ids)}
    comparison = Comparison()
    for request in requests:
        user_id = histories.user_ids[request.user_index].as_py()
        online = store.history(user_id) or NO_HISTORY
        indices = np.array([index_of.get(item_id, UNKNOWN_INDEX) for item_id in online.item_ids], np.int32)
        events = (indices, online.occurred_at, online.label, online.session)
        pairs = _encoded_pairs(_offline(spec, histories, request), encode_one(spec, *events, at=request.at))
        candidates = request.item_index - FIRST_INDEX
        names = [item_ids[position] for position in candidates]
        asked = _asked_offline(spec, histories, request), _asked_online(spec, store, user_id, online, request)
        offline = scalars_of_one(spec, counters, candidates, asked[0])
        served = scalars_of_one(spec, store.counters, store.item_keys(names), asked[1])
        pairs |= dict(zip(spec.scalars, zip(offline.T, served.T, strict=True), strict=True))
        comparison.compare(f"{user_id} at {request.at} us", pairs)
    return comparison, left_out


@dataclass(frozen=True)
class _Request:
    user_index: int
    at: int
    end_offset: int
    item_index: npt.NDArray[np.int32]
    context: Context


def _sample(
    data: Path, histories: UserHistories, length: int, max_length: int, num_requests: int
) -> tuple[Iterator[_Request], int]:
    table = pq.read_table(data / "impressions" / "impressions.parquet")
    index = table["request_index"].to_numpy()
    first = np.flatnonzero(np.r_[True, index[1:] != index[:-1]])
    user, end = table["user_index"].to_numpy()[first], table["end_offset"].to_numpy()[first]
    total = np.diff(histories.offsets)[user]
    inside = np.maximum(end - length, 0) >= np.maximum(total - max_length, 0)
    eligible = np.flatnonzero(inside)
    chosen = eligible[np.unique(np.linspace(0, len(eligible) - 1, min(num_requests, len(eligible))).astype(np.int64))]
    at = pc.cast(table["occurred_at"], pa.int64()).to_numpy()
    items = table["item_index"].to_numpy()
    last = np.r_[first[1:], len(index)]
    contexts = pq.read_table(data / "impressions" / "requests.parquet", columns=list(Context._fields))
    made = (
        _Request(
            int(user[row]),
            int(at[first[row]]),
            int(end[row]),
            items[first[row] : last[row]],
            Context(**contexts.slice(int(index[first[row]]), 1).to_pylist()[0]),
        )
        for row in chosen
    )
    return made, int((~inside).sum())


def _offline(spec: FeatureSpec, histories: UserHistories, request: _Request) -> EncodedHistory:
    """As training encodes it: the flat arrays and the stored end_offset."""
    start = histories.offsets[request.user_index]
    flat = (histories.item_index, histories.occurred_at, histories.label, histories.session)
    return encode_histories(spec, *flat, starts=[start], ends=[start + request.end_offset], at=[request.at])


def _asked_offline(spec: FeatureSpec, histories: UserHistories, request: _Request) -> Asked:
    """As training asks: what the flat arrays hold before the stored end_offset, by the vocabulary's numbers."""
    recent = recent_of_histories(_offline(replace(spec, history_length=RECENT), histories, request))[0]
    key = pc.index(histories.vocabulary["item_id"], request.context.reading_item_id).as_py()
    return Asked.of_one(request.user_index, request.at, recent, key, request.context)


def _asked_online(spec: FeatureSpec, store: OnlineStore, user_id: str, online: UserHistory, request: _Request) -> Asked:
    """As the service asks: what the store holds before the request's time, by the store's numbers."""
    end = int(np.searchsorted(online.occurred_at, request.at - micros(spec.history_lag_s), side="left"))
    newest = slice(max(0, end - RECENT), end)
    recent = recent_clicks(store.item_keys(online.item_ids[newest]), online.label[newest])
    reading = store.item_key(request.context.reading_item_id)
    return Asked.of_one(store.user_key(user_id), request.at, recent, reading, request.context)


def _encoded_pairs(offline: EncodedHistory, online: EncodedHistory) -> dict[str, tuple[Any, Any]]:
    return {each.name: (getattr(offline, each.name), getattr(online, each.name)) for each in fields(EncodedHistory)}


def _same(offline: Any, online: Any) -> bool:
    if isinstance(offline, np.ndarray):
        return offline.dtype == online.dtype and offline.shape == online.shape and offline.tobytes() == online.tobytes()
    return offline == online


def _short(value: Any) -> str:
    text = np.array2string(value, threshold=12) if isinstance(value, np.ndarray) else repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
