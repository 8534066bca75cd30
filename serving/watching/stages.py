"""Timing of a request's stages.

    with recording(spent):                         # serving/service.py, in the computing thread
        with stage(HISTORY): ...                   # in the predictor

Outside `recording`, as in benchmarks, package and tests, a stage does nothing.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import Any

WAIT = "wait"
HISTORY = "history"
FEATURES = "features"
USER_SIDE = "user_side"
SCORES = "scores"
RETRIEVAL = "retrieval"
REASONS = "reasons"
REPLY = "reply"
"""The rest of the time."""
STAGES = (WAIT, HISTORY, FEATURES, USER_SIDE, SCORES, RETRIEVAL, REASONS, REPLY)

_here = threading.local()
_NOTHING: AbstractContextManager[None] = nullcontext()


class Spent:
    """The stages of one request, and its logits for the metrics. Created when the request starts to wait."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, float, float]] = []  # (stage, start by time.perf_counter, seconds)
        self.asked = self.began = self.ended = time.perf_counter()
        self.logits: Any = None  # of all candidates, not only the k that are returned

    def seconds(self) -> dict[str, float]:
        """Seconds by stage; the time outside all stages counts as REPLY."""
        seconds = {WAIT: self.began - self.asked}
        for name, _, took_s in self.parts:
            seconds[name] = seconds.get(name, 0.0) + took_s
        seconds[REPLY] = max(0.0, self.ended - self.asked - sum(seconds.values()))
        return seconds


class _Stage:
    """Context that times one stage of the current request."""

    __slots__ = ("_began", "_name", "_spent")

    def __init__(self, spent: Spent, name: str) -> None:
        self._spent, self._name = spent, name

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._spent.parts.append((self._name, self._began, time.perf_counter() - self._began))


def stage(name: str) -> AbstractContextManager[None]:
    """A context around a part of the work. Stages must not be nested."""
    spent = getattr(_here, "spent", None)
    return _NOTHING if spent is None else _Stage(spent, name)


def note_logits(logits: Any) -> None:
    """Record the logits of the current request's candidates."""
    if (spent := getattr(_here, "spent", None)) is not None:
        spent.logits = logits


@contextmanager
def recording(spent: Spent) -> Iterator[None]:
    """Record the stages of this thread's work for a request."""
    spent.began = time.perf_counter()
    _here.spent = spent
    try:
        yield
    finally:
        _here.spent = None
        spent.ended = time.perf_counter()
