"""A log's tables -> a scratch online store: loaded as of a time, then fed live, event by event, as the log happened.

What it reads at a time is what serving would have read then; features/parity.py and the stage package hold training's
reads against it.
"""
# pyright: reportAttributeAccessIssue=false

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from feast import FeatureStore

from contracts.publish import write_json
from contracts.schema import ROLE_HISTORY, TIME
from features import online_rows
from features.convention import CLICKED, counted_at, micros
from features.counters import Counters
from features.feast_repository import read_settings, sequence_definitions
from features.history_reader import UserHistories
from features.live_event import EVENT, LiveEvent
from features.online import OnlineStore
from features.online_config import config
from features.snapshot import user_history_rows
from features.state import STAMP

REPLAY = "replay"
"""The snapshot_id of a scratch store."""
COLUMNS = ("event_id", "user_id", "item_id", "occurred_at", "label", "role", "impression_id", "position", "session_id")


@dataclass
class Replay:
    """A store that has seen the log up to a time."""

    store: OnlineStore
    events: pa.Table  # COLUMNS, in order of time: what is still to come, from `fed` on
    times: npt.NDArray[np.int64]  # [E] us
    in_history: npt.NDArray[np.bool_]  # [E]
    max_length: int  # of a user's events, how many the store keeps
    fed: int = 0

    def upto(self, at: int) -> None:
        """Append every event up to and with a time, in microseconds; those at it must change nothing at it."""
        end = int(np.searchsorted(self.times, at, side="right"))
        if end <= self.fed:
            return
        here = slice(self.fed, end)
        told = {name: self.events[name].slice(self.fed, end - self.fed).to_pylist() for name in COLUMNS}
        told |= {"occurred_at": self.times[here].tolist(), "in_history": self.in_history[here].tolist()}
        names, rows = list(told), zip(*told.values(), strict=True)
        events = [LiveEvent(revision=EVENT, **dict(zip(names, row, strict=True))) for row in rows]
        self.store.append(events)
        self.fed = end


@contextmanager
def replaying(data: Path, snapshot: Mapping[str, Any], from_us: int, folder: Path) -> Iterator[Replay]:
    """A replay of data/<source> whose base holds what was before from_us, or before the bucket in which that lies.

    snapshot: what snapshot.json holds. folder: for the scratch store; removed with all that it held.
    """
    folder.mkdir(parents=True)
    state = folder / "feast"
    bucket_us = micros(snapshot["settings"]["statistics"]["bucket_s"])
    from_us = counted_at(from_us, bucket_us) - bucket_us  # a bucket is in the base as a whole, or all of it is fed
    try:
        histories = UserHistories.open(data / "user_histories")
        _load(state, data, histories, snapshot, from_us, bucket_us)
        store = OnlineStore.open(state)
        events = _events(data, from_us)
        times = pc.cast(events["occurred_at"], pa.int64()).to_numpy()
        try:
            yield Replay(store, events, times, _in_history(events, times, snapshot), snapshot["max_length"])
        finally:
            store.drop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _load(
    state: Path, data: Path, histories: UserHistories, snapshot: Mapping[str, Any], from_us: int, bucket_us: int
) -> None:
    """A state folder as features.load makes it, of what was known at from_us."""
    state.mkdir()
    items, users = histories.vocabulary["item_id"], histories.user_ids
    counted = Counters.from_folder(data, items, users)
    counted.before(from_us, bucket_us).save(state)
    ids = {"items": items.to_pylist(), "users": users.to_pylist()}
    (state / "ids.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    feast = FeatureStore(config=config(state, offline="file"))
    history, _ = read_settings(data / "feature_snapshot", snapshot)
    feast.apply(sequence_definitions(data, data / "feature_snapshot", history))
    view = feast.get_feature_view("user_history")
    for rows in user_history_rows(histories, history.max_length, before_us=from_us):
        online_rows.write(feast, view, rows)
    online_rows.mark(feast, REPLAY)
    stamp = {"snapshot_id": REPLAY, "settings": snapshot["settings"], "log_end_us": from_us, "absorbed_seq": {}}
    write_json(state / STAMP, stamp)


def _events(data: Path, from_us: int) -> pa.Table:
    log = ds.dataset(data / "validated_interactions", format="parquet")
    came = log.to_table(columns=list(COLUMNS), filter=ds.field("occurred_at") >= pa.scalar(from_us).cast(TIME))
    return came.sort_by([("occurred_at", "ascending"), ("event_id", "ascending")])


def _in_history(events: pa.Table, times: npt.NDArray[np.int64], snapshot: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    kept = times >= (snapshot.get("keep_from_us") or np.iinfo(np.int64).min)
    if snapshot["settings"]["labels"] == "all":
        return kept
    clicked = events["label"].to_numpy() >= CLICKED
    return kept & (clicked | pc.equal(events["role"], ROLE_HISTORY).to_numpy(zero_copy_only=False))
