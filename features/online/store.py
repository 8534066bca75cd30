""".state/<source>/feast and its live events -> histories and counters for the service. No ibis, no duckdb.

Appended events are durable when `append` returns, and visible to the next read in every process.
"""

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
from feast import FeatureStore, FeatureView
from feast.errors import FeastError
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.message import DecodeError

from contracts.errors import InputError
from features.encoding.counters import Counters
from features.feast_store import online_rows
from features.feast_store.config import NEVER_READ, config
from features.feast_store.entity_keys import entity_key
from features.feast_store.kept_before import StaleStoreError
from features.feast_store.unread import Unread
from features.live.clock import Clock, wall_us
from features.live.open_tail import engine, open_tail, redis_address
from features.live.places import LOADED, absorbed_upto
from features.live.tail import LiveTail, Marks
from features.online import item_state
from features.online.kept import Kept
from features.online.kept_counts import KeptCounts
from features.online.live_counters import LiveCounters
from features.online.opening import check_owner, in_seconds, stamp_of, warn_of_loss
from features.online.rows import (
    HISTORY,
    PROFILE,
    STATE,
    ItemProfile,
    UserHistory,
    UserRead,
    to_counted,
    to_history,
    to_profiles,
)
from features.sealed.event import Fate, LiveEvent
from features.terms.convention import micros

Int64 = npt.NDArray[np.int64]

DAMAGE = (sqlite3.Error, OSError, EOFError, ValueError, KeyError, TypeError, DecodeError, FeastError)
"""What readers of a state folder raise if a file is missing, truncated or corrupt."""
AGAIN = "`make load` loads it again; then restart the service."


@dataclass
class _Progress:
    """How far the tail has been counted."""

    seq: int  # of the newest event that is counted or in the log
    newest_at: int  # us, counts_from of the newest live event; 0 if there is none
    origin: int = 0  # of the tail (Marks); 0: unknown
    follows_log: bool = False
    lock: Lock = field(default_factory=Lock)


