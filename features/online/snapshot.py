"""Histories, items and counters -> feature_snapshot/: the Parquet files that Feast serves, and their identity."""

import hashlib
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from contracts.errors import InputError
from contracts.known_hashes import hash_of, note_hash
from contracts.publish import write_json
from contracts.schema import TIME
from features.engine.engine import Engine, InProcess
from features.live.places import LAYOUT, LOG
from features.online.counter_pieces import split_by_user
from features.online.counters_by_user import UserCounters
from features.online.snapshot_parts import USER_HISTORY, USER_STATES, Parts, write_parts
from features.sealed.event import ENGINES
from features.tables.histories import UserHistories

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


def write_snapshot(
    data: Path,
    histories: UserHistories,
    max_length: int,
    settings: dict[str, Any],
    folder: Path,
    engine: Engine | None = None,
    counters: UserCounters | None = None,
) -> dict:
    """Write user_history, user_state, user_events, item_profile (.parquet) and snapshot.json; returns the content of
    snapshot.json.

    histories: those of data. max_length: number of newest events kept of each user. settings: parameters of the
    histories and, in `statistics`, of the counters' reads; part of the snapshot's identity.
    engine: what writes the files by user; None: this process. Both write the same bytes.
    counters: of the users of data, if they are split already.
    snapshot.json has keep_from_us too: no history has events before it; null without history.retention_s.
    The snapshot's id is a hash of everything that a store is loaded from, the counters included.
    """
    engine = engine or InProcess()
    with tempfile.TemporaryDirectory(prefix=".parts-", dir=folder, ignore_cleanup_errors=True) as scratch:
        counters = counters or split_by_user(engine, data, histories, Path(scratch, "counters"))
        parts = Parts(data / "user_histories", counters, max_length, Path(scratch))
        num_users = write_parts(engine, parts, histories, folder)[USER_HISTORY]
    newest = histories.log_end_us
    num_items = _write_item_profile(data, newest, folder / "item_profile.parquet")
    files = {name: folder / name for name in (USER_HISTORY, USER_STATES, "item_profile.parquet")}
    loaded = tuple(files)
    files |= {f"{name}/{path.name}": path for name in COUNTERS for path in sorted((data / name).glob("*.parquet"))}
    hashes = {name: hash_of(path) for name, path in files.items()}
    for name in loaded:
        note_hash(folder / name, hashes[name])
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


def _write_item_profile(data: Path, newest: int, path: Path) -> int:
    items = ds.dataset(data / "items", format="parquet").to_table().sort_by("item_id")
    at = pa.array(np.full(len(items), newest)).cast(TIME)
    columns = [items["item_id"], at, items["title"], items["categories"]]
    columns += [items["published_at"].cast(pa.int64()), items["embedding"]]
    pq.write_table(pa.table(columns, schema=ITEM_PROFILE), path, compression="zstd")
    return len(items)
