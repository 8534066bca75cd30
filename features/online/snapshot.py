"""Histories, items and counters -> feature_snapshot/: the Parquet files that Feast serves, and their identity."""

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from contracts.errors import InputError
from contracts.known_hashes import hash_of, note_hash
from contracts.publish import write_json
from contracts.schema import FIRST_INDEX, TIME, USER_HISTORY_SNAPSHOT
from features.encoding.counters import KEYS, NOTHING, Counters, from_parquet
from features.live.places import LAYOUT, LOG
from features.online.user_state import USER_STATE, user_state_rows
from features.sealed.event import ENGINES
from features.tables.histories import UserHistories, from_first
from features.terms.slices import ends_before

ITEM_PROFILE = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("event_timestamp", TIME, nullable=False),  # the log's newest event, for all items
        pa.field("title", pa.string()),
        pa.field("categories", pa.list_(pa.string()), nullable=False),
        pa.field("published_at", pa.int64()),  # microseconds
        pa.field("embedding", pa.list_(pa.float32())),
    ]
)
"""item_profile.parquet, sorted by item_id."""
COUNTERS = ("item_counters", "user_counters", "user_item_counters", "coclicks")
USERS_AT_ONCE = 4096
EVENTS_AT_ONCE = 2_000_000


def write_snapshot(
    data: Path,
    histories: UserHistories,
    max_length: int,
    settings: dict[str, Any],
    folder: Path,
    counters: Counters | None = None,
) -> dict:
    """Write user_history, user_state, item_profile (.parquet) and snapshot.json; returns the content of snapshot.json.

    max_length: number of newest events kept of each user. settings: parameters of the histories and, in `statistics`,
    of the counters' reads; part of the snapshot's identity.
    counters: of data, with the keys of user_histories, if they are built already.
    snapshot.json has keep_from_us too: no history has events before it; null without history.retention_s.
    The snapshot's id is a hash of everything that a store is loaded from, the counters included.
    """
    num_users = _write_user_history(histories, max_length, folder / "user_history.parquet")
    _write_user_state(counters or _of_users(data, histories), histories, folder / "user_state.parquet")
    newest = histories.log_end_us
    num_items = _write_item_profile(data, newest, folder / "item_profile.parquet")
    files = {name: folder / name for name in ("user_history.parquet", "user_state.parquet", "item_profile.parquet")}
    files |= {f"{name}/{path.name}": path for name in COUNTERS for path in sorted((data / name).glob("*.parquet"))}
    hashes = {name: hash_of(path) for name, path in files.items()}
    for path in folder.glob("*.parquet"):
        note_hash(path, hashes[path.name])
    content = {
        "layout": LAYOUT,
        "log_end": datetime.fromtimestamp((newest + 1) / 1e6, UTC).isoformat(timespec="microseconds"),
        "log_end_us": newest + 1,  # a request at log_end sees every event
        "max_length": max_length,
        "keep_from_us": histories.keep_from_us,
        "absorbed_seq": absorbed_seq(data),
        LOG: log_of(data),
        "num_users": num_users,
        "num_items": num_items,
        "settings": settings,
        "files": hashes,
    }
    stamp = {"snapshot_id": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(), **content}
    write_json(folder / "snapshot.json", stamp)
    return stamp


def absorbed_seq(data: Path) -> dict[str, int]:
    """Engine -> seq of its newest live event in the log of data/<source>; 0 if there is none."""
    path = data / "absorbed" / "absorbed.json"
    newest = json.loads(path.read_text(encoding="utf-8"))
    if unknown := newest.keys() - set(ENGINES):
        raise InputError(f"{path} names {sorted(unknown)}, not engines {ENGINES}. `dvc repro ingest` rewrites it.")
    return {engine: newest.get(engine, 0) for engine in ENGINES}


