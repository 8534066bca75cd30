"""An answer of whoever gave it -> where it refuses something, the one form in which this service refuses."""

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
"""Headers of a refusal in other words that stay; its length and type are those of its body."""


class InTime:
    """ASGI middleware: a request that has no answer after limit_s is given up with a 504, one that fails is a 500."""

    def __init__(self, app: App, limit_s: float) -> None:
        self._app = app
        self._limit_s = limit_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on. What has begun to answer is left to its end."""
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
    """Answer. is_whole: the body ends here."""
    body = refusal.body()
    own = [(name.encode(), value.encode()) for name, value in refusal.headers().items()]
    length = [(b"content-type", JSON.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": refusal.status, "headers": [*length, *own, *more]})
    await send({"type": "http.response.body", "body": body, "more_body": not is_whole})


def in_one_form(scope: Scope, send: Send, ways: str) -> Send:
    """Refusals of routers, probes and BentoML, whatever their words, in the form of ours; all else as it is.

    ways: what there is to ask for.
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
    """What another's answer says: a plain text, or BentoML's `{"error": text}` or `[{"error": text}]`."""
    said: Any = text.decode(errors="replace")
    with contextlib.suppress(ValueError, RecursionError):
        told = json.loads(text)
        told = told[0] if isinstance(told, list) and told else told
        said = told["error"] if isinstance(told, dict) and isinstance(told.get("error"), str) else said
    return shorten(" ".join(said.split()), 3 * MAX_MESSAGE) or HTTPStatus(status).phrase
