"""POST /events, and rankings that were shown -> live events in the online store. No HTTP here."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from contracts.errors import InputError
from features.encoding.asked import Context
from features.live.exposure import name_exposure, shows
from features.live.intake import Intake, Posted, as_events_of_their_own, differences, refuse_names_of_others
from features.online.store import OnlineStore, StaleStoreError
from features.sealed.event import Fate, LiveEvent
from features.terms.convention import micros
from features.terms.params import ValidateParams
from features.terms.rules import rules
from serving.answering.requests import (
    EventFate,
    EventIn,
    EventsReply,
    EventsRequest,
    check_event_limits,
    refused_event,
    to_microseconds,
)
from serving.params import ServeParams

CONFLICT = "conflict"
"""The fate of an event whose event_id is taken by another event of the same user, which stays as it is."""


def intake_of(store: OnlineStore) -> Intake:
    """Validates live events by the rules of the log that the store was loaded from."""
    stored = {"max_silence_s": None} | store.settings["validate"]  # of the whole log; stores of older versions lack it
    validate = ValidateParams.model_validate(stored)
    secret = store.tail.secret()
    return Intake(rules(validate), store.settings["labels"], validate.max_id_length, secret, store.keep_from)


def take(store: OnlineStore, intake: Intake, limits: ServeParams, request: EventsRequest, now: int) -> EventsReply:
    """Append all posted events, or none. now: the service's clock in us, used for events without occurred_at.

    Raises ValidationError naming the first refused event, and InputError if the store does not answer.
    """
    check_event_limits(request, limits)
    latest = now + micros(limits.max_future_s)
    posted = [_posted(event) for event in request.events]
    with _refusing():
        events = intake.read(posted, now, latest)
    held = store.tail.held([event.event_id for event in events])
    with _refusing():
        refuse_names_of_others(events, held)
    events = as_events_of_their_own(events, held)
    fates = store.append(events)
    outcomes = [
        EventFate.model_construct(
            event_id=event.event_id,
            fate=CONFLICT if differs and fate is Fate.REPEATED else _fate(fate, intake.is_unlinked(each)),
            differs=list(differs) if fate is Fate.REPEATED else [],
        )
        for event, fate, each, differs in zip(events, fates, posted, differences(posted, events, held), strict=True)
    ]
    return EventsReply.model_construct(events=outcomes, num_new=fates.count(Fate.NEW))


class Shown(NamedTuple):
    """A ranking to be recorded: its impression_id, and the rows that record it."""

    impression_id: str
    rows: list[LiveEvent]


def show(intake: Intake, user_id: str, items: Sequence[str], at: int, context: Context) -> Shown | None:
    """The rows that record a ranking as shown, one per item, best first. Nothing is written here.

    Ids that the log's rules would quarantine are left out; None if none is left.
    """
    taken = intake.takes("item_id", items)
    if not intake.takes("user_id", [user_id])[0] or not any(taken):
        return None
    name = name_exposure(user_id, at, intake.secret)
    rows = shows(name, user_id, at, items, context, in_history=intake.labels == "all")
    return Shown(name, [row for row, sound in zip(rows, taken, strict=True) if sound])


def keep(store: OnlineStore, shown: Shown) -> None:
    """Write a ranking to the live tail. Raises InputError if the store refuses it.

    If a newer load has replaced the open store, the rows still go to the tail, where the next store reads them.
    """
    try:
        store.append(shown.rows)
    except StaleStoreError:
        store.tail.append(shown.rows)


def _fate(fate: Fate, unlinked: bool) -> str:
    return "unlinked" if unlinked and fate is Fate.NEW else fate.name.lower()


@contextmanager
def _refusing() -> Iterator[None]:
    """A fault in a posted event is the caller's: InputError becomes ValidationError."""
    try:
        yield
    except InputError as error:
        raise refused_event(error) from error


def _posted(event: EventIn) -> Posted:
    return Posted(
        user_id=event.user_id,
        item_id=event.item_id,
        occurred_at=None if event.occurred_at is None else to_microseconds(event.occurred_at),
        label=event.label,
        impression_id=event.impression_id,
        position=event.position,
        session_id=event.session_id,
        event_id=event.event_id,
    )
