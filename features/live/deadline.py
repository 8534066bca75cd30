"""How long the current request may wait for a store: set when the request arrives, read before each wait.

The store's timeout is shorter than the request's, and that is shorter than the caller's, so that callers get the
store's error, and nothing is stored after a request has timed out.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_until: ContextVar[float | None] = ContextVar("until", default=None)


@contextmanager
def due(at: float) -> Iterator[None]:
    """In this block no wait for a store lasts beyond `at` (time.monotonic())."""
    token = _until.set(at)
    try:
        yield
    finally:
        _until.reset(token)


def left_s(most: float) -> float:
    """How long a store may be waited for from now: `most` seconds, or less if the request is due earlier."""
    until = _until.get()
    return most if until is None else max(0.0, min(most, until - time.monotonic()))
