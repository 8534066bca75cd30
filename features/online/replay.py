"""A log's tables -> a temporary online store, loaded as of a time, then fed event by event as they became known.

Its reads at a time equal what the service would have read then; features/online/parity.py and the stage package compare
them with training's reads.
"""
# pyright: reportAttributeAccessIssue=false

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
from features.encoding.counters import Counters
from features.feast_store import online_rows
from features.feast_store.config import config
from features.feast_store.repository import read_settings, sequence_definitions
from features.live.places import LAYOUT, STAMP
from features.online import item_state
from features.online.counters_by_user import UserCounters
from features.online.store import OnlineStore
from features.online.user_history import user_history_rows
from features.online.user_state import user_state_before, user_state_rows
from features.sealed.event import EVENT, OUTCOME, LiveEvent
from features.tables.histories import UserHistories
from features.terms.convention import CLICKED, counted_at, micros
from features.terms.known import times_in

REPLAY = "replay"
"""The snapshot_id of a temporary store."""
COLUMNS = ("event_id", "user_id", "item_id", "occurred_at", "label", "role", "impression_id", "position", "session_id")


DELAY = "label_delay_s"
"""The snapshot's setting for clicks without a known_at in the log: the delay after which they are fed."""


@dataclass
class Feed:
    """Live events in the order in which they became known."""

    events: pa.Table  # COLUMNS, revision, known_at (us)
    times: npt.NDArray[np.int64]  # [E] us, when each event is fed
    occurred_at: npt.NDArray[np.int64]  # [E] us
    in_history: npt.NDArray[np.bool_]  # [E]


@dataclass
class Replay:
    """A store that has seen the log up to a time."""

    store: OnlineStore
    feed: Feed  # events from `fed` on are still to come
    max_length: int  # number of newest events that the store keeps of each user
    fed: int = 0

    def upto(self, at: int) -> None:
        """Append everything that was known up to and including a time (us).

        What became known exactly at that time is appended too, and must not change reads at that time.
        """
        end = int(np.searchsorted(self.feed.times, at, side="right"))
        if end <= self.fed:
            return
        here, came = slice(self.fed, end), self.feed.events.slice(self.fed, end - self.fed)
        told = {name: came[name].to_pylist() for name in came.column_names}
        told |= {"occurred_at": self.feed.occurred_at[here].tolist(), "in_history": self.feed.in_history[here].tolist()}
        names, rows = list(told), zip(*told.values(), strict=True)
        events = [LiveEvent(**dict(zip(names, row, strict=True))) for row in rows]
        self.store.append(events)
        self.fed = end


@contextmanager
def replaying(
    data: Path,
    snapshot: Mapping[str, Any],
    from_us: int,
    folder: Path,
    counters: Counters | None = None,
    of_users: UserCounters | None = None,
) -> Iterator[Replay]:
    """A replay of data/<source> that is loaded with everything before from_us (or before its counter bucket).

    snapshot: content of snapshot.json. folder: for the temporary store; removed at the end.
    counters: of data, with the keys of user_histories, if they are built already.
    of_users: those of users, if they are not among these: they are read some users at a time.
    """
    folder.mkdir(parents=True)
    state = folder / "feast"
    bucket_us = micros(snapshot["settings"]["statistics"]["bucket_s"])
    from_us = counted_at(from_us, bucket_us) - bucket_us  # a bucket is loaded or fed as a whole
    try:
        histories = UserHistories.open(data / "user_histories")
        _load(state, data, histories, snapshot, from_us, bucket_us, counters, of_users)
        store = OnlineStore.open(state)
        try:
            yield Replay(store, _feed(data, from_us, snapshot), snapshot["max_length"])
        finally:
            store.drop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _load(
    state: Path,
    data: Path,
    histories: UserHistories,
    snapshot: Mapping[str, Any],
    from_us: int,
    bucket_us: int,
    counters: Counters | None,
    of_users: UserCounters | None,
) -> None:
    """Make a state folder like features.online.load does, of what was known at from_us."""
    state.mkdir()
    items, users = histories.vocabulary["item_id"], histories.user_ids
    known = (counters or Counters.from_folder(data, items, users)).before(from_us, bucket_us)
    item_ids = items.to_pylist()
    item_state.save(state, known, item_ids, users.to_pylist())
    feast = FeatureStore(config=config(state, offline="file"))
    history, _ = read_settings(data / "feature_snapshot", snapshot)
    feast.apply(sequence_definitions(data, data / "feature_snapshot", history))
    states = user_state_before(of_users, from_us, bucket_us) if of_users else user_state_rows(known, item_ids, users)
    views = {
        "user_history": user_history_rows(histories, history.max_length, before_us=from_us),
        "user_state": states,
    }
    for name, tables in views.items():
        for rows in tables:
            online_rows.write(feast, feast.get_feature_view(name), rows)
    online_rows.mark(feast, REPLAY)
    stamp = {"snapshot_id": REPLAY, "settings": snapshot["settings"], "log_end_us": from_us, "absorbed_seq": {}}
    write_json(state / STAMP, stamp | {"layout": LAYOUT})


