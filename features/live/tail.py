"""The interface of a store of live events, implemented by features/live/sqlite.py and features/live/redis.py.

A tail is a log in order of acknowledgement (seq) and, for histories, the same events by user. It is shared by every
process that appends or reads; what append has returned is durable.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from features.sealed.event import Fate, LiveEvent

Listed = Callable[[], Iterable[str]]
"""Reads the list of the forgotten: each as hash_of."""


def nobody() -> tuple[str, ...]:
    """The list of a scratch tail."""
    return ()


class Marks(NamedTuple):
    """What a reader looks at before it answers."""

    newest: int  # seq
    pruned: int  # seq
    origin: int = 0  # when this store began, us; another one: the one before was lost, or emptied. 0: not known
    behind: int | None = None  # us, as LiveTail.behind keeps it; None: never told


class LiveTail(Protocol):
    """Raises contracts.errors.InputError, saying what to do, where its engine is down, locked too long or damaged.

    Before it answers anything over a new connection it has forgotten who is on the list: the store may be a new one.
    """

    engine: str  # of features.sealed.event.ENGINES: whose seqs these are

    def append(self, events: Sequence[LiveEvent]) -> list[Fate]:
        """Keep events: all of them or, where this raises, none. A repeated (event_id, revision) changes nothing."""
        ...

    def newest_seq(self) -> int:
        """The seq of the newest acknowledged event ever; 0 where there was none. One cheap read."""
        ...

    def since(self, seq: int, limit: int = 10_000) -> list[tuple[int, LiveEvent]]:
        """Events with a greater seq, in that order, at most `limit`. Later acknowledgements never have a smaller seq.

        A seq is at least the time of acknowledgement in microseconds since 1970, and greater than every one before.
        """
        ...

    def histories(self, user_ids: Sequence[str], length: int) -> list[list[LiveEvent] | None]:
        """Of each user the newest `length` events with in_history, oldest first; None for a forgotten user.

        In order of (counts_from, item_id, convention.key_of_text(event_id)). Of an event and its outcome where both
        are in_history and count from the same time on, the outcome. Empty for a user without live events.
        """
        ...

    def held(self, event_ids: Sequence[str]) -> list[LiveEvent | None]:
        """What the tail holds by each event_id, a show (EVENT) before its OUTCOME; None where it holds neither."""
        ...

    def secret(self) -> bytes:
        """32 random bytes, made at the first use and the same for every process from then on; drop ends them."""
        ...

    def belongs_to(self, log: str) -> str:
        """The identity of the log that these live events came to: this one, for good, where none was noted before."""
        ...

    def prune(self, upto_seq: int) -> int:
        """Drop events with a seq up to this one, which a batch run holds. Returns how many. newest_seq stays.

        An event that is sent again after that is NEW: reads find it in the base by its key, counters count it.
        """
        ...

    def marks(self) -> Marks:
        """newest_seq, pruned_seq and more in one cheap read: what a reader looks at before it answers."""
        ...

    def behind(self, us: int) -> int:
        """How far the log's own time is behind the wall clock: the least that any process ever told. Returns that."""
        ...

    def size(self) -> int:
        """Bytes that its events take where they are kept: the file with its log; of Redis, the whole server."""
        ...

    def pruned_seq(self) -> int:
        """The largest upto_seq that was pruned; 0 where nothing was. A reader that lacks some of those must reload."""
        ...

    def forget(self, user_ids: Sequence[str]) -> None:
        """Drop these users' events and refuse those to come, from this moment on, in every process."""
        ...

    def forget_hashes(self, digests: Iterable[str]) -> int:
        """The same for those of these users (as hash_of) whom it has not forgotten. Returns how many."""
        ...

    def forgotten(self, user_ids: Sequence[str]) -> list[bool]:
        """Whether each user has been forgotten."""
        ...

    def drop(self) -> None:
        """Remove everything, as if nothing had ever been appended. For scratch tails that no one else uses."""
        ...

    def close(self) -> None:
        """Close connections and files."""
        ...