@dataclass(frozen=True)
class OnlineStore:
    """The store that the service reads, written by load.py. Newer loads do not change an open store, live events do."""

    feast: FeatureStore
    history_view: FeatureView
    state_view: FeatureView
    snapshot_id: str
    settings: Mapping[str, Any]  # sections of params.yaml that the snapshot was made with
    logged_end: int  # 1 us after the log's newest event
    loaded_at: int  # us, when it was loaded; 0: unknown
    absorbed_seq: int  # live events of the tail up to this seq are in the log
    live: LiveCounters
    keep_from: int | None  # us, older events are in no history (history.retention_s); None: no limit
    tail: LiveTail
    progress: _Progress
    clock: Clock  # the wall clock, until follow_log
    kept: KeptCounts = field(default_factory=KeptCounts, compare=False)
    kept_histories: Kept[UserHistory | None] = field(default_factory=Kept, compare=False)

    @classmethod
    def open(cls, state: Path, tail_of: Path | None = None) -> "OnlineStore":
        """Raises InputError if nothing is loaded there, or the store is damaged or does not answer.

        tail_of: a state folder whose live events are read instead of this one's.
        """
        state = state.resolve()  # the link changes with the next load; this store keeps the folder that it opened
        try:
            return cls._read_state(state, stamp_of(state), tail_of or state)
        except InputError:
            raise
        except PermissionError as error:
            raise InputError(
                f"The online store cannot be read: {error}. `chmod -R a+rX` lets user {os.geteuid()} read it."
            ) from error
        except DAMAGE as error:
            raise InputError(
                f"The online store in {state} cannot be read: {type(error).__name__}: {error}. "
                "`make load` loads it again."
            ) from error

    @classmethod
    def _read_state(cls, state: Path, stamp: Mapping[str, Any], tail_of: Path) -> "OnlineStore":
        of_items = item_state.load(state)
        own = tail_of == state
        absorbed_seq = absorbed_upto(stamp, engine())
        tail = open_tail(tail_of, absorbed_seq if own else 0)
        bucket_us = micros(stamp["settings"]["statistics"]["bucket_s"])
        feast = FeatureStore(config=config(state, NEVER_READ, tail_of))
        store = cls(
            feast=feast,
            history_view=feast.get_feature_view("user_history"),
            state_view=feast.get_feature_view("user_state"),
            snapshot_id=stamp["snapshot_id"],
            settings=stamp["settings"],
            logged_end=stamp["log_end_us"],
            loaded_at=stamp.get(LOADED, 0),
            absorbed_seq=absorbed_seq,
            keep_from=stamp.get("keep_from_us"),
            live=LiveCounters(of_items.counters, of_items.items, of_items.users, bucket_us),
            tail=tail,
            progress=_Progress(absorbed_seq, 0),
            clock=Clock(),
        )
        if not online_rows.read_as_of(store.feast, stamp["snapshot_id"]):
            address = redis_address()
            assert address is not None  # SQLite's file always matches its stamp
            raise InputError(
                f"The {address.where} does not hold snapshot {stamp['snapshot_id'][:12]}, which {state} was loaded "
                "from. `make load` with the same ONLINE loads it."
            )
        check_owner(store.tail, tail_of, stamp)
        store.read("")  # Feast opens its database at the first read, which must precede the folder's removal by a load
        if own:
            warn_of_loss(tail, state, absorbed_seq)
        store.refresh()
        return store

    @property
    def counters(self) -> Counters:
        """Counters of items, with the live events up to the last refresh. For a user's counters see counters_of."""
        return self.live.now

    @property
    def log_end(self) -> int:
        """1 us after the newest event, logged or live (us): requests at this time see every event."""
        return max(self.logged_end, self.progress.newest_at + 1)

    def follow_log(self) -> None:
        """Set the clock to the log's end, from where it runs on; shared by all processes that serve this log.

        If a process has set it before, its offset is kept, but the clock is never before the log's end, and goes back
        with a log that ends earlier since it was loaded anew (clock.agreed).
        """
        self.clock.behind_us = self._behind(wall_us() - self.logged_end)
        self.progress.follows_log = True

    def _behind(self, us: int) -> int:
        return self.tail.behind(us, self.logged_end, self.loaded_at)

    def append(self, events: Sequence[LiveEvent]) -> list[Fate]:
        """Write live events durably, all or none, and return the fate of each.

        Raises InputError if the tail fails, StaleStoreError (always before writing) if a newer load must be opened.
        """
        self.refresh()
        fates = self.tail.append(events)
        self._count()
        return fates

    def refresh(self) -> None:
        """Count live events that any process has appended since. Histories need no refresh: their reads merge the tail.

        Raises StaleStoreError if a newer load must be opened.
        """
        marks = self.tail.marks()
        self._check_origin(marks)
        if self.progress.follows_log and marks.behind is not None:
            self.clock.behind_us = marks.behind
        if marks.pruned > self.absorbed_seq:
            raise StaleStoreError(
                f"Live events that snapshot {self.snapshot_id[:12]} lacks have left the tail: a newer load has them. "
                "Open the store again; if this is raised again, `dvc repro` and `make load` bring it up to date."
            )
        if marks.newest > self.progress.seq:
            self._count()

    def _check_origin(self, marks: Marks) -> None:
        """Raise StaleStoreError if the tail was replaced, since the counts of its former events are then invalid.

        From then on always: whoever sees it first may be a thread that cannot open the store again.
        """
        if not self.progress.origin:
            self.progress.origin = marks.origin
        elif self.progress.origin != marks.origin:
            if self.progress.follows_log:
                self._behind(self.clock.behind_us)  # the clock keeps its offset
            raise StaleStoreError(
                f"Live events that were counted, until {in_seconds(self.progress.seq)}, may be gone: their store was "
                "lost, emptied or replaced, or a replica took over. Open the store again: it reads the events that "
                "are there."
            )

    def _count(self) -> None:
        """Count all events of the tail that are not counted yet."""
        with self.progress.lock:
            while rows := self.tail.since(self.progress.seq):
                events = [event for _, event in rows]
                self.live.add(events)
                self.progress.newest_at = max(self.progress.newest_at, *(event.counts_from for event in events))
                self.progress.seq = rows[-1][0]

    def drop(self) -> None:
        """Remove all rows of this store and its tail; for temporary stores."""
        self.tail.drop()
        online_rows.drop(self.feast)

    def read(self, user_id: str) -> UserRead:
        """A user's history and counts, in one read. What was read of a user before is not parsed again."""
        wanted = [(self.history_view, HISTORY), (self.state_view, STATE)]
        with _saying_why():
            (own,), (counted,) = self._read_users([user_id], wanted)
            history = self.kept_histories.made(user_id, own.found, lambda: to_history(own.parse()))
            read = UserRead(history, to_counted(counted.parse()))
        if history is None:  # unknown, or forgotten: then nothing may be kept
            self.kept.drop(user_id)
        return read

    def counted(self, user_ids: Sequence[str]) -> list[bytes]:
        """Users' counts in the log, packed by encoding/user_counts.py; empty without a row."""
        with _saying_why():
            return [to_counted(row.parse()) for row in self._read_users(user_ids, [(self.state_view, STATE)])[0]]

    def counters_of(self, user_id: str, counted: bytes) -> tuple[int, Counters]:
        """(the user's key, counters of items and of that user), live events included. counted: the user's row."""
        key = self.live.user_key(user_id)
        if not counted:
            self.kept.drop(user_id)
            return key, self.live.now
        return key, self.live.with_user(key, self.kept.decoded(user_id, counted, key, self.live.items))

    def history(self, user_id: str) -> UserHistory | None:
        """All stored events of a user; None if Feast does not know the user."""
        return self.histories([user_id])[0]

    def histories(self, user_ids: Sequence[str]) -> list[UserHistory | None]:
        """Like `history` for several users, in one read."""
        with _saying_why():
            return [to_history(row.parse()) for row in self._read_users(user_ids, [(self.history_view, HISTORY)])[0]]

    def _read_users(
        self, user_ids: Sequence[str], wanted: Sequence[tuple[FeatureView, Sequence[str]]]
    ) -> list[list[Unread]]:
        """For each view, the row of each user. Raises InputError if the store does not answer."""
        keys = [entity_key(["user_id"], name) for name in user_ids]
        # get_online_features adds metadata, timestamps and a copy of each value, which doubles the time of a read.
        store: Any = self.feast._get_provider().online_store  # pyright: ignore[reportAttributeAccessIssue]
        return store.online_read_together(self.feast.config, wanted, keys)

    def user_ids(self, prefix: str) -> Iterator[str]:
        """Users whose id starts with the prefix: those of the log in the store's order, then those of live events."""
        seen: set[str] = set()
        live = (name for name in list(self.live.users.added) if name.startswith(prefix))
        for name in chain(online_rows.ids_beginning(self.feast, self.state_view, prefix), live):
            if name not in seen:
                seen.add(name)
                yield name

    def profiles(self, item_ids: Sequence[str]) -> list[ItemProfile | None]:
        """Catalogue rows of items; None where Feast does not know the item."""
        return to_profiles(self._read(PROFILE, "item_id", item_ids))

    def item_keys(self, item_ids: Sequence[str]) -> Int64:
        """The counters' keys of items; -1 where neither the log nor a live event has the item."""
        return self.live.items.keys(item_ids)

    def item_key(self, item_id: str | None) -> int:
        """The counters' key of an item; -1 for None, or if neither the log nor a live event has it."""
        return -1 if item_id is None else self.live.items.key(item_id)

    def is_forgotten(self, user_id: str) -> bool:
        """Whether a user is forgotten; then nothing of them may be read, even what is still loaded."""
        return self.tail.forgotten([user_id])[0]

    def _read(self, features: Sequence[str], key: str, ids: Sequence[str]) -> list[list[Value]]:
        """One list per feature, one value per id, as Feast's protobuf values, which are cheaper than its dicts."""
        response = self.feast.get_online_features(
            features=list(features), entity_rows=[{key: value} for value in ids]
        ).proto
        names = list(response.metadata.feature_names.val)
        wanted = [feature.split(":")[1] for feature in features]
        return [list(response.results[names.index(name)].values) for name in wanted]


@contextmanager
def _saying_why() -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except DAMAGE as error:
        said = f"The histories in the online store cannot be read: {type(error).__name__}: {error}."
        raise InputError(f"{said} {AGAIN}") from error
