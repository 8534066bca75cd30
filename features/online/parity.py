"""An online store, loaded or replayed, and the offline tables -> how many values differ between the two."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.schema import FIRST_INDEX, UNKNOWN_INDEX
from features.encoding.asked import Asked, recent_clicks, recent_of_histories
from features.encoding.counters import Counters
from features.encoding.encode import EncodedHistory, FeatureSpec, encode_histories, encode_one
from features.encoding.item_codes import item_codes
from features.encoding.scalars import scalars_of_one
from features.online.offline_log import LoggedRequest, OfflineLog
from features.online.replay import Replay
from features.online.rows import ItemProfile, UserHistory, UserRead
from features.online.store import OnlineStore
from features.tables.histories import UserHistories
from features.terms.convention import RECENT, micros

USERS_AT_ONCE = 256
NUM_NAMED = 5
NO_HISTORY = UserHistory([], np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.int64))


@dataclass
class Parity:
    """Number of comparisons and mismatches; the first few mismatches with field and both values."""

    checked: int = 0
    mismatches: int = 0
    first: list[dict[str, str]] = field(default_factory=list)

    def compare(self, whose: str, pairs: dict[str, tuple[Any, Any]]) -> None:
        """Count a comparison. pairs: field -> (offline, online); differing fields count as one mismatch together."""
        self.checked += 1
        differing = [name for name, (offline, online) in pairs.items() if not _same(offline, online)]
        self.mismatches += bool(differing)
        for name in differing[: NUM_NAMED - len(self.first)]:
            offline, online = pairs[name]
            self.first.append({"whose": whose, "field": name, "offline": _short(offline), "online": _short(online)})


def compare_snapshot(
    store: OnlineStore, snapshot: Path, sample: Callable[[str, pa.ChunkedArray], npt.NDArray[np.bool_]] | None = None
) -> tuple[Parity, Parity, Parity]:
    """Read histories, users' counters and items back from Feast, and compare them with the snapshot.

    sample: (view, all its ids) -> mask of the ids that are read; None: all.
    """
    users, counted, items = Parity(), Parity(), Parity()
    for rows in _rows(snapshot, "user_history", "user_id", sample):
        for row, online in zip(rows, store.histories([row["user_id"] for row in rows]), strict=True):
            online = online or NO_HISTORY
            pairs = {
                "item_ids": (row["item_ids"], online.item_ids),
                "occurred_at": (np.array(row["occurred_at"], np.int64), online.occurred_at),
                "labels": (np.array(row["labels"], np.float32), online.label),
                "sessions": (np.array(row["sessions"], np.int64), online.session),
            }
            users.compare(row["user_id"], pairs)
    for rows in _rows(snapshot, "user_state", "user_id", sample):
        for row, online in zip(rows, store.counted([row["user_id"] for row in rows]), strict=True):
            counted.compare(row["user_id"], {"counts": (row["counts"], online)})
    for rows in _rows(snapshot, "item_profile", "item_id", sample):
        for row, online in zip(rows, store.profiles([row["item_id"] for row in rows]), strict=True):
            names = ItemProfile._fields
            found = online or ItemProfile(None, [], None, None)
            pairs = {name: (row[name], getattr(found, name)) for name in names}
            items.compare(row["item_id"], pairs | {"known": (True, online is not None)})
    return users, counted, items


def _rows(
    snapshot: Path, view: str, key: str, sample: Callable[[str, pa.ChunkedArray], npt.NDArray[np.bool_]] | None
) -> Iterator[list[dict[str, Any]]]:
    """The rows of a view's file that are in the sample, in batches."""
    parquet = pq.ParquetFile(snapshot / f"{view}.parquet")
    chosen = None if sample is None else sample(view, parquet.read(columns=[key])[key])
    first = 0
    for batch in parquet.iter_batches(USERS_AT_ONCE):
        here = batch if chosen is None else batch.filter(pa.array(chosen[first : first + len(batch)]))
        first += len(batch)
        if len(here):
            yield here.to_pylist()


def compare_requests(
    store: OnlineStore,
    data: Path,
    spec: FeatureSpec,
    max_length: int,
    num_requests: int,
    log: OfflineLog | None = None,
) -> tuple[Parity, int]:
    """Encode the same requests from the offline arrays and from a loaded store, and compare the tensors bit by bit.

    Requests are spread evenly over the log. Requests that read further back than the newest max_length events, which
    the store keeps, are skipped; their number is returned too. log: of data, if it is open already.
    """
    log = log or OfflineLog.open(data)
    total = np.diff(log.histories.offsets)[log.stored.user_index]
    inside = np.maximum(log.stored.end_offset - spec.num_events_read, 0) >= np.maximum(total - max_length, 0)
    comparison = Parity()
    chosen = _spread(np.flatnonzero(inside), num_requests)
    counters = log.counters_of(chosen)
    for request in log.requests(chosen):
        _compare(comparison, spec, log, counters, store, request, store.read(log.user_id(request)))
    return comparison, int((~inside).sum())


def replay_from(data: Path, share: float, log: OfflineLog | None = None) -> int:
    """The time (us) at which the latest `share` of the log's requests begins."""
    at = (log or OfflineLog.open(data)).stored.at
    return int(np.sort(at)[min(int((1 - share) * len(at)), len(at) - 1)])


