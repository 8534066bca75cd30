"""How long the current request may wait for a store: set when the request arrives, read before each wait.

A store is waited for a shorter time than a request, and a request than its caller waits: what a store refuses in time
is told, and nothing is kept after the answer has been given up.
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
    """How long may be waited from now on: `most` seconds, or less where the work is due earlier; 0: no longer."""
    until = _until.get()
    return most if until is None else max(0.0, min(most, until - time.monotonic()))
