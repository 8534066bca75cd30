"""LEITMOTIF_LOG -> the form of the service's log: text lines, or JSON lines with the id of each request.

No line names a user or an item: bodies of requests are not logged, and paths only as routes.
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
"""Fields that BentoML adds to each record; its request_id is not ours."""
RENAMED = {"levelname": "level", "name": "logger", "timestamp": "at"}

log = logging.getLogger("leitmotif.request")


class _WithRequest(JsonFormatter):
    """Adds the id of the current request to each line."""

    def add_fields(self, log_data: dict, record: logging.LogRecord, message_dict: dict) -> None:
        super().add_fields(log_data, record, message_dict)
        if request_id := seen().request_id:
            log_data["request_id"] = request_id


def chosen() -> str:
    """The form of the log. Raises InputError for an unknown one."""
    form = os.environ.get(VARIABLE) or TEXT
    if form not in (TEXT, JSON):
        raise InputError(f"{VARIABLE} is {form!r}. Set it to {TEXT} or {JSON}.")
    return form


def start() -> None:
    """In a worker: let the handlers that BentoML has made write JSON, if chosen."""
    if chosen() == TEXT:
        return
    left_out = [*RESERVED_ATTRS, *OF_BENTOML]
    formatter = _WithRequest(FIELDS, rename_fields=RENAMED, timestamp=True, reserved_attrs=left_out)
    for name in (None, "bentoml", "uvicorn.error"):
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(formatter)
    log.setLevel(logging.INFO)


def log_request(request: Seen, method: str, status: int, took_s: float) -> None:
    """Write one line per request, as JSON only; in a text log it would be noise."""
    if not log.isEnabledFor(logging.INFO):
        return
    fields = {
        "route": request.route,
        "method": method,
        "status": status,
        "took_ms": round(1e3 * took_s, 3),
    }
    if request.cause is not None:
        fields["cause"] = request.cause
    if request.spent is not None:
        fields["stages_ms"] = {name: round(1e3 * spent, 3) for name, spent in request.spent.seconds().items()}
    log.info("%s %s", method, request.route, extra=fields)


def wall_clock() -> float:
    """The offset from time.perf_counter() to seconds since 1970."""
    return time.time() - time.perf_counter()
