"""POSTs while all places are taken -> a 429 that costs the worker little, without looking at host, token or body.

Callers who ask again at once would still take the worker's core from those who are admitted. So refusals are paced: one
alone is sent at once, of many each waits for its turn.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache
from typing import Any

from serving.http.admission import Admission, full
from serving.http.body import KINDS
from serving.http.form import prepared

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Header = tuple[bytes, bytes]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PER_S = 100.0
"""Refusals a second: .16 ms of CPU time each, so 2 % of a core."""
MAX_WAIT_S = 0.5
"""How long a refusal waits at most; beyond PER_S x MAX_WAIT_S callers at a time there are more than PER_S a second."""


class Pace:
    """Turns at most PER_S a second. The first is at once."""

    def __init__(self) -> None:
        self._next = 0.0

    def wait_s(self, now: float) -> float:
        """Seconds until the turn of one who comes now, by time.monotonic(); at most MAX_WAIT_S."""
        turn = min(max(self._next, now), now + MAX_WAIT_S)
        self._next = turn + 1 / PER_S
        return turn - now


class Crowd:
    """ASGI middleware: refuses POSTs for which there is no place before they cost anything.

    uvicorn drops the rest of an unread body, so the connection stays open.
    """

    def __init__(self, app: App, admission: Callable[[], Admission]) -> None:
        self._app = app
        self._admission = admission
        self._pace = Pace()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on if there may be a place for it."""
        is_post = scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in KINDS
        if not (is_post and (admission := self._admission()).is_full):
            await self._app(scope, receive, send)
            return
        if (wait_s := self._pace.wait_s(time.monotonic())) > 0:
            await asyncio.sleep(wait_s)
        headers, body = _answer(admission.max_requests)
        await send({"type": "http.response.start", "status": 429, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@lru_cache(maxsize=1)
def _answer(max_requests: int) -> tuple[list[Header], bytes]:
    return prepared(full(max_requests))
