"""The messages of POST /rank and POST /events. Invalid input raises ValidationError, which is answered with 400."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Annotated, Any, Literal, LiteralString, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, ValidationError, WithJsonSchema
from pydantic_core import InitErrorDetails, PydanticCustomError

from serving.params import ServeParams

TIME_TEXT = re.compile(r"[0-9TWZ:.,+ -]{1,40}")
"""The characters of a time. datetime.fromisoformat alone stops at a NUL and accepts any character before the hour."""
BYTES_OF_A_CHARACTER = 4
"""At most, in UTF-8."""
MAX_SUPPOSED = 100
"""How many clicks a request may suppose."""
EVENT_IDS = ("user_id", "item_id", "impression_id", "session_id", "event_id")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EARLIEST = datetime(1900, 1, 1, tzinfo=UTC) - EPOCH
LATEST = datetime(2200, 1, 1, tzinfo=UTC) - EPOCH


def to_microseconds(value: object) -> int:
    """An ISO 8601 time with a time zone -> microseconds since 1970 UTC. Anything else is a validation error."""
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
    """The value unchanged if it is a time. Not converted, because BentoML validates a validated message again."""
    to_microseconds(value)
    return value


def to_iso(microseconds: int) -> str:
    """Microseconds since 1970 UTC -> ISO 8601 with Z."""
    return (EPOCH + timedelta(microseconds=microseconds)).isoformat().replace("+00:00", "Z")


ID_PATTERN = r"^[^\x00-\x1f\x7f-\x9f]*$"
Id = Annotated[str, Field(strict=True, min_length=1, pattern=ID_PATTERN)]
"""The caller's own id. Control characters are refused here as features/terms/rules.py quarantines them in the log."""

A_TIME = {"type": "string", "format": "date-time", "examples": ["2024-01-31T12:00:00Z"]}
Time = Annotated[str, BeforeValidator(check_time), WithJsonSchema(A_TIME)]
"""A time with its time zone, as sent."""
Moment = Annotated[str, WithJsonSchema(A_TIME)]
"""A time in an answer."""


class Message(BaseModel):
    """The base of all messages: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @classmethod
    def unvalidated(cls, **values: Any) -> Self:
        """A message of trusted values, one for every field: model_construct without its loop over the fields, for
        objects of which an answer holds hundreds."""
        message, put = cls.__new__(cls), object.__setattr__
        put(message, "__dict__", values)
        put(message, "__pydantic_fields_set__", _fields(cls))
        put(message, "__pydantic_extra__", None)
        put(message, "__pydantic_private__", None)
        return message


@cache
def _fields(message: type[Message]) -> set[str]:
    """All fields; one set for all objects of a type, which pydantic copies where it changes it."""
    return set(message.model_fields)


class RequestContext(Message):
    """Where and for whom the ranking is shown. Used as features if the model was trained with statistics.context."""

    device: Id | None = None  # the kind of device, by its name in the log
    is_subscriber: Annotated[bool, Field(strict=True)] | None = None
    reading_item_id: Id | None = None  # the item on whose page the ranking is shown; null on a front page


Supposed = Annotated[list[Id], Field(max_length=MAX_SUPPOSED), FailFast()]
BESIDE = RUNNER_UP, PREVIOUS, NEWEST = "runner_up", "previous", "newest"
Beside = Literal["runner_up", "previous", "newest"]
"""A model that may be loaded beside the served one (beside.py)."""


class RankRequest(Message):
    """Rank `candidates` for a user. A candidate given twice is ranked once, as if only its first mention were there."""

    user_id: Id
    candidates: Annotated[list[Id], Field(min_length=1), FailFast()]
    k: Annotated[int, Field(strict=True, ge=1)] | None = None  # items wanted; null: all
    at: Time | None = None
    context: RequestContext | None = None
    preview: Annotated[bool, Field(strict=True)] = False  # true: nobody is shown the answer, so it is not recorded
    explain: Annotated[bool, Field(strict=True)] = False  # true: the first 50 items of the answer get reasons
    suppose: Supposed = []  # items to treat as just clicked, oldest first; such an answer is never recorded
    model: Beside | None = None  # a model loaded beside the served one (GET /info); its answer is never recorded


class ThemeShare(Message):
    """One of the user's current themes. name: the most frequent categories of the theme's items."""

    theme: int
    name: str
    share: float  # of the user's current interest


class Carried(Message):
    """An event of the history that raised an item's score. share: how much lower the logit would be without it."""

    item_id: str
    occurred_at: Moment
    share: float


class Reasons(Message):
    """Why an item has its score. The logit is log(score / (1 - score)).

    contributions add up to the logit: `base` comes from the item, its counters and the match of themes, without the
    history; `theme`, `short` and `global` are added by the experts of a mixture, `history` by a model without themes.
    history: at most 5 events that raised the logit, largest share first.
    """

    contributions: dict[str, float]
    history: list[Carried]


class RankedItem(Message):
    """One item of the answer."""

    item_id: str
    score: float  # the probability of a click
    theme: int | None  # the item's main theme; null if the model knows nothing of the item, or has no themes
    theme_name: str | None
    match: float | None  # in [0, 1]: how well the item's themes match the user's current ones; null without themes
    known: bool  # whether the item is in the model's vocabulary
    reasons: Reasons | None = None  # null unless `explain` was set


