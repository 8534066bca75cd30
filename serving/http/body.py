"""The bytes of a POST -> a validated message or a Refusal, in time and memory proportional to their number.

pydantic's JSON parser takes 500 bytes for each empty object and renders every error of a list, so it is not used.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from contracts.errors import shorten
from serving.answering.recommend import RecommendRequest, max_recommend_bytes
from serving.answering.refusal import MAX_NAME, Refusal, of_validation
from serving.answering.requests import (
    EventsRequest,
    Message,
    RankRequest,
    check_num_candidates,
    check_num_events,
    max_body_bytes,
    max_events_bytes,
)
from serving.params import ServeParams

MAX_KEYS = 32
"""Keys of one object; no message has half as many."""
MAX_NESTED = 64
"""Lists and objects of a request besides one per event."""

AnyMessage = TypeVar("AnyMessage", bound=Message)


class Kind(NamedTuple):
    """The message that a path accepts, and its limits."""

    message: type[Message]
    max_bytes: Callable[[ServeParams], int]
    check_number: Callable[
        [Mapping[str, Any], ServeParams], None
    ]  # checks the number of list entries before their content


def _lists_nothing(_: Mapping[str, Any], __: ServeParams) -> None:
    """No check: the message has no list."""


KINDS = {
    "/rank": Kind(RankRequest, max_body_bytes, check_num_candidates),
    "/recommend": Kind(RecommendRequest, max_recommend_bytes, _lists_nothing),
    "/events": Kind(EventsRequest, max_events_bytes, check_num_events),
}


def read_message(kind: Kind, body: bytes, limits: ServeParams) -> Message:
    """Parse and validate a body. Raises Refusal. The length of ids is checked later, where they are used."""
    value = parse(body or b"{}", limits.max_events + MAX_NESTED)
    try:
        if isinstance(value, dict):
            kind.check_number(value, limits)
        return kind.message.model_validate(value)
    except ValidationError as error:
        raise of_validation(error) from None


def parse(body: bytes, max_nested: int) -> Any:
    """Parse JSON strictly: no duplicate keys, no deep nesting. Raises Refusal."""
    _check_nested(body, max_nested)
    try:
        return json.loads(body.decode(), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        reason = f"not UTF-8 at byte {error.start:,}"
    except RecursionError:
        reason = "nested too deeply"
    except json.JSONDecodeError as error:
        reason = f"not valid at character {error.pos:,}: {error.msg}"
    except ValueError:
        reason = "not valid: a number has too many digits"
    raise Refusal(400, f"The body is not readable JSON: {reason}.")


def _check_nested(body: bytes, limit: int) -> None:
    """Refuse bodies with too many objects and lists. Brackets inside strings do not count."""
    if body.count(b"{") + body.count(b"[") <= limit:
        return
    outside = b"".join(body.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2])
    if (number := outside.count(b"{") + outside.count(b"[")) > limit:
        raise Refusal(
            400, f"The body has {number:,} JSON objects and lists, at most {limit:,} are read. Send less at once."
        )


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(pairs) > MAX_KEYS:
        raise Refusal(400, f"An object of the body has {len(pairs):,} keys; at most {MAX_KEYS} are read.")
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Refusal(400, f"The key {shorten(twice, MAX_NAME)!r} is given twice in one object. Send it once.")
    return content
