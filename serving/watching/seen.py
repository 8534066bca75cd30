"""A request as it is watched: its id, its route and what became of it. Of whoever asked nothing is held but the id."""

import os
import re
import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from serving.watching.stages import Spent

AN_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
"""Of a caller's: what neither a log nor a header takes for more than a word."""
OTHER = "other"
PLAIN = frozenset(
    ("/", "/rank", "/recommend", "/events", "/users", "/items", "/info", "/docs.json", "/livez", "/readyz", "/healthz",
     "/metrics", "/admin/reload"))  # fmt: skip
BELOW = (("/users/", "/users/{user_id}/themes"), ("/items/", "/items/{item_id}/similar"), ("/page/", "/page"))
UNWATCHED = frozenset(("/livez", "/readyz", "/healthz", "/metrics"))
"""Asked every few seconds by machines: neither logged nor timed."""


@dataclass
class Seen:
    """One request."""

    request_id: str
    route: str
    began: float = field(default_factory=time.perf_counter)
    spent: Spent | None = None
    cause: str | None = None  # of a refusal, where its status does not say it


_seen: ContextVar[Seen] = ContextVar("seen")


def seen() -> Seen:
    """The request at hand; outside of one, a new one that nobody reads."""
    return _seen.get(None) or Seen("", OTHER)


def watch(request: Seen) -> None:
    """It is the request at hand from here on."""
    _seen.set(request)


def request_id_of(told: str | None) -> str:
    """The caller's where it is a word, else a new one."""
    return told if told and AN_ID.fullmatch(told) else os.urandom(8).hex()


def route_of(path: str) -> str:
    """One of a few: paths hold ids of users, and a label for each would be a list of them."""
    if path in PLAIN:
        return path
    return next((route for start, route in BELOW if path.startswith(start)), OTHER)
