"""The messages of POST /rank and POST /events. What cannot be used is a ValidationError, a 400."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, LiteralString, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, ValidationError, WithJsonSchema
from pydantic_core import InitErrorDetails, PydanticCustomError

from serving.params import ServeParams

TIME_TEXT = re.compile(r"[0-9TWZ:.,+ -]{1,40}")
"""Of what a time is written. datetime.fromisoformat stops at a NUL and takes any sign between day and hour."""
BYTES_OF_A_CHARACTER = 4
"""At most, in UTF-8."""
MAX_SUPPOSED = 100
"""Clicks that a request may suppose."""
EVENT_IDS = ("user_id", "item_id", "impression_id", "session_id", "event_id")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EARLIEST = datetime(1900, 1, 1, tzinfo=UTC) - EPOCH
LATEST = datetime(2200, 1, 1, tzinfo=UTC) - EPOCH


def to_microseconds(value: object) -> int:
    """An ISO 8601 time with a time zone -> microseconds since 1970 UTC. What is none is a validation error."""
    if isinstance(value, str) and TIME_TEXT.fullmatch(value):
        try:
            delta = datetime.fromisoformat(value) - EPOCH
        except (TypeError, ValueError, OverflowError):  # TypeError: no time zone
            delta = None
        if delta is not None and EARLIEST <= delta <= LATEST:
            return delta // timedelta(microseconds=1)
    raise PydanticCustomError(
        "iso_time", "Input should be an ISO 8601 time of 1900 to 2199 with a time zone, such as 2024-01-31T12:00:00Z"
    )


def check_time(value: object) -> object:
    """The value itself where it is a time. Not converted: BentoML validates what it has validated once more."""
    to_microseconds(value)
    return value


def to_iso(microseconds: int) -> str:
    """Microseconds since 1970 UTC -> ISO 8601 with Z."""
    return (EPOCH + timedelta(microseconds=microseconds)).isoformat().replace("+00:00", "Z")


ID_PATTERN = r"^[^\x00-\x1f\x7f-\x9f]*$"
Id = Annotated[str, Field(strict=True, min_length=1, pattern=ID_PATTERN)]
"""The caller's own name of something. Control characters are what features/terms/rules.py holds back from the log."""

A_TIME = {"type": "string", "format": "date-time", "examples": ["2024-01-31T12:00:00Z"]}
Time = Annotated[str, BeforeValidator(check_time), WithJsonSchema(A_TIME)]
"""A time with its zone, as it was sent."""
Moment = Annotated[str, WithJsonSchema(A_TIME)]
"""A time that an answer says."""


class Message(BaseModel):
    """The base of what goes over the wire: a field that nobody knows is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @classmethod
    def made(cls, **values: Any) -> Self:
        """An answer of values that need no check, every field given: model_construct without its loop over the fields,
        for what an answer holds by the hundred."""
        message = cls.__new__(cls)
        object.__setattr__(message, "__dict__", values)
        object.__setattr__(message, "__pydantic_fields_set__", set(values))
        object.__setattr__(message, "__pydantic_extra__", None)
        object.__setattr__(message, "__pydantic_private__", None)
        return message


class RequestContext(Message):
    """What a request says of itself; features where the model was trained with statistics.context, else unused."""

    device: Id | None = None  # the log's own name of a kind of device
    is_subscriber: Annotated[bool, Field(strict=True)] | None = None
    reading_item_id: Id | None = None  # the item on whose page the ranking will stand; null on a front page


Supposed = Annotated[list[Id], Field(max_length=MAX_SUPPOSED), FailFast()]
BESIDE = RUNNER_UP, PREVIOUS, NEWEST = "runner_up", "previous", "newest"
Beside = Literal["runner_up", "previous", "newest"]
"""A model that may be loaded beside the served one (beside.py)."""


class RankRequest(Message):
    """Order `candidates` for a user. A candidate given twice is scored and answered once, at its first place."""

    user_id: Id
    candidates: Annotated[list[Id], Field(min_length=1), FailFast()]
    k: Annotated[int, Field(strict=True, ge=1)] | None = None  # answers wanted; null: all
    at: Time | None = None
    context: RequestContext | None = None
    preview: Annotated[bool, Field(strict=True)] = False  # true: nobody is shown the answer, so it is not remembered
    explain: Annotated[bool, Field(strict=True)] = False  # true: the first 50 items of the answer have their reasons
    suppose: Supposed = []  # items as if just clicked, oldest first: what would be ranked then; never remembered
    model: Beside | None = None  # one that is loaded beside the served one (GET /info); its answer is never remembered


class ThemeShare(Message):
    """One of the user's current themes. name: the commonest categories of the theme's items."""

    theme: int
    name: str
    share: float  # of the user's current interest


class Carried(Message):
    """An event of the history. share: by how much the item's logit would be lower without it."""

    item_id: str
    occurred_at: Moment
    share: float


class Reasons(Message):
    """Why an item has its score, whose logit is log(score / (1 - score)).

    contributions add up to the logit: `base` is what the item, its counters and the match of themes say where nothing
    of the history is read; `theme`, `short` and `global` are what the experts of a mixture add, `history` what a model
    without themes reads. history: at most 5 events that carried it, most first.
    """

    contributions: dict[str, float]
    history: list[Carried]


