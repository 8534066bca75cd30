"""What is to be done once an answer has been handed over, and is left undone where it was not: an ASGI middleware.

An answer is not given where its time was over before (a 504 went out in its place) or the caller had gone.
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
Deed = Callable[[], None]

_came: ContextVar[float | None] = ContextVar("came", default=None)
_deeds: ContextVar[list[Deed] | None] = ContextVar("deeds", default=None)


def once_given(deed: Deed) -> None:
    """Do something when the answer to the request at hand has been given. It must not wait for anything.

    Without this middleware around, an answer is given when it is returned: at once.
    """
    deeds = _deeds.get()
    if deeds is None:
        deed()
    else:
        deeds.append(deed)


def came_at() -> float:
    """When the request at hand came, of time.monotonic(): before its body was read."""
    came = _came.get()
    return time.monotonic() if came is None else came


class Given:
    """Around everything that reads the body: a caller's leaving is looked for when the answer is ready."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on; after the last part of a 200 do what was asked for."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        deeds: list[Deed] = []
        status = 0

        async def handed(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)
            is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
            is_given = is_last and status == 200 and bool(deeds) and not await Request(scope, receive).is_disconnected()
            await send(message)
            if is_given:
                for deed in deeds:
                    deed()

        tokens = _came.set(time.monotonic()), _deeds.set(deeds)
        try:
            return await self._app(scope, receive, handed)
        finally:
            _came.reset(tokens[0])
            _deeds.reset(tokens[1])
