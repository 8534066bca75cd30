"""Why a request is not answered -> the one JSON form in which the service says so.

`{"error": one sentence, "code": one word, "detail": [{"loc", "msg", "type"}]}`; detail only where a field is at fault.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from contracts.errors import MAX_MESSAGE, shorten

JSON = "application/json"
CODES = {
    400: "invalid_request",
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
MAX_ERRORS = 20
"""Of one answer: who sent more knows by then."""
MAX_NAME = 64
"""Characters of a name that a caller sent which an answer repeats."""
OWN_WORDS = {
    "model_type": "Input should be a JSON object",
    "string_pattern_mismatch": "Ids have no control characters",
    "string_unicode": "Input should be JSON text, which a lone surrogate is not",
}
"""Where pydantic speaks of Python or of patterns."""


class Refusal(Exception):
    """A request that is not answered, and why."""

    def __init__(self, status: int, reason: str, detail: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.detail = detail

    def body(self) -> bytes:
        """The answer."""
        content: dict[str, Any] = {"error": self.reason, "code": CODES.get(self.status, "refused")}
        if self.detail:
            content["detail"] = self.detail
        return json.dumps(content, separators=(",", ":")).encode()


def of_validation(error: ValidationError) -> Refusal:
    """The first errors of a message, in sentences that repeat little of what was sent."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    detail = [
        {
            "type": each["type"],
            "loc": [shorten(part, MAX_NAME) if isinstance(part, str) else part for part in each["loc"]],
            "msg": shorten(OWN_WORDS.get(each["type"], each["msg"]), MAX_MESSAGE),
        }
        for each in errors[:MAX_ERRORS]
    ]
    place = ".".join(map(str, detail[0]["loc"]))
    more = f" ({len(errors) - 1} more in detail)" if len(errors) > 1 else ""
    said = detail[0]["msg"]
    is_placed = bool(place) and detail[0]["type"] != "refused_event"  # a rule of the log names the event itself
    return Refusal(400, f"{place}: {said}{more}" if is_placed else f"{said}{more}", detail)
