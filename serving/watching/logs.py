"""LEITMOTIF_LOG -> what the service says of itself: lines for people, or JSON with the id of each request.

No line names a user or an item: ids are in the bodies of requests, and of these nothing is logged.
"""

import logging
import os
import time

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from contracts.errors import InputError
from serving.watching.seen import Seen, seen

VARIABLE = "LEITMOTIF_LOG"
TEXT, JSON = "text", "json"
FIELDS = ("levelname", "name", "message")
OF_BENTOML = ("levelname_bracketed", "component", "trace_msg", "request_id", "service_name")
"""What BentoML adds to each record for lines of its own; its request_id is none of ours."""
RENAMED = {"levelname": "level", "name": "logger", "timestamp": "at"}

log = logging.getLogger("leitmotif.request")


class _WithRequest(JsonFormatter):
    """A line knows the request that it was written in."""

    def add_fields(self, log_data: dict, record: logging.LogRecord, message_dict: dict) -> None:
        super().add_fields(log_data, record, message_dict)
        if request_id := seen().request_id:
            log_data["request_id"] = request_id


def chosen() -> str:
    """How lines are written. Raises InputError where the environment says what is none of them."""
    told = os.environ.get(VARIABLE) or TEXT
    if told not in (TEXT, JSON):
        raise InputError(f"{VARIABLE} is {told!r}. Set it to {TEXT} or {JSON}.")
    return told


def start() -> None:
    """In a worker, whose handlers BentoML has made: give them JSON to write where that is wanted."""
    if chosen() == TEXT:
        return
    left_out = [*RESERVED_ATTRS, *OF_BENTOML]
    formatter = _WithRequest(FIELDS, rename_fields=RENAMED, timestamp=True, reserved_attrs=left_out)
    for name in (None, "bentoml", "uvicorn.error"):
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(formatter)
    log.setLevel(logging.INFO)


def log_request(request: Seen, method: str, status: int, took_s: float) -> None:
    """One line a request, as JSON only: to people each would be noise."""
    if not log.isEnabledFor(logging.INFO):
        return
    told = {
        "route": request.route,
        "method": method,
        "status": status,
        "took_ms": round(1e3 * took_s, 3),
    }
    if request.cause is not None:
        told["cause"] = request.cause
    if request.spent is not None:
        told["stages_ms"] = {name: round(1e3 * spent, 3) for name, spent in request.spent.seconds().items()}
    log.info("%s %s", method, request.route, extra=told)


def wall_clock() -> float:
    """Seconds since 1970 of a moment that time.perf_counter() names, less that moment."""
    return time.time() - time.perf_counter()
