"""Error answers of any component (routers, probes, BentoML) -> this service's one form of error."""

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from http import HTTPStatus
from typing import Any

from contracts.errors import MAX_MESSAGE, shorten
from serving.answering.refusal import JSON, MAX_NAME, Refusal, read_refusal

log = logging.getLogger("leitmotif")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

KEPT = (b"allow", b"retry-after", b"www-authenticate")
"""Headers of a foreign error answer that are kept; length and type are replaced."""


class InTime:
    """ASGI middleware: a request without an answer after limit_s gets a 504, one that raises gets a 500."""

    def __init__(self, app: App, limit_s: float) -> None:
        self._app = app
        self._limit_s = limit_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. The limit ends when the answer starts."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def noted(message: MutableMapping[str, Any]) -> None:
            nonlocal begun
            begun = True
            if not limit.expired():
                limit.reschedule(None)
            await send(message)

        refusal = Refusal(500, "The service failed to answer; its log says why. Send it again later.")
        try:
            async with asyncio.timeout(self._limit_s) as limit:
                await self._app(scope, receive, noted)
                return
        except Exception as error:
            if begun:
                raise
            if isinstance(error, TimeoutError) and limit.expired():
                refusal = Refusal(504, f"There was no answer within {self._limit_s:g} s. Send it again later.")
            else:
                log.exception("A request failed")
        await refuse(send, refusal)


async def refuse(send: Send, refusal: Refusal, more: Sequence[Header] = (), is_whole: bool = True) -> None:
    """Send a refusal. is_whole: whether the body ends here."""
    headers, body = prepared(refusal)
    await send({"type": "http.response.start", "status": refusal.status, "headers": [*headers, *more]})
    await send({"type": "http.response.body", "body": body, "more_body": not is_whole})


def prepared(refusal: Refusal) -> tuple[list[Header], bytes]:
    """Headers and body of a refusal."""
    body = refusal.body()
    own = [(name.encode(), value.encode()) for name, value in refusal.headers().items()]
    return [(b"content-type", JSON.encode()), (b"content-length", str(len(body)).encode()), *own], body


def in_one_form(scope: Scope, send: Send, ways: str) -> Send:
    """A `send` that converts error answers of other components to our form and passes all else on.

    ways: sentence that lists the routes, for a 404.
    """
    start: MutableMapping[str, Any] = {}
    text = bytearray()

    async def sent(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            start.update(message)
            return
        if not start:
            await send(message)
            return
        text.extend(message.get("body", b""))
        if message["type"] != "http.response.body" or message.get("more_body", False):
            return
        if read_refusal(bytes(text)):
            await send(start)
            await send({"type": "http.response.body", "body": bytes(text)})
            return
        kept = [(name, value) for name, value in start["headers"] if name.lower() in KEPT]
        status = start["status"]
        await refuse(send, Refusal(status, _in_words(scope, status, kept, ways) or _said(bytes(text), status)), kept)

    return sent


def _in_words(scope: Scope, status: int, kept: Sequence[Header], ways: str) -> str | None:
    path = shorten(scope["path"], MAX_NAME)
    if status == 404:
        return f"There is nothing at {path}. {ways}"
    if status == 405:
        allowed = ", ".join(value.decode() for name, value in kept if name.lower() == b"allow")
        return f"{path} takes {allowed}, not {scope['method']}."
    return None


def _said(text: bytes, status: int) -> str:
    """The text of a foreign error answer: plain text, or BentoML's `{"error": text}` or `[{"error": text}]`."""
    said: Any = text.decode(errors="replace")
    with contextlib.suppress(ValueError, RecursionError):
        parsed = json.loads(text)
        parsed = parsed[0] if isinstance(parsed, list) and parsed else parsed
        said = parsed["error"] if isinstance(parsed, dict) and isinstance(parsed.get("error"), str) else said
    return shorten(" ".join(said.split()), 3 * MAX_MESSAGE) or HTTPStatus(status).phrase
