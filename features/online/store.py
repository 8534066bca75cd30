""".state/<source>/feast and its live events -> histories and counters, in process, for the service. No ibis, no duckdb.

What is appended is durable when append returns and is seen by the next read, in this process and in every other.
"""

import json
import logging
import sqlite3
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from feast import FeatureStore, FeatureView
from feast.errors import FeastError
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.message import DecodeError

from contracts.errors import InputError
from features.encoding.counters import Counters
from features.feast_store import online_rows
from features.feast_store.config import config
from features.live.clock import Clock, wall_us
from features.live.open_tail import claim, engine, open_tail, place_of, redis_address
from features.live.places import LOG, absorbed_upto, is_current, loaded_into, read_stamp
from features.live.tail import LiveTail, Marks
from features.online.live_counters import LiveCounters
from features.sealed.event import Fate, LiveEvent
from features.terms.convention import micros

log = logging.getLogger("leitmotif")

Int64 = npt.NDArray[np.int64]

HISTORY = ("item_ids", "occurred_at", "labels", "sessions")
DAMAGE = (
    sqlite3.Error,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    zipfile.BadZipFile,
    DecodeError,
    FeastError,
)
"""What the readers of a state's files raise where a file is missing, cut short or something else."""
PROFILE = tuple(f"item_profile:{name}" for name in ("title", "categories", "published_at", "embedding"))


@dataclass(frozen=True)
class UserHistory:
    """A user's stored events, oldest first."""

    item_ids: list[str]
    occurred_at: Int64  # microseconds
    label: npt.NDArray[np.float32]
    session: Int64  # per user, from 0


class ItemProfile(NamedTuple):
    """What the catalogue says of an item."""

    title: str | None
    categories: list[str]
    published_at: int | None  # microseconds
    embedding: list[float] | None


class StaleStoreError(InputError):
    """Live events between the opened load and the tail have been pruned: a newer load has to be opened."""


@dataclass
class _Progress:
    """How much of the tail the counters hold."""

    seq: int  # of the newest event counted, or held by the log
    newest_at: int  # us, of the newest live event, as it counts; 0 where there is none
    origin: int = 0  # of the tail, as Marks; 0: not known
    follows_log: bool = False
    lock: Lock = field(default_factory=Lock)