def replay_requests(
    replay: Replay,
    data: Path,
    spec: FeatureSpec,
    from_us: int,
    num_requests: int,
    log: OfflineLog | None = None,
) -> tuple[Parity, int]:
    """Like compare_requests, with a store that is fed live events up to each request's time.

    Requests are spread evenly from from_us on, where the replay begins. A request is skipped, and counted, if some of
    the newest max_length events are not known yet at its time, so that the store lacks older ones.
    """
    log, comparison, left_out = log or OfflineLog.open(data), Parity(), 0
    chosen = _spread(np.flatnonzero(log.stored.at >= from_us), num_requests)
    counters = log.counters_of(chosen)
    for request in log.requests(chosen):
        replay.upto(request.at)
        online = replay.store.read(log.user_id(request))
        history = online.history or NO_HISTORY
        known = int(np.searchsorted(history.occurred_at, request.at - micros(spec.history_lag_s), side="left"))
        full = len(history.item_ids) == replay.max_length
        if full and known < min(request.end_offset, spec.num_events_read):
            left_out += 1
        else:
            _compare(comparison, spec, log, counters, replay.store, request, online)
    return comparison, left_out


def _compare(
    comparison: Parity,
    spec: FeatureSpec,
    log: OfflineLog,
    offline_counters: Counters,
    store: OnlineStore,
    request: LoggedRequest,
    online: UserRead,
) -> None:
    """Compare the history tensors and candidate scalars of one request.

    offline_counters: the log's, of the request's user too. online: what the store reads of its user.
    """
    user_id, history = log.user_id(request), online.history or NO_HISTORY
    indices = np.array([log.index_of.get(item_id, UNKNOWN_INDEX) for item_id in history.item_ids], np.int32)
    events = (indices, history.occurred_at, history.label, history.session)
    encoded = _offline(spec, log.histories, request)
    pairs = _encoded_pairs(encoded, encode_one(spec, *events, at=request.at))
    pairs |= _coded_pairs(spec, log, store, request, encoded)
    candidates = request.item_index - FIRST_INDEX
    names = [log.item_ids[position] for position in candidates]
    user_key, counters = store.counters_of(user_id, online.counted)
    asked = _asked_offline(spec, log.histories, request), _asked_online(spec, store, user_key, history, request)
    offline = scalars_of_one(spec, offline_counters, candidates, asked[0])
    served = scalars_of_one(spec, counters, store.item_keys(names), asked[1])
    pairs |= dict(zip(spec.scalars, zip(offline.T, served.T, strict=True), strict=True))
    comparison.compare(f"{user_id} at {request.at} us", pairs)


def _spread(eligible: npt.NDArray[np.intp], number: int) -> npt.NDArray[np.int64]:
    """At most `number` of the positions, evenly spaced."""
    return eligible[np.unique(np.linspace(0, len(eligible) - 1, min(number, len(eligible))).astype(np.int64))]


def _offline(spec: FeatureSpec, histories: UserHistories, request: LoggedRequest) -> EncodedHistory:
    """Encoded as in training: from the flat arrays, up to the stored end_offset."""
    start = histories.offsets[request.user_index]
    flat = (histories.item_index, histories.occurred_at, histories.label, histories.session)
    return encode_histories(spec, *flat, starts=[start], ends=[start + request.end_offset], at=[request.at])


def _asked_offline(spec: FeatureSpec, histories: UserHistories, request: LoggedRequest) -> Asked:
    """The scalars' inputs as in training: from the flat arrays before end_offset, with keys of the vocabulary."""
    recent = recent_of_histories(_offline(replace(spec, history_length=RECENT), histories, request))[0]
    key = pc.index(histories.vocabulary["item_id"], request.context.reading_item_id).as_py()
    return Asked.of_one(request.user_index, request.at, recent, key, request.context)


def _asked_online(
    spec: FeatureSpec, store: OnlineStore, user_key: int, online: UserHistory, request: LoggedRequest
) -> Asked:
    """The scalars' inputs as in the service: from the store before the request's time, with the store's keys."""
    end = int(np.searchsorted(online.occurred_at, request.at - micros(spec.history_lag_s), side="left"))
    newest = slice(max(0, end - RECENT), end)
    recent = recent_clicks(store.item_keys(online.item_ids[newest]), online.label[newest])
    reading = store.item_key(request.context.reading_item_id)
    return Asked.of_one(user_key, request.at, recent, reading, request.context)


def _encoded_pairs(offline: EncodedHistory, online: EncodedHistory) -> dict[str, tuple[Any, Any]]:
    return {each.name: (getattr(offline, each.name), getattr(online, each.name)) for each in fields(EncodedHistory)}


def _coded_pairs(
    spec: FeatureSpec, log: OfflineLog, store: OnlineStore, request: LoggedRequest, encoded: EncodedHistory
) -> dict[str, tuple[Any, Any]]:
    """Codes of history and candidates, each side with its own keys. encoded: the history encoded offline."""
    pairs = {}
    for name, index in (("event_codes", encoded.item_index[0][encoded.mask[0]]), ("codes", request.item_index)):
        keys = index.astype(np.int64) - FIRST_INDEX
        own = store.item_keys([log.item_ids[key] for key in keys])
        pairs[name] = tuple(
            item_codes(spec, *each, request.at) for each in ((log.counters, keys), (store.counters, own))
        )
    return pairs


def _same(offline: Any, online: Any) -> bool:
    if isinstance(offline, np.ndarray):
        return offline.dtype == online.dtype and offline.shape == online.shape and offline.tobytes() == online.tobytes()
    return offline == online


def _short(value: Any) -> str:
    text = np.array2string(value, threshold=12) if isinstance(value, np.ndarray) else repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
