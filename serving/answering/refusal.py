"""A refused request -> its error body, the same JSON for every status of every route.

`{"error": {"code": one word, "message": one sentence that says what to do, "field": path of the faulty field, or
null}}`.
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
"""Statuses worth retrying, with the seconds to wait if the refusal does not set them."""
MAX_NAME = 64
"""How many characters of a name sent by the caller an error repeats."""
OWN_WORDS = {
    "model_type": "Input should be a JSON object",
    "string_pattern_mismatch": "Ids have no control characters",
    "string_unicode": "Input should be JSON text, which a lone surrogate is not",
}
"""Replaces messages of pydantic that mention Python or regular expressions."""


class ErrorBody(NamedTuple):
    """The `error` object of a refusal."""

    code: str
    message: str
    field: str | None


class Refusal(Exception):
    """Raised to refuse a request. field: the path of the faulty field, such as `events.3.item_id`.

    cause: one word that tells refusals with the same code apart in metrics.
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
        """The JSON body of the answer."""
        error = ErrorBody(CODES.get(self.status, "refused"), self.reason, self.field)
        return json.dumps({"error": error._asdict()}, separators=(",", ":")).encode()

    def headers(self) -> dict[str, str]:
        """Headers in addition to those of every answer."""
        extra = {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}
        return extra | ({"www-authenticate": "Bearer"} if self.status == 401 else {})


def read_refusal(body: bytes) -> ErrorBody | None:
    """The error in an answer's body; None if the body is not that of a refusal."""
    try:
        fields = json.loads(body)["error"]
        error = ErrorBody(fields["code"], fields["message"], fields["field"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    texts = (error.code, error.message, "" if error.field is None else error.field)
    return error if all(isinstance(each, str) for each in texts) else None


def of_validation(error: ValidationError) -> Refusal:
    """A 400 with the first error of a message, in one sentence that repeats little of what was sent."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    kind, place = errors[0]["type"], errors[0]["loc"]
    field = ".".join(shorten(part, MAX_NAME) if isinstance(part, str) else str(part) for part in place)
    message = shorten(OWN_WORDS.get(kind, errors[0]["msg"]), MAX_MESSAGE)
    more = f" ({len(errors) - 1:,} more errors)" if len(errors) > 1 else ""
    is_placed = bool(field) and kind != "refused_event"  # messages of refused events name the event themselves
    return Refusal(400, f"{field}: {message}{more}" if is_placed else f"{message}{more}", field or None)
