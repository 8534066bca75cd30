"""What is recorded of a request: its id, its route and its outcome, but nothing about the caller."""

import os
import re
import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from serving.watching.stages import Spent

AN_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
"""Valid caller's ids: one word, safe in logs and headers."""
OTHER = "other"
PLAIN = frozenset(
    ("/", "/rank", "/recommend", "/events", "/users", "/items", "/info", "/docs.json", "/livez", "/readyz", "/healthz",
     "/metrics", "/admin/reload"))  # fmt: skip
BELOW = (("/users/", "/users/{user_id}/themes"), ("/items/", "/items/{item_id}/similar"), ("/page/", "/page"))
UNWATCHED = frozenset(("/livez", "/readyz", "/healthz", "/metrics"))
"""Polled every few seconds by machines: neither logged nor timed."""


@dataclass
class Seen:
    """The record of a request."""

    request_id: str
    route: str
    began: float = field(default_factory=time.perf_counter)
    spent: Spent | None = None
    cause: str | None = None  # of a refusal, if more specific than its status


_seen: ContextVar[Seen] = ContextVar("seen")


def seen() -> Seen:
    """The record of the current request; outside a request, a new one that nobody reads."""
    return _seen.get(None) or Seen("", OTHER)


def watch(request: Seen) -> None:
    """Make it the record of the current request."""
    _seen.set(request)


def request_id_of(given: str | None) -> str:
    """The caller's id if it is valid, else a new one."""
    return given if given and AN_ID.fullmatch(given) else os.urandom(8).hex()


def route_of(path: str) -> str:
    """The route of a path, one of a few, since paths contain ids of users, which must not become labels."""
    if path in PLAIN:
        return path
    return next((route for start, route in BELOW if path.startswith(start)), OTHER)