class RankedItem(Message):
    """One answer."""

    item_id: str
    score: float  # the probability of a click
    theme: int | None  # the item's own theme; null where the item is unknown, or the model has no themes
    theme_name: str | None
    match: float | None  # in [0, 1]: how far the item's themes are the user's current ones; null without themes
    known: bool  # the model's vocabulary holds the item
    reasons: Reasons | None = None  # null where not asked for


class HistoryView(Message):
    """What was known of the user strictly before `at` (less history.lag_s, where the model was trained with one)."""

    known: bool  # the online store holds the user
    length: int
    newest_event_at: Moment | None
    store_away: bool = False  # the online store did not answer: nothing is known of anybody until it does


class RankReply(Message):
    """The caller's own ids, best first, and what the answer rests on."""

    user_id: str
    at: Moment
    items: list[RankedItem]
    themes: list[ThemeShare]
    history: HistoryView
    cold_start_user: bool  # nothing was known of the user
    cold_start_items: list[str]  # candidates that the model ranks without an embedding of their own
    impression_id: str | None  # what events cite; null where the answer is not remembered (`at`, `preview`, params)
    model_version: str
    snapshot_id: str


class EventIn(Message):
    """Something that happened. With an impression_id that /rank gave it is the outcome of an item that was shown.

    Any other impression_id groups the rows of one request of this user. An event_id names an event among all users.
    """

    user_id: Id
    item_id: Id
    occurred_at: Time | None = None  # null: now
    label: Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)] = 1.0  # 1 clicked, 0 shown and not
    impression_id: Id | None = None
    position: Annotated[int, Field(strict=True, ge=0, lt=2**31)] | None = None
    session_id: Id | None = None
    event_id: Id | None = None  # null: made of what the event says


class EventsRequest(Message):
    """Events, in any order. All of them are taken or, where one cannot be, none."""

    events: Annotated[list[EventIn], Field(min_length=1), FailFast()]


class EventFate(Message):
    """What became of one event."""

    event_id: str
    fate: str
    """new; repeated: held already, nothing changed; conflict: another event has the event_id, this one is not kept;
    forgotten: its user asked to be, not kept; unlinked: new, an event of its own, for the ranking that its
    impression_id names is of another user, or not known to this store."""
    differs: list[str] = []  # of a conflict: the fields in which the event that was there first says otherwise


class EventsReply(Message):
    """In the order given. Durable once this is received, and seen by the next /rank."""

    events: list[EventFate]
    num_new: int


def check_limits(request: RankRequest, limits: ServeParams) -> None:
    """Raise ValidationError where a request is larger than the bundle's limits."""
    check_num_candidates({"candidates": request.candidates}, limits)
    told = request.context or RequestContext()
    named = {("user_id",): request.user_id, ("candidates",): max(request.candidates, key=len)}
    named |= {("suppose",): max(request.suppose, key=len, default=None)}
    named |= {("context", name): getattr(told, name) for name in ("device", "reading_item_id")}
    for field, name in named.items():
        check_id(field, name, limits)


def check_event_limits(request: EventsRequest, limits: ServeParams) -> None:
    """Raise ValidationError where there are more or longer events than the bundle's limits allow."""
    check_num_events({"events": request.events}, limits)
    for place, event in enumerate(request.events):
        for name in EVENT_IDS:
            check_id(("events", place, name), getattr(event, name), limits, "EventsRequest")


def check_id(field: tuple[str | int, ...], name: str | None, limits: ServeParams, title: str = "RankRequest") -> None:
    """Raise ValidationError where an id is longer than the bundle's limits allow."""
    if name is not None and len(name) > limits.max_id_length:
        raise too_large(field, "an id has at most {limit} characters", limits.max_id_length, title)


def check_num_candidates(told: Mapping[str, Any], limits: ServeParams) -> None:
    """Raise ValidationError where there are too many. told: the fields of a request, checked or not."""
    if _length(told.get("candidates")) > limits.max_candidates:
        raise too_large(("candidates",), "at most {limit} candidates are ranked at once", limits.max_candidates)


def check_num_events(told: Mapping[str, Any], limits: ServeParams) -> None:
    """The same of events."""
    if _length(told.get("events")) > limits.max_events:
        raise too_large(("events",), "at most {limit} events are taken at once", limits.max_events, "EventsRequest")


def refused_event(error: Exception) -> ValidationError:
    """The ValidationError of an event that a rule of the log refuses."""
    detail = InitErrorDetails(
        type=PydanticCustomError("refused_event", "{reason}", {"reason": str(error)}), loc=("events",), input=None
    )
    return ValidationError.from_exception_data("EventsRequest", [detail])


def max_body_bytes(limits: ServeParams) -> int:
    """The largest body of UTF-8 that a request within the limits needs. One that escapes every character has fewer."""
    return BYTES_OF_A_CHARACTER * (limits.max_candidates + MAX_SUPPOSED + 3) * (limits.max_id_length + 4) + 4096


def max_events_bytes(limits: ServeParams) -> int:
    """The same of POST /events."""
    ids = BYTES_OF_A_CHARACTER * len(EVENT_IDS) * (limits.max_id_length + 4)
    return limits.max_events * (ids + 512) + 4096


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list) else 0


def too_large(
    field: tuple[str | int, ...], message: LiteralString, limit: int, title: str = "RankRequest"
) -> ValidationError:
    """The ValidationError of a field that is beyond a limit, which the message names as {limit}."""
    detail = InitErrorDetails(type=PydanticCustomError("too_large", message, {"limit": limit}), loc=field, input=None)
    return ValidationError.from_exception_data(title, [detail])
