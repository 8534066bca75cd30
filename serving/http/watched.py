"""The outermost ASGI middleware: gives each request an id, counts and times it by route, logs and traces it.

The caller's `x-request-id` is used if it is a single word; every answer carries the id.
"""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from serving.answering.refusal import CODES
from serving.watching import metrics
from serving.watching.logs import log_request
from serving.watching.seen import UNWATCHED, Seen, request_id_of, route_of, watch
from serving.watching.traces import Traces

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADER = b"x-request-id"
LEFT = 499
"""Status of a caller who disconnected before the answer; not an HTTP status, but that of nginx."""


class Watched:
    """traces: called at each request, since the worker's traces do not exist yet when the app is built."""

    def __init__(self, app: App, traces: Callable[[], Traces | None]) -> None:
        self._app = app
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request and record it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = next((value for name, value in scope["headers"] if name == HEADER), b"").decode("latin-1")
        request, status = Seen(request_id_of(given), route_of(scope["path"])), LEFT
        watch(request)

        async def named(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (HEADER, request.request_id.encode())]
            await send(message)

        metrics.IN_FLIGHT.inc()
        try:
            return await self._app(scope, receive, named)
        finally:
            metrics.IN_FLIGHT.dec()
            self._tell(scope, request, status)

    def _tell(self, scope: Scope, request: Seen, status: int) -> None:
        took_s = time.perf_counter() - request.began
        metrics.counted_request(request.route, status).inc()
        if status >= 400:
            metrics.counted_refusal(request.cause or CODES.get(status, "left")).inc()
        if request.route in UNWATCHED:
            return
        if status != 429:  # the time of a refusal is that of its turn (crowd.py), which is no latency
            metrics.timed_request(request.route).observe(took_s)
        log_request(request, scope["method"], status, took_s)
        if (traces := self._traces()) is not None:
            traces.tell(scope, request, status, took_s)
