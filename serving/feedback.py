"""POST /events and what rankings showed -> live events in the online store. No HTTP here."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from contracts.errors import InputError
from features.asked import Context
from features.convention import micros
from features.exposure import name_exposure, shows
from features.intake import Intake, Posted, as_events_of_their_own, differences, refuse_names_of_others
from features.live_event import Fate
from features.online import OnlineStore
from features.params import ValidateParams
from features.rules import rules
from serving.params import ServeParams
from serving.requests import (
    EventFate,
    EventIn,
    EventsReply,
    EventsRequest,
    check_event_limits,
    refused_event,
    to_microseconds,
)

CONFLICT = "conflict"
"""The fate of an event whose event_id names another event of its user, which stays as it was."""


def intake_of(store: OnlineStore) -> Intake:
    """Live events are judged as the log that was loaded."""
    validate = ValidateParams.model_validate(store.settings["validate"])
    return Intake(rules(validate), store.settings["labels"], validate.max_id_length, store.tail.secret())


def take(store: OnlineStore, intake: Intake, limits: ServeParams, request: EventsRequest, now: int) -> EventsReply:
    """Append what was posted, all or none. now: us, the time of an event that tells none.

    Raises ValidationError naming the first event that is refused, InputError where the store does not answer.
    """
    check_event_limits(request, limits)
    latest = max(now, time.time_ns() // 1000) + micros(limits.max_future_s)
    posted = [_posted(event) for event in request.events]
    with _refusing():
        events = intake.read(posted, now, latest)
    held = store.tail.held([event.event_id for event in events])
    with _refusing():
        refuse_names_of_others(events, held)
    events = as_events_of_their_own(events, held)
    fates = store.append(events)
    told = [
        EventFate.model_construct(
            event_id=event.event_id,
            fate=CONFLICT if differs and fate is Fate.REPEATED else fate.name.lower(),
            differs=list(differs) if fate is Fate.REPEATED else [],
        )
        for event, fate, differs in zip(events, fates, differences(posted, events, held), strict=True)
    ]
    return EventsReply.model_construct(events=told, num_new=fates.count(Fate.NEW))


def remember(
    store: OnlineStore, intake: Intake, user_id: str, shown: Sequence[str], at: int, context: Context
) -> str | None:
    """Log what a ranking showed, one row an item, best first. Returns the impression_id that its outcomes cite.

    Ids that the log's rules would hold back are not logged: None where nothing is left.
    """
    taken = intake.takes("item_id", shown)
    if not intake.takes("user_id", [user_id])[0] or not any(taken):
        return None
    name = name_exposure(user_id, at, intake.secret)
    rows = shows(name, user_id, at, shown, context, in_history=intake.labels == "all")
    store.append([row for row, sound in zip(rows, taken, strict=True) if sound])
    return name


@contextmanager
def _refusing() -> Iterator[None]:
    """What is wrong with an event is the caller's: a ValidationError."""
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
