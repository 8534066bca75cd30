"""What a caller posts -> live events, judged by the same rules as a log. All of them, or one error that says which."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from contracts.errors import InputError
from contracts.schema import ROLE_IMPRESSION
from features.convention import CLICKED
from features.exposure import is_exposure, served_at, shown_event_id
from features.identity import event_id
from features.live_event import EVENT, OUTCOME, LiveEvent
from features.rules import Rule, first_broken

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Posted(NamedTuple):
    """One event as a caller tells it. None: not told."""

    user_id: str
    item_id: str
    occurred_at: int | None = None  # us since 1970; None: now, or the time of the ranking that impression_id names
    label: float = 1.0
    impression_id: str | None = None
    position: int | None = None
    session_id: str | None = None
    event_id: str | None = None


@dataclass(frozen=True)
class Intake:
    """How events are judged and read: as the loaded histories were."""

    rules: Sequence[Rule]
    labels: str  # history.labels
    max_id_length: int

    def takes(self, column: str, ids: Sequence[str]) -> list[bool]:
        """Whether each id would pass the rules of its column, `user_id` or `item_id`."""
        of_column = [rule for rule in self.rules if rule.arguments["column"] == column]
        return [not any(rule.breaks(each) for rule in of_column) for each in ids]

    def read(self, posted: Sequence[Posted], now: int, latest: int) -> list[LiveEvent]:
        """Raises InputError naming the first event that breaks a rule, by its place from 0.

        now: us, the time of an event that tells none. latest: us, the newest time that an event may have.
        An event that cites a ranking of ours is the outcome of the row that it showed, and takes its time and name.
        """
        read = []
        for place, each in enumerate(posted):
            try:
                read.append(self._read(each, now, latest))
            except InputError as error:
                raise InputError(f"events.{place}: {error}") from None
        return read

    def _read(self, posted: Posted, now: int, latest: int) -> LiveEvent:
        cited = served_at(posted.impression_id, posted.user_id)
        if cited is None and is_exposure(posted.impression_id):
            raise InputError(
                f"impression_id {posted.impression_id!r} is of another user than {posted.user_id!r}, or not one that "
                "/rank gave. Send it as it was given, with the user it was given for."
            )
        at = cited if cited is not None else now if posted.occurred_at is None else posted.occurred_at
        if at > latest:
            raise InputError(
                f"occurred_at {_iso(at)} lies in the future: the newest that is taken now is {_iso(latest)} "
                "(serve.max_future_s). Check the caller's clock and time zone."
            )
        told = posted._replace(occurred_at=at)._asdict()
        values = told | {"occurred_at": EPOCH + timedelta(microseconds=at), "role": ROLE_IMPRESSION}
        if broken := first_broken(values, self.rules):
            column = broken.arguments["column"]
            raise InputError(f"{column} {values[column]!r}: {broken.reason}. The log's own rules: section validate.")
        for name in ("impression_id", "session_id", "event_id"):
            if len(told[name] or "") > self.max_id_length:
                raise InputError(
                    f"{name} has {len(told[name]):,} characters; at most {self.max_id_length:,} are taken."
                )
        return self._event(posted, at, cited is not None)

    def _event(self, posted: Posted, at: int, is_outcome: bool) -> LiveEvent:
        if is_outcome:
            assert posted.impression_id is not None
            name = shown_event_id(posted.impression_id, posted.item_id)
        else:
            name = posted.event_id or event_id(**(posted._asdict() | {"occurred_at": at}))
        return LiveEvent(
            event_id=name,
            revision=OUTCOME if is_outcome and posted.label >= CLICKED else EVENT,  # no click: the show says that
            user_id=posted.user_id,
            item_id=posted.item_id,
            occurred_at=at,
            label=posted.label,
            role=ROLE_IMPRESSION,
            in_history=self.labels == "all" or posted.label >= CLICKED,
            impression_id=posted.impression_id,
            position=posted.position,
            session_id=posted.session_id,
        )


def as_events_of_their_own(events: Sequence[LiveEvent], known: Sequence[bool]) -> list[LiveEvent]:
    """Outcomes whose show is not logged (any more) become events that count as a show too. known: whether it is."""
    return [
        event if event.revision == EVENT or shown else event._replace(revision=EVENT)
        for event, shown in zip(events, known, strict=True)
    ]


def _iso(at: int) -> str:
    return (EPOCH + timedelta(microseconds=at)).isoformat().replace("+00:00", "Z")