class HistoryView(Message):
    """The user's events known before `at`. With history.lag_s, younger events are not known yet."""

    known: bool  # whether the online store knows the user
    length: int
    newest_event_at: Moment | None
    store_away: bool = False  # true: the online store did not answer, so the user was ranked as unknown


class RankReply(Message):
    """The candidates, best first, and the inputs of the ranking."""

    user_id: str
    at: Moment
    items: list[RankedItem]
    themes: list[ThemeShare]
    history: HistoryView
    cold_start_user: bool  # no event of the user was known
    cold_start_items: list[str]  # candidates that the model ranks without an embedding of their own
    impression_id: str | None  # for events to cite; null if the answer is not recorded (`at`, `preview`, params)
    model_version: str
    snapshot_id: str


class EventIn(Message):
    """Something that happened. With an impression_id returned by /rank it is the outcome of an item that was shown.

    Any other impression_id groups the rows of one request of this user. An event_id is unique among all users.
    """

    user_id: Id
    item_id: Id
    occurred_at: Time | None = None  # null: now
    label: Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)] = 1.0  # 1 clicked, 0 only shown
    impression_id: Id | None = None
    position: Annotated[int, Field(strict=True, ge=0, lt=2**31)] | None = None
    session_id: Id | None = None
    event_id: Id | None = None  # null: derived from the event's content


class EventsRequest(Message):
    """Events, in any order. If one of them is refused, none is stored."""

    events: Annotated[list[EventIn], Field(min_length=1), FailFast()]


class EventFate(Message):
    """What became of one event."""

    event_id: str
    fate: str
    """new: stored; repeated: already stored, nothing changed; conflict: another event has this event_id, not stored;
    forgotten: its user asked to be forgotten, not stored; unlinked: stored as an event of its own, because the ranking
    that its impression_id names belongs to another user or is not known to this store."""
    differs: list[str] = []  # for a conflict: the fields in which the stored event differs from this one


class EventsReply(Message):
    """The fate of each event, in the request's order. They are durable now, and the next /rank reads them."""

    events: list[EventFate]
    num_new: int


def check_limits(request: RankRequest, limits: ServeParams) -> None:
    """Raise ValidationError if a request exceeds the bundle's limits."""
    check_num_candidates({"candidates": request.candidates}, limits)
    context = request.context or RequestContext()
    named = {("user_id",): request.user_id, ("candidates",): max(request.candidates, key=len)}
    named |= {("suppose",): max(request.suppose, key=len, default=None)}
    named |= {("context", name): getattr(context, name) for name in ("device", "reading_item_id")}
    for field, name in named.items():
        check_id(field, name, limits)


def check_event_limits(request: EventsRequest, limits: ServeParams) -> None:
    """Raise ValidationError if there are more events, or longer ids, than the bundle's limits allow."""
    check_num_events({"events": request.events}, limits)
    for place, event in enumerate(request.events):
        for name in EVENT_IDS:
            check_id(("events", place, name), getattr(event, name), limits, "EventsRequest")


def check_id(field: tuple[str | int, ...], name: str | None, limits: ServeParams, title: str = "RankRequest") -> None:
    """Raise ValidationError if an id is longer than the bundle's limits allow."""
    if name is not None and len(name) > limits.max_id_length:
        raise too_large(field, "an id has at most {limit} characters", limits.max_id_length, title)


def check_num_candidates(fields: Mapping[str, Any], limits: ServeParams) -> None:
    """Raise ValidationError if there are too many candidates. fields: of a request, validated or not."""
    if _length(fields.get("candidates")) > limits.max_candidates:
        raise too_large(("candidates",), "at most {limit} candidates are ranked at once", limits.max_candidates)


def check_num_events(fields: Mapping[str, Any], limits: ServeParams) -> None:
    """Raise ValidationError if there are too many events. fields: of a request, validated or not."""
    if _length(fields.get("events")) > limits.max_events:
        raise too_large(("events",), "at most {limit} events are taken at once", limits.max_events, "EventsRequest")


def refused_event(error: Exception) -> ValidationError:
    """The ValidationError for an event that a rule of the log refuses."""
    detail = InitErrorDetails(
        type=PydanticCustomError("refused_event", "{reason}", {"reason": str(error)}), loc=("events",), input=None
    )
    return ValidationError.from_exception_data("EventsRequest", [detail])


def max_body_bytes(limits: ServeParams) -> int:
    """The most bytes of UTF-8 that a /rank request within the limits can take, unless it escapes its characters."""
    return BYTES_OF_A_CHARACTER * (limits.max_candidates + MAX_SUPPOSED + 3) * (limits.max_id_length + 4) + 4096


def max_events_bytes(limits: ServeParams) -> int:
    """The most bytes of UTF-8 that a /events request within the limits can take."""
    ids = BYTES_OF_A_CHARACTER * len(EVENT_IDS) * (limits.max_id_length + 4)
    return limits.max_events * (ids + 512) + 4096


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list) else 0


def too_large(
    field: tuple[str | int, ...], message: LiteralString, limit: int, title: str = "RankRequest"
) -> ValidationError:
    """The ValidationError for a field that exceeds a limit; `message` refers to the limit as {limit}."""
    detail = InitErrorDetails(type=PydanticCustomError("too_large", message, {"limit": limit}), loc=field, input=None)
    return ValidationError.from_exception_data(title, [detail])
