"""HTTP requests to the service -> those that it can rank in time; the rest are answered 4xx with the reason.

BentoML reads forms and pickles too, bodies of any size at any pace, and queues without end: a malformed form is a 500
there, a slow body and a long queue are 504.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from email.message import Message
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

JSON = "application/json"
CLOSE = (b"connection", b"close")  # what is left of the body would be read as the next request


class Gate:
    """ASGI middleware over POST: UTF-8 JSON only, whole within body_timeout_s, at most max_body_bytes(path).

    max_in_flight: requests being answered at once, the one that computes and those that wait for it. One more is 429.
    """

    def __init__(
        self, app: App, max_body_bytes: Callable[[str], int], body_timeout_s: float, max_in_flight: int
    ) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._body_timeout_s = body_timeout_s
        self._max_in_flight = max_in_flight
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what can be parsed and ranked in time."""
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self._app(scope, receive, send)
        if reason := _unreadable(scope["headers"]):
            return await _refuse(send, 415, reason, CLOSE)
        limit = self._max_body_bytes(scope["path"])
        try:
            async with asyncio.timeout(self._body_timeout_s):
                body = await _read(receive, limit)
        except TimeoutError:
            reason = f"The body was not whole after {self._body_timeout_s:g} s. Send all of it at once."
            return await _refuse(send, 408, reason, CLOSE)
        if body is None:
            return None  # the caller has gone
        if len(body) > limit:
            reason = f"The body is larger than {limit:,} bytes, which fits every request."
            return await _refuse(send, 413, reason, CLOSE)
        if self._in_flight >= self._max_in_flight:
            reason = f"{self._in_flight} requests are being answered, the most at once. Try again later."
            return await _refuse(send, 429, reason)
        self._in_flight += 1
        try:
            return await self._app(scope, _replay(body, receive), send)
        finally:
            self._in_flight -= 1


def _unreadable(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Why a body with these headers is not read. Of a header given twice the first counts, as in BentoML."""
    first = {name: value.decode("latin-1") for name, value in reversed(list(headers))}
    content_type = first.get(b"content-type", JSON)
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type != JSON:
        return f"The body is {media_type[:100]!r}; this service reads {JSON}."
    described = Message()
    described["content-type"] = content_type
    charset = described.get_content_charset("utf-8")
    if charset not in ("utf-8", "utf8"):
        return f"The body is in charset {charset[:100]!r}; this service reads {JSON} in UTF-8."
    if first.get(b"content-encoding", "identity") != "identity":
        return "The body is compressed; this service reads plain JSON."
    return None


async def _read(receive: Receive, limit: int) -> bytes | None:
    """The body, or its first bytes where it is beyond the limit; None where the caller has gone."""
    body, more = bytearray(), True
    while more and len(body) <= limit:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> MutableMapping[str, Any]:
        return pending.pop() if pending else await receive()

    return replayed


async def _refuse(send: Send, status: int, reason: str, *more: tuple[bytes, bytes]) -> None:
    body = json.dumps({"error": reason}).encode()
    headers = [(b"content-type", JSON.encode()), (b"content-length", str(len(body)).encode()), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
