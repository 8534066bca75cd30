"""Why a request is not answered -> the one JSON form in which the service says so.

`{"error": {"code": one word, "message": one sentence that says what to do, "field": the path of what is at fault, or
null}}`, for every status of every route.
"""

import json
from typing import NamedTuple

from pydantic import ValidationError

from contracts.errors import MAX_MESSAGE, shorten

JSON = "application/json"
CODES = {
    400: "invalid_request",
    401: "no_token",
    403: "not_allowed",
    404: "not_found",
    405: "method_not_allowed",
    408: "body_too_slow",
    413: "body_too_large",
    415: "not_json",
    421: "unknown_host",
    429: "busy",
    500: "failed",
    503: "unavailable",
    504: "too_slow",
}
RETRY_AFTER_S = {429: 1, 503: 1}
"""What may be asked again, and after how many seconds where the refusal does not say."""
MAX_NAME = 64
"""Characters of a name that a caller sent which an answer repeats."""
OWN_WORDS = {
    "model_type": "Input should be a JSON object",
    "string_pattern_mismatch": "Ids have no control characters",
    "string_unicode": "Input should be JSON text, which a lone surrogate is not",
}
"""Where pydantic speaks of Python or of patterns."""


class Told(NamedTuple):
    """What an answer says of a refusal."""

    code: str
    message: str
    field: str | None


class Refusal(Exception):
    """A request that is not answered, and why. field: the path of what is at fault, such as `events.3.item_id`.

    cause: one word for whoever counts, where the code is that of others too.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        field: str | None = None,
        retry_after_s: int | None = None,
        cause: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.cause = cause
        self.status = status
        self.reason = reason
        self.field = field
        self.retry_after_s = RETRY_AFTER_S.get(status) if retry_after_s is None else retry_after_s

    def body(self) -> bytes:
        """The answer."""
        told = Told(CODES.get(self.status, "refused"), self.reason, self.field)
        return json.dumps({"error": told._asdict()}, separators=(",", ":")).encode()

    def headers(self) -> dict[str, str]:
        """Beside those that every answer has."""
        told = {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}
        return told | ({"www-authenticate": "Bearer"} if self.status == 401 else {})


def read_refusal(body: bytes) -> Told | None:
    """What such an answer says; None where it is none."""
    try:
        told = json.loads(body)["error"]
        found = Told(told["code"], told["message"], told["field"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    texts = (found.code, found.message, "" if found.field is None else found.field)
    return found if all(isinstance(each, str) for each in texts) else None


def of_validation(error: ValidationError) -> Refusal:
    """The first error of a message, in a sentence that repeats little of what was sent."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    kind, place = errors[0]["type"], errors[0]["loc"]
    field = ".".join(shorten(part, MAX_NAME) if isinstance(part, str) else str(part) for part in place)
    said = shorten(OWN_WORDS.get(kind, errors[0]["msg"]), MAX_MESSAGE)
    more = f" ({len(errors) - 1:,} more errors)" if len(errors) > 1 else ""
    is_placed = bool(field) and kind != "refused_event"  # a rule of the log names the event itself
    return Refusal(400, f"{field}: {said}{more}" if is_placed else f"{said}{more}", field or None)
