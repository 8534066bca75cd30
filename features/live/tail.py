"""The interface of a store of live events, implemented by features/live/sqlite.py and features/live/redis.py.

A tail is a log in order of acknowledgement (seq) and, for histories, the same events by user. All processes that append
or read share it; appended events are durable when `append` returns.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from features.sealed.event import Fate, LiveEvent

Listed = Callable[[], Iterable[str]]
"""Reads the list of forgotten users, as their hash_of."""


def nobody() -> tuple[str, ...]:
    """The list of a temporary tail."""
    return ()


class Marks(NamedTuple):
    """What a reader checks before it answers."""

    newest: int  # seq
    pruned: int  # seq
    origin: int = 0  # creation time of the store, us; it changes if the store is lost or emptied. 0: unknown
    behind: int | None = None  # us, of LiveTail.behind; None: never set


class LiveTail(Protocol):
    """Methods raise InputError, with the next step, if the engine is down, locked too long or damaged.

    On every new connection the list of forgotten users is applied first, since the store may be a new one.
    """

    engine: str  # of features.sealed.event.ENGINES: whose seqs these are

    def append(self, events: Sequence[LiveEvent]) -> list[Fate]:
        """Store all events or, if this raises, none. A repeated (event_id, revision) changes nothing."""
        ...

    def newest_seq(self) -> int:
        """The seq of the newest event ever acknowledged; 0 if there was none. One cheap read."""
        ...

    def since(self, seq: int, limit: int = 10_000) -> list[tuple[int, LiveEvent]]:
        """Events with a greater seq, in that order, at most `limit`. Later acknowledgements never have a smaller seq.

        A seq is at least the time of acknowledgement in microseconds since 1970, and greater than every one before.
        """
        ...

    def histories(self, user_ids: Sequence[str], length: int) -> list[list[LiveEvent] | None]:
        """For each user the newest `length` events with in_history, oldest first; None for a forgotten user.

        Ordered by (counts_from, item_id, convention.key_of_text(event_id)). If an event and its outcome are both
        in_history and count from the same time, only the outcome is returned. Empty for a user without live events.
        """
        ...

    def held(self, event_ids: Sequence[str]) -> list[LiveEvent | None]:
        """The stored event of each event_id, a show (EVENT) rather than its OUTCOME; None if there is neither."""
        ...

    def secret(self) -> bytes:
        """32 random bytes, created at the first use and the same for every process until `drop`."""
        ...

    def belongs_to(self, log: str) -> str:
        """The identity of the log that the live events belong to; set to this one for good if there was none."""
        ...

    def prune(self, upto_seq: int) -> int:
        """Drop events up to this seq, which are in the log by now. Returns how many. newest_seq is unchanged.

        A dropped event that is sent again is NEW: histories find it in the base by its key, but counters count it.
        """
        ...

    def marks(self) -> Marks:
        """newest_seq, pruned_seq and more, in one cheap read."""
        ...

    def behind(self, us: int, end_us: int = 0, loaded_at: int = 0) -> int:
        """Tell how far the end of a log is behind the wall clock, that end, and when the log was loaded (us).

        Returns how far the log's clock is behind: what is stored now by the rule of clock.agreed, or less if the told
        value is less.
        """
        ...

    def size(self) -> int:
        """Bytes of storage: the SQLite file with its WAL, or the memory of the whole Redis server."""
        ...

    def pruned_seq(self) -> int:
        """The largest seq that was pruned; 0 if none. A reader that lacks some of the pruned events must reload."""
        ...

    def forget(self, user_ids: Sequence[str]) -> None:
        """Drop these users' events and refuse later ones, at once and in every process."""
        ...

    def forget_hashes(self, digests: Iterable[str]) -> int:
        """Forget those of these users (as hash_of) who are not forgotten yet. Returns how many."""
        ...

    def forgotten(self, user_ids: Sequence[str]) -> list[bool]:
        """Whether each user has been forgotten."""
        ...

    def drop(self) -> None:
        """Remove everything, as if nothing had ever been appended. For temporary tails."""
        ...

    def close(self) -> None:
        """Close connections and files."""
        ...
