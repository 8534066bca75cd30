"""The bytes of a POST -> a checked message, in time and memory that their number bounds; else a Refusal that says why.

pydantic's own reader of JSON takes 500 bytes for each empty object, and renders every error of a list.
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
"""Of one object: no message has half as many."""
MAX_NESTED = 64
"""Lists and objects of a request beside those of its events."""

AnyMessage = TypeVar("AnyMessage", bound=Message)


class Kind(NamedTuple):
    """What may be posted to a path."""

    message: type[Message]
    max_bytes: Callable[[ServeParams], int]
    check_number: Callable[[Mapping[str, Any], ServeParams], None]  # of what it lists, before each is looked at


def _lists_nothing(_: Mapping[str, Any], __: ServeParams) -> None:
    """There is nothing to count."""


KINDS = {
    "/rank": Kind(RankRequest, max_body_bytes, check_num_candidates),
    "/recommend": Kind(RecommendRequest, max_recommend_bytes, _lists_nothing),
    "/events": Kind(EventsRequest, max_events_bytes, check_num_events),
}


def read_message(kind: Kind, body: bytes, limits: ServeParams) -> Message:
    """Raises Refusal. Ids of any length pass: what they are used for checks them."""
    value = parse(body or b"{}", limits.max_events + MAX_NESTED)
    try:
        if isinstance(value, dict):
            kind.check_number(value, limits)
        return kind.message.model_validate(value)
    except ValidationError as error:
        raise of_validation(error) from None


def parse(body: bytes, max_nested: int) -> Any:
    """JSON without what readers of JSON read differently. Raises Refusal."""
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
        reason = "not valid: it has a number of too many digits"
    raise Refusal(400, f"The body is not JSON that can be read: {reason}.")


def _check_nested(body: bytes, limit: int) -> None:
    """Refuse what would cost much to build. Brackets inside of strings do not count."""
    if body.count(b"{") + body.count(b"[") <= limit:
        return
    outside = b"".join(body.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2])
    if (number := outside.count(b"{") + outside.count(b"[")) > limit:
        raise Refusal(
            400, f"The body is JSON of {number:,} objects and lists; at most {limit:,} are read. Send less at once."
        )


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(pairs) > MAX_KEYS:
        raise Refusal(400, f"An object of the body has {len(pairs):,} keys; at most {MAX_KEYS} are read.")
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise Refusal(400, f"The key {shorten(twice, MAX_NAME)!r} stands twice in one object. Send it once.")
    return made
