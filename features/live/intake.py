"""Posted events -> live events, validated by the same rules as a log. All, or an error that names the first bad one."""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import numpy as np

from contracts.errors import InputError
from contracts.schema import ROLE_IMPRESSION
from features.live.exposure import is_exposure, served_at, shown_event_id
from features.sealed.event import EVENT, OUTCOME, LiveEvent
from features.terms.convention import CLICKED
from features.terms.event_id import event_id
from features.terms.rules import Rule, first_broken

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
CONTENT = frozenset({"item_id", "occurred_at", "label", "impression_id", "position", "session_id"})
"""The content of an event, to compare it with another."""


class Posted(NamedTuple):
    """One event as posted. None: not given."""

    user_id: str
    item_id: str
    occurred_at: int | None = None  # us since 1970; None: now, or the time of the ranking that impression_id names
    label: float = 1.0
    impression_id: str | None = None  # a ranking of ours, or any name that groups the rows of one request of this user
    position: int | None = None
    session_id: str | None = None
    event_id: str | None = None


@dataclass(frozen=True)
class Intake:
    """Validates and reads events with the settings of the loaded histories. secret: the tail's, for impression_ids."""

    rules: Sequence[Rule]
    labels: str  # history.labels
    max_id_length: int
    secret: bytes = field(repr=False)
    keep_from: int | None = None  # us, what counts from earlier is in no history (history.retention_s); None: no limit

    def takes(self, column: str, ids: Sequence[str]) -> list[bool]:
        """Whether each id would pass the rules of its column, `user_id` or `item_id`."""
        broken = [list(map(rule.breaks, ids)) for rule in self.rules if rule.arguments["column"] == column]
        return [not any(of_one) for of_one in zip(*broken, strict=True)] if broken else [True] * len(ids)

    def read(self, posted: Sequence[Posted], now: int, latest: int) -> list[LiveEvent]:
        """Raises InputError that names the first event that breaks a rule, by its position from 0.

        now: us, when the events became known, and the default of their time. latest: us, the newest time that an event
        may have.
        An event with the impression_id of a ranking of ours is the outcome of the row that was shown, with its time and
        event_id. Any other impression_id is specific to the user: the same text from another user, or in the log, is
        another request, as is one that looks like ours but is not valid (is_unlinked).
        """
        read = []
        for place, each in enumerate(posted):
            try:
                read.append(self._read(each, now, latest))
            except InputError as error:
                raise InputError(f"events.{place}: {error}") from None
        return read

    def is_unlinked(self, posted: Posted) -> bool:
        """Whether an event's impression_id looks like ours, but is another user's or another store's.

        The store may have been lost, or another engine chosen, since the ranking; the event is then stored unlinked.
        """
        named = is_exposure(posted.impression_id)
        return named and served_at(posted.impression_id, posted.user_id, self.secret) is None

    def _read(self, posted: Posted, now: int, latest: int) -> LiveEvent:
        cited = served_at(posted.impression_id, posted.user_id, self.secret)
        at = cited if cited is not None else now if posted.occurred_at is None else posted.occurred_at
        time = _time(at)
        if cited is None and at > latest:
            raise InputError(
                f"occurred_at {_iso(time)} lies in the future: the newest that is taken now is {_iso(_time(latest))} "
                "(serve.max_future_s). Check the caller's clock and time zone. Without occurred_at an event is of now, "
                "as serve.clock says: with log_end, the log's end and the time since it was first served."
            )
        dated = posted._replace(occurred_at=at, label=_as_logged(posted.label))
        told = dated._asdict()
        values = told | {"occurred_at": time, "role": ROLE_IMPRESSION}
        if broken := first_broken(values, self.rules):
            column = broken.arguments["column"]
            raise InputError(f"{column} {values[column]!r}: {broken.reason}. The log's own rules: section validate.")
        for name in ("impression_id", "session_id", "event_id"):
            if len(told[name] or "") > self.max_id_length:
                raise InputError(
                    f"{name} has {len(told[name]):,} characters; at most {self.max_id_length:,} are taken."
                )
        if cited is not None:
            return self._outcome(dated, at, now)
        return self._event(dated, at, now, is_timed=posted.occurred_at is not None)

    def _outcome(self, posted: Posted, at: int, now: int) -> LiveEvent:
        assert posted.impression_id is not None
        revision = OUTCOME if posted.label >= CLICKED else EVENT  # without a click it repeats the show
        return self._row(posted, at, now, shown_event_id(posted.impression_id, posted.item_id), revision)

    def _event(self, posted: Posted, at: int, now: int, is_timed: bool) -> LiveEvent:
        """is_timed: the event has a time. Events without one are distinct even if they are equal, except for events
        with an impression_id of a ranking, of which an item is clicked once.
        """
        own = _own_request(posted)
        if is_timed:
            name = event_id(**posted._asdict())
        elif own is not None and is_exposure(posted.impression_id):
            name = shown_event_id(f"{own}\x1f{posted.label >= CLICKED}", posted.item_id)
        else:
            name = secrets.token_hex(16)
        return self._row(posted._replace(impression_id=own), at, now, posted.event_id or name, EVENT)

    def _row(self, posted: Posted, at: int, now: int, name: str, revision: int) -> LiveEvent:
        return LiveEvent(
            event_id=name,
            revision=revision,
            user_id=posted.user_id,
            item_id=posted.item_id,
            occurred_at=at,
            label=posted.label,
            role=ROLE_IMPRESSION,
            in_history=self._extends_history(posted.label, max(at, now)),
            impression_id=posted.impression_id,
            position=posted.position,
            session_id=posted.session_id,
            known_at=now,
        )

    def _extends_history(self, label: float, counts_from: int) -> bool:
        """As features/history decides of the log's rows, which are as old as what they count from."""
        is_kept = self.keep_from is None or counts_from >= self.keep_from
        return is_kept and (self.labels == "all" or label >= CLICKED)


