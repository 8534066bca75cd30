"""One live event as kept until a batch run includes it, and the result of appending it."""

from enum import IntEnum
from typing import NamedTuple

EVENT, OUTCOME = 0, 1
"""Revisions. An outcome has the event_id of a logged show; its click counts, but not as a second show."""
SQLITE, REDIS = "sqlite", "redis"
ENGINES = (SQLITE, REDIS)
"""The engines that keep live events. Each has its own seq; those of different engines are never compared."""


class LiveEvent(NamedTuple):
    """A live row of contracts.schema.INTERACTIONS, valid by its rules and identified by (event_id, revision)."""

    event_id: str
    revision: int  # EVENT or OUTCOME
    user_id: str
    item_id: str
    occurred_at: int  # microseconds since 1970, UTC
    label: float
    role: str
    in_history: bool  # whether it extends its user's history: a click, or any event if history.labels is `all`
    impression_id: str | None = None
    position: int | None = None
    session_id: str | None = None
    device: str | None = None  # this and the next two: contracts.schema.CONTEXTS, of a show that we served
    is_subscriber: bool | None = None
    reading_item_id: str | None = None
    known_at: int | None = None  # us, when it was acknowledged, on the clock of requests; None: unknown

    @property
    def counts_from(self) -> int:
        """The time from which it counts, us (features/terms/known.py)."""
        return self.occurred_at if self.known_at is None else max(self.occurred_at, self.known_at)


class Fate(IntEnum):
    """The result of appending an event."""

    NEW = 0
    REPEATED = 1  # (event_id, revision) is stored already: nothing changed
    FORGOTTEN = 2  # its user is forgotten: not stored
