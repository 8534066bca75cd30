"""ASGI middleware for callbacks that run once an answer has been delivered, and only then.

An answer is not delivered if its time limit ended before (a 504 was sent instead) or the caller had disconnected.
"""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from typing import Any

from starlette.requests import Request

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Callback = Callable[[], None]

_came: ContextVar[float | None] = ContextVar("came", default=None)
_callbacks: ContextVar[list[Callback] | None] = ContextVar("callbacks", default=None)


def once_given(callback: Callback) -> None:
    """Run a callback when the answer to the current request has been delivered. It must not block.

    Outside this middleware it runs at once.
    """
    callbacks = _callbacks.get()
    if callbacks is None:
        callback()
    else:
        callbacks.append(callback)


def came_at() -> float:
    """Arrival of the current request (time.monotonic()), before its body was read; now, outside a request."""
    came = _came.get()
    return time.monotonic() if came is None else came


class Given:
    """Must wrap everything that reads the body, since it checks for a disconnected caller when the answer is ready."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request; run the callbacks after the last part of a 200."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        callbacks: list[Callback] = []
        status = 0

        async def delivered(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)
            is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
            is_given = (
                is_last and status == 200 and bool(callbacks) and not await Request(scope, receive).is_disconnected()
            )
            await send(message)
            if is_given:
                for callback in callbacks:
                    callback()

        tokens = _came.set(time.monotonic()), _callbacks.set(callbacks)
        try:
            return await self._app(scope, receive, delivered)
        finally:
            _came.reset(tokens[0])
            _callbacks.reset(tokens[1])