def refuse_names_of_others(events: Sequence[LiveEvent], held: Sequence[LiveEvent | None]) -> None:
    """Raise InputError that names the first event whose event_id belongs to another user. held: LiveTail.held.

    If two users send one event_id to two processes at the same moment, the second gets the fate `repeated`.
    """
    users: dict[str, str] = {}
    for place, (event, there) in enumerate(zip(events, held, strict=True)):
        if users.setdefault(event.event_id, (there or event).user_id) != event.user_id:
            raise InputError(
                f"events.{place}: event_id {event.event_id!r} is that of another user's event. Events have names of "
                "their own across users: begin them with the user_id, say, or leave event_id out."
            )


def differences(
    posted: Sequence[Posted], events: Sequence[LiveEvent], held: Sequence[LiveEvent | None]
) -> list[tuple[str, ...]]:
    """For each event, the fields that differ from the first event of its event_id; a missing time is not compared.

    held: LiveTail.held, before these were appended. Only events with a caller's event_id are compared, since the show
    and the outcome of a ranking's row differ by design.
    """
    first: dict[str, LiveEvent] = {}
    differ = []
    for told, event, there in zip(posted, events, held, strict=True):
        before = first.setdefault(event.event_id, there or event)
        compared = CONTENT if told.occurred_at is not None else CONTENT - {"occurred_at"}
        names = [name for name in LiveEvent._fields if name in compared]
        is_own = told.event_id is not None and told.event_id == event.event_id
        differ.append(tuple(name for name in names if is_own and getattr(before, name) != getattr(event, name)))
    return differ


def as_events_of_their_own(events: Sequence[LiveEvent], held: Sequence[LiveEvent | None]) -> list[LiveEvent]:
    """An outcome whose show is no longer in the tail becomes an event of its own, and counts as a show as well.

    held: LiveTail.held. The same click sent again is a repetition of that event.
    """
    before = {event.event_id: event for event in held if event is not None}
    made = []
    for event in events:
        show = before.get(event.event_id)
        is_outcome = show is not None and (show.revision == OUTCOME or show.label < CLICKED)
        made.append(event if is_outcome else event._replace(revision=EVENT))
        before.setdefault(event.event_id, made[-1])
    return made


def _own_request(posted: Posted) -> str | None:
    """A caller's impression_id -> a unique one that no other user, ranking or log has."""
    if posted.impression_id is None:
        return None
    told = f"{posted.user_id}\x1f{posted.impression_id}"
    return f"posted-{hashlib.blake2b(told.encode(), digest_size=16).hexdigest()}"


def _as_logged(label: float) -> float:
    """Rounded to float32, as in the log, so that both sides classify clicks equally; -0 becomes 0."""
    with np.errstate(over="ignore"):
        return float(np.float32(label)) + 0.0


def _time(at: int) -> datetime:
    try:
        return EPOCH + timedelta(microseconds=at)
    except OverflowError:
        raise InputError(
            f"occurred_at {at:,} us lies outside the years 1 to 9999. It is told in microseconds since 1970."
        ) from None


def _iso(time: datetime) -> str:
    return time.isoformat().replace("+00:00", "Z")