@dataclass(frozen=True)
class OnlineStore:
    """What the service reads. Made by load.py; a newer load never changes an opened one, live events do."""

    feast: FeatureStore
    history_view: FeatureView
    snapshot_id: str
    settings: Mapping[str, Any]  # how the loaded snapshot was made: sections of params.yaml
    logged_end: int  # 1 us after the log's newest event
    absorbed_seq: int  # the tail's live events up to this one are in the log
    live: LiveCounters
    keep_from: int | None  # us: what is older extends no history (history.retention_s); None: all does
    tail: LiveTail
    progress: _Progress
    clock: Clock  # the wall clock, until follow_log

    @classmethod
    def open(cls, state: Path, tail_of: Path | None = None) -> "OnlineStore":
        """Raises InputError where nothing has been loaded there, or what was loaded is damaged or does not answer.

        tail_of: a state folder whose live events are read in place of its own.
        """
        state = state.resolve()  # the link moves with the next load; this store stays with what it opened
        try:
            stamp = read_stamp(state)
            if stamp is not None and not is_current(stamp):
                raise InputError(f"{state} was loaded by another version. `make load` loads it again.")
            if stamp is not None and loaded_into(stamp) not in (None, engine()):
                raise InputError(
                    f"{state} was loaded into {loaded_into(stamp)}, and ONLINE (LEITMOTIF_ONLINE) is {engine()}. "
                    "Choose that one, or `make load` loads this one."
                )
            if stamp is not None:
                return cls._read_state(state, stamp, tail_of or state)
        except InputError:
            raise
        except DAMAGE as error:
            raise InputError(
                f"The online store in {state} cannot be read: {type(error).__name__}: {error}. "
                "`make load` loads it again."
            ) from error
        raise InputError(f"{state} holds no loaded snapshot. `make load` loads Feast from the feature snapshot.")

    @classmethod
    def _read_state(cls, state: Path, stamp: Mapping[str, Any], tail_of: Path) -> "OnlineStore":
        ids = json.loads((state / "ids.json").read_text(encoding="utf-8"))
        positions = ({name: position for position, name in enumerate(ids[kind])} for kind in ("items", "users"))
        own = tail_of == state
        absorbed_seq = absorbed_upto(stamp, engine())
        tail = open_tail(tail_of, absorbed_seq if own else 0)
        bucket_us = micros(stamp["settings"]["statistics"]["bucket_s"])
        feast = FeatureStore(config=config(state, "file", tail_of))
        store = cls(
            feast=feast,
            history_view=feast.get_feature_view("user_history"),
            snapshot_id=stamp["snapshot_id"],
            settings=stamp["settings"],
            logged_end=stamp["log_end_us"],
            absorbed_seq=absorbed_seq,
            keep_from=stamp.get("keep_from_us"),
            live=LiveCounters(Counters.load(state), *positions, bucket_us=bucket_us),
            tail=tail,
            progress=_Progress(absorbed_seq, 0),
            clock=Clock(),
        )
        if not online_rows.is_of(store.feast, stamp["snapshot_id"]):
            raise InputError(
                f"The Redis at {redis_address()} does not hold snapshot {stamp['snapshot_id'][:12]}, as {state} says. "
                "`make load` with the same ONLINE loads it."
            )
        _check_owner(store.tail, tail_of, stamp)
        store.history("")  # Feast opens its database at the first read: before a newer load removes the folder
        if own and (newest := tail.marks().newest) < absorbed_seq:
            log.warning(
                "%s holds live events until %s, and what is loaded some until %s: it is new, another one, or was "
                "emptied. In another clone that is as it should be. Where this service ran before, stop it and bring "
                "back what was there: live events after the last `make absorb` are there alone.",
                place_of(state),
                _seconds(newest),
                _seconds(absorbed_seq),
            )
        store.refresh()
        return store

    @property
    def counters(self) -> Counters:
        """Of the log and of the live events that refresh has seen."""
        return self.live.now

    @property
    def log_end(self) -> int:
        """1 us after the newest event, logged or live, in microseconds: a request then sees all of them."""
        return max(self.logged_end, self.progress.newest_at + 1)

    def follow_log(self) -> None:
        """Let `now` be the log's end, and go on from there at the pace of the wall clock: for all who serve this log.

        Where another process has begun with it already, or this one before it was started again, as it did then; but
        never before the log's end.
        """
        self.clock.behind_us = self.tail.behind(wall_us() - self.logged_end)
        self.progress.follows_log = True

    def append(self, events: Sequence[LiveEvent]) -> list[Fate]:
        """Keep live events durably, all or none; what became of each. Raises InputError where the tail fails.

        Raises StaleStoreError before anything is kept, never after.
        """
        self.refresh()
        fates = self.tail.append(events)
        self._count()
        return fates

    def refresh(self) -> None:
        """Count the live events that came since, from any process. Histories need no refresh: reads merge them.

        Raises StaleStoreError where a newer load must be opened.
        """
        marks = self.tail.marks()
        self._check_origin(marks)
        if self.progress.follows_log and marks.behind is not None:
            self.clock.behind_us = marks.behind
        if marks.pruned > self.absorbed_seq:
            raise StaleStoreError(
                f"Live events that snapshot {self.snapshot_id[:12]} lacks have left the tail: a newer load holds them. "
                "Open the store again; where that says the same, `dvc repro` and `make load` bring it up to date."
            )
        if marks.newest > self.progress.seq:
            self._count()

    def _check_origin(self, marks: Marks) -> None:
        """What has been counted of a tail that is gone is counted no more: a store opened anew reads this one."""
        known, self.progress.origin = self.progress.origin, marks.origin or self.progress.origin
        if known not in (0, marks.origin):
            if self.progress.follows_log:
                self.tail.behind(self.clock.behind_us)  # time goes on as it did
            raise StaleStoreError(
                f"The live events that were counted, until {_seconds(self.progress.seq)}, are not there any more: "
                "their store was lost, emptied or replaced. Open the store again: it goes on with what is there."
            )

    def _count(self) -> None:
        """All that the tail holds and the counters do not."""
        with self.progress.lock:
            while rows := self.tail.since(self.progress.seq):
                events = [event for _, event in rows]
                self.live.add(events)
                self.progress.newest_at = max(self.progress.newest_at, *(event.counts_from for event in events))
                self.progress.seq = rows[-1][0]

    def drop(self) -> None:
        """Remove all that this store and its tail hold: the end of a scratch store."""
        self.tail.drop()
        online_rows.drop(self.feast)

    def history(self, user_id: str) -> UserHistory | None:
        """All stored events of a user; None where Feast does not know the user."""
        return self.histories([user_id])[0]

    def histories(self, user_ids: Sequence[str]) -> list[UserHistory | None]:
        """The same for several users in one read."""
        keys = [EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=name)]) for name in user_ids]
        # What get_online_features adds for its callers (metadata, timestamps, a copy a value) would double the time.
        try:
            rows = self.feast._get_provider().online_read(self.feast.config, self.history_view, keys, [*HISTORY])
        except InputError:
            raise
        except DAMAGE as error:
            said = f"The histories in the online store cannot be read: {type(error).__name__}: {error}."
            raise InputError(f"{said} `make load` loads them again; then start what reads them anew.") from error
        return [None if values is None else _history(values) for _, values in rows]

    def profiles(self, item_ids: Sequence[str]) -> list[ItemProfile | None]:
        """What the catalogue says of items; None where Feast does not know the item."""
        return [
            None
            if not categories.HasField("string_list_val")
            else ItemProfile(
                title.string_val if title.HasField("string_val") else None,
                list(categories.string_list_val.val),
                published_at.int64_val if published_at.HasField("int64_val") else None,
                list(embedding.float_list_val.val) or None,  # Feast keeps an absent list as an empty one
            )
            for title, categories, published_at, embedding in zip(
                *self._read(PROFILE, "item_id", item_ids), strict=True
            )
        ]

    def item_keys(self, item_ids: Sequence[str]) -> Int64:
        """The counters' keys of items; -1 where neither the log nor a live event had them."""
        return self.live.items.keys(item_ids)

    def item_key(self, item_id: str | None) -> int:
        """The key of one item; -1 where neither the log nor a live event had it, or there is none."""
        return -1 if item_id is None else self.live.items.key(item_id)

    def user_key(self, user_id: str) -> int:
        """The counters' key of a user; -1 where neither the log nor a live event had them."""
        return self.live.users.key(user_id)

    def is_forgotten(self, user_id: str) -> bool:
        """Whether a user has asked to be forgotten: nothing is read of them, at once, whatever is still loaded."""
        return self.tail.forgotten([user_id])[0]

    def _read(self, features: Sequence[str], key: str, ids: Sequence[str]) -> list[list[Value]]:
        """One list a feature, one value an id: Feast's own protobuf values, which are cheaper than its dicts."""
        response = self.feast.get_online_features(
            features=list(features), entity_rows=[{key: value} for value in ids]
        ).proto
        names = list(response.metadata.feature_names.val)
        wanted = [feature.split(":")[1] for feature in features]
        return [list(response.results[names.index(name)].values) for name in wanted]


def _check_owner(tail: LiveTail, state: Path, stamp: Mapping[str, Any]) -> None:
    """Raises InputError where the live events are not of the log that was loaded."""
    log = stamp.get(LOG)
    if log is not None and (owner := claim(tail, state, log)) != log:
        raise InputError(
            f"{place_of(state)} holds live events of another log (identity {owner}) than the one that {state} was "
            f"loaded from ({log}). If that is another log, give it a name of its own: "
            '`make set ARGS="source.id=..."`. If it is the same log, moved, `make absorb` says what to write.'
        )


def _seconds(at: int) -> str:
    return datetime.fromtimestamp(at / 1e6, UTC).isoformat(timespec="seconds") if at else "never"


def _history(values: Mapping[str, Value]) -> UserHistory | None:
    if not all(name in values for name in HISTORY) or not values["item_ids"].HasField("string_list_val"):
        return None
    return UserHistory(
        item_ids=list(values["item_ids"].string_list_val.val),
        occurred_at=np.array(values["occurred_at"].int64_list_val.val, np.int64),
        label=np.array(values["labels"].float_list_val.val, np.float32),
        session=np.array(values["sessions"].int64_list_val.val, np.int64),
    )