def log_of(data: Path) -> str | None:
    """The identity of the log that data/<source> was read from; None if an older version of ingest wrote none."""
    path = data / "absorbed" / "log.json"
    return json.loads(path.read_text(encoding="utf-8"))[LOG] if path.exists() else None


def _write_user_history(histories: UserHistories, max_length: int, path: Path) -> int:
    """Write the histories of users who have events. Returns the number of users."""
    num_users = 0
    with pq.ParquetWriter(path, USER_HISTORY_SNAPSHOT, compression="zstd") as writer:
        for rows in user_history_rows(histories, max_length):
            writer.write_table(rows)
            num_users += len(rows)
    return num_users


def user_history_rows(histories: UserHistories, max_length: int, before_us: int | None = None) -> Iterator[pa.Table]:
    """Batches of USER_HISTORY_SNAPSHOT rows: the newest max_length events of every user who has any.

    before_us: only events strictly before this time (us); None: all.
    """
    item_ids = histories.vocabulary["item_id"].combine_chunks()
    for first, last in _users_at_once(histories.offsets):
        starts, ends = histories.offsets[first:last], histories.offsets[first + 1 : last + 1]
        if before_us is not None:
            ends = ends_before(histories.occurred_at, starts, ends, np.full(len(ends), before_us))
        lengths = ends - starts
        users = np.flatnonzero(lengths)
        kept = np.minimum(lengths, max_length)[users]
        bounds = np.r_[0, np.cumsum(kept)]
        rows = np.arange(bounds[-1]) + np.repeat(ends[users] - bounds[1:], kept)
        columns = {
            "item_ids": item_ids.take(pa.array(histories.item_index[rows] - FIRST_INDEX)),
            "occurred_at": pa.array(histories.occurred_at[rows]),
            "labels": pa.array(histories.label[rows]),
            "sessions": pa.array(from_first(histories.session[rows], bounds)),
            "event_keys": pa.array(histories.event_key[rows]),
            "session_keys": pa.array(histories.session_key[rows]),
        }
        lists = [pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), column) for column in columns.values()]
        newest = pa.array(histories.occurred_at[ends[users] - 1]).cast(TIME)
        names = histories.user_ids.take(pa.array(first + users)).combine_chunks()
        yield pa.table([names, newest, *lists], schema=USER_HISTORY_SNAPSHOT)


def _of_users(data: Path, histories: UserHistories) -> Counters:
    """Only the counters of users."""
    ids = {"item_id": histories.vocabulary["item_id"], "user_id": histories.user_ids}
    names = ("user_counters", "user_item_counters")
    own, pairs = (from_parquet(data / name, {key: ids[key] for key in KEYS[name]}) for name in names)
    return Counters(NOTHING, own, pairs)


def _write_user_state(counters: Counters, histories: UserHistories, path: Path) -> None:
    item_ids = histories.vocabulary["item_id"].to_pylist()
    with pq.ParquetWriter(path, USER_STATE, compression="zstd") as writer:
        for rows in user_state_rows(counters, item_ids, histories.user_ids):
            writer.write_table(rows)


def _users_at_once(offsets: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Batches [first, last) of at most USERS_AT_ONCE users and EVENTS_AT_ONCE events, or of one user with more."""
    first = 0
    while first < len(offsets) - 1:
        full = int(np.searchsorted(offsets, offsets[first] + EVENTS_AT_ONCE, side="right")) - 1
        last = min(first + USERS_AT_ONCE, len(offsets) - 1, max(full, first + 1))
        yield first, last
        first = last


def _write_item_profile(data: Path, newest: int, path: Path) -> int:
    items = ds.dataset(data / "items", format="parquet").to_table().sort_by("item_id")
    at = pa.array(np.full(len(items), newest)).cast(TIME)
    columns = [items["item_id"], at, items["title"], items["categories"]]
    columns += [items["published_at"].cast(pa.int64()), items["embedding"]]
    pq.write_table(pa.table(columns, schema=ITEM_PROFILE), path, compression="zstd")
    return len(items)