def _feed(data: Path, from_us: int, snapshot: Mapping[str, Any]) -> Feed:
    """The events that became known from from_us on. A row and its later click are fed separately, at their times."""
    log = ds.dataset(data / "validated_interactions", format="parquet")
    start = pa.scalar(from_us).cast(TIME)
    came = ds.field("occurred_at") >= start
    came = came | (ds.field("known_at") >= start) | (ds.field("arrived_at") >= start)
    rows = log.to_table(columns=[*COLUMNS, "known_at", "arrived_at"], filter=came)
    row_at, click_at = times_in(rows)
    clicked = rows["label"].to_numpy() >= CLICKED
    delay_us = micros(snapshot["settings"].get(DELAY, 0))
    untold = clicked & rows["known_at"].is_null().to_numpy() & rows["arrived_at"].is_null().to_numpy() & (delay_us > 0)
    later = (click_at > row_at) | untold
    shown = np.where(later, 0, rows["label"].to_numpy())
    parts = [
        _part(rows, row_at >= from_us, EVENT, row_at, row_at, shown, "arrived_at"),
        _part(rows, later & (click_at >= from_us), OUTCOME, click_at, click_at + untold * delay_us, None, "known_at"),
    ]
    events = pa.concat_tables(parts)
    events = events.sort_by([(name, "ascending") for name in ("fed_at", "event_id", "revision")])
    return Feed(
        events=events.select([*COLUMNS, "revision", "known_at"]),
        times=events["fed_at"].to_numpy(),
        occurred_at=pc.cast(events["occurred_at"], pa.int64()).to_numpy(),
        in_history=_in_history(events, snapshot),
    )


def _part(
    rows: pa.Table,
    chosen: npt.NDArray[np.bool_],
    revision: int,
    counts_from: npt.NDArray[np.int64],
    fed_at: npt.NDArray[np.int64],
    label: npt.NDArray[np.float32] | None,
    known_at: str,
) -> pa.Table:
    """The chosen rows as live events. known_at: the column with the time at which this revision was known."""
    table = rows.select(COLUMNS)
    if label is not None:
        table = table.set_column(COLUMNS.index("label"), "label", pa.array(label.astype(np.float32)))
    more = {
        "revision": pa.repeat(pa.scalar(revision, pa.int8()), len(rows)),
        "known_at": rows[known_at].cast(pa.int64()),
        "counts_from": pa.array(counts_from),
        "fed_at": pa.array(fed_at),
    }
    for name, column in more.items():
        table = table.append_column(name, column)
    return table.filter(pa.array(chosen))


def _in_history(events: pa.Table, snapshot: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    kept = events["counts_from"].to_numpy() >= (snapshot.get("keep_from_us") or np.iinfo(np.int64).min)
    if snapshot["settings"]["labels"] == "all":
        return kept
    clicked = events["label"].to_numpy() >= CLICKED
    return kept & (clicked | pc.equal(events["role"], ROLE_HISTORY).to_numpy(zero_copy_only=False))
