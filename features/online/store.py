""".state/<source>/feast and its live events -> histories and counters, in process, for the service. No ibis, no duckdb.

What is appended is durable when append returns and is seen by the next read, in this process and in every other.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
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
from features.encoding.user_counts import UserCounts
from features.feast_store import online_rows
from features.feast_store.config import config
from features.feast_store.entity_keys import entity_key
from features.feast_store.kept_before import StaleStoreError
from features.live.clock import Clock, wall_us
from features.live.open_tail import engine, open_tail, redis_address
from features.live.places import absorbed_upto
from features.live.tail import LiveTail, Marks
from features.online import item_state
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
"""What the readers of a state's files raise where a file is missing, cut short or something else."""
AGAIN = "`make load` loads them again; then start what reads them anew."


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
    state_view: FeatureView
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
            return cls._read_state(state, stamp_of(state), tail_of or state)
        except InputError:
            raise
        except DAMAGE as error:
            raise InputError(
                f"The online store in {state} cannot be read: {type(error).__name__}: {error}. "
                "`make load` loads it again."
            ) from error

    @classmethod
    def _read_state(cls, state: Path, stamp: Mapping[str, Any], tail_of: Path) -> "OnlineStore":
        held = item_state.load(state)
        own = tail_of == state
        absorbed_seq = absorbed_upto(stamp, engine())
        tail = open_tail(tail_of, absorbed_seq if own else 0)
        bucket_us = micros(stamp["settings"]["statistics"]["bucket_s"])
        feast = FeatureStore(config=config(state, "file", tail_of))
        store = cls(
            feast=feast,
            history_view=feast.get_feature_view("user_history"),
            state_view=feast.get_feature_view("user_state"),
            snapshot_id=stamp["snapshot_id"],
            settings=stamp["settings"],
            logged_end=stamp["log_end_us"],
            absorbed_seq=absorbed_seq,
            keep_from=stamp.get("keep_from_us"),
            live=LiveCounters(held.counters, held.items, held.users, bucket_us),
            tail=tail,
            progress=_Progress(absorbed_seq, 0),
            clock=Clock(),
        )
        if not online_rows.read_as_of(store.feast, stamp["snapshot_id"]):
            address = redis_address()
            assert address is not None  # a file is always what its stamp says
            raise InputError(
                f"The {address.where} does not hold snapshot {stamp['snapshot_id'][:12]}, as {state} says. "
                "`make load` with the same ONLINE loads it."
            )
        check_owner(store.tail, tail_of, stamp)
        store.read("")  # Feast opens its database at the first read: before a newer load removes the folder
        if own:
            warn_of_loss(tail, state, absorbed_seq)
        store.refresh()
        return store

    @property
    def counters(self) -> Counters:
        """Of items in the log and of the live events that refresh has seen; of a user's own see counters_of."""
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
                f"The live events that were counted, until {in_seconds(self.progress.seq)}, may not be there any more: "
                "their store was lost, emptied or replaced, or its replica took over. Open the store again: it goes on "
                "with what is there."
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

    def read(self, user_id: str) -> UserRead:
        """All that belongs to a user, in one read."""
        history, counted = self._read_users([user_id], [(self.history_view, HISTORY), (self.state_view, STATE)])
        return UserRead(to_history(history[0]), to_counted(counted[0]))

    def counted(self, user_ids: Sequence[str]) -> list[bytes]:
        """What the log counted of users, as encoding/user_counts.py packs it; empty where nothing is."""
        return [to_counted(values) for values in self._read_users(user_ids, [(self.state_view, STATE)])[0]]

    def counters_of(self, user_id: str, counted: bytes) -> tuple[int, Counters]:
        """A user's key, and what is counted of items and of that user, live events included. counted: of the user."""
        try:
            counts = UserCounts.decode(counted) if counted else None
        except ValueError as error:
            raise InputError(f"The online store holds of a user what is no row: {error}. {AGAIN}") from error
        return self.live.of_user(user_id, counts)

    def history(self, user_id: str) -> UserHistory | None:
        """All stored events of a user; None where Feast does not know the user."""
        return self.histories([user_id])[0]

    def histories(self, user_ids: Sequence[str]) -> list[UserHistory | None]:
        """The same for several users in one read."""
        return [to_history(values) for values in self._read_users(user_ids, [(self.history_view, HISTORY)])[0]]

    def _read_users(
        self, user_ids: Sequence[str], wanted: Sequence[tuple[FeatureView, Sequence[str]]]
    ) -> list[list[dict[str, Value] | None]]:
        """Of each view, of each user the features. Raises InputError where the store does not answer."""
        keys = [entity_key(["user_id"], name) for name in user_ids]
        # What get_online_features adds for its callers (metadata, timestamps, a copy a value) would double the time.
        store: Any = self.feast._get_provider().online_store  # pyright: ignore[reportAttributeAccessIssue]
        try:
            found = store.online_read_together(self.feast.config, wanted, keys)
        except InputError:
            raise
        except DAMAGE as error:
            said = f"The histories in the online store cannot be read: {type(error).__name__}: {error}."
            raise InputError(f"{said} {AGAIN}") from error
        return [[values for _, values in rows] for rows in found]

    def user_ids(self, prefix: str) -> Iterator[str]:
        """Users whose id begins so: those of the log, as the store has them, then those who came live."""
        seen: set[str] = set()
        live = (name for name in list(self.live.users.added) if name.startswith(prefix))
        for name in chain(online_rows.ids_beginning(self.feast, self.state_view, prefix), live):
            if name not in seen:
                seen.add(name)
                yield name

    def profiles(self, item_ids: Sequence[str]) -> list[ItemProfile | None]:
        """What the catalogue says of items; None where Feast does not know the item."""
        return to_profiles(self._read(PROFILE, "item_id", item_ids))

    def item_keys(self, item_ids: Sequence[str]) -> Int64:
        """The counters' keys of items; -1 where neither the log nor a live event had them."""
        return self.live.items.keys(item_ids)

    def item_key(self, item_id: str | None) -> int:
        """The key of one item; -1 where neither the log nor a live event had it, or there is none."""
        return -1 if item_id is None else self.live.items.key(item_id)

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
