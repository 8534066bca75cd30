"""Where the time of a request goes: each part of the work names itself, and whoever asked for it reads the sums.

    with recording() as spent:                     # serving/service.py, in the thread that computes
        with stage(HISTORY): ...                   # deep inside, some lines of the predictor

Where nobody records, a stage is a line that does nothing: benchmarks, package and tests call the same code.
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
"""All that no other stage names."""
STAGES = (WAIT, HISTORY, FEATURES, USER_SIDE, SCORES, RETRIEVAL, REASONS, REPLY)

_here = threading.local()
_NOTHING: AbstractContextManager[None] = nullcontext()


class Spent:
    """Of one request, made when it asks for its turn: its stages, and what they noted for whoever watches."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, float, float]] = []  # stage, when it began (time.perf_counter), seconds
        self.asked = self.began = self.ended = time.perf_counter()
        self.logits: Any = None  # of all candidates, before k of them are answered

    def seconds(self) -> dict[str, float]:
        """By stage; what they leave of the work is the reply."""
        told = {WAIT: self.began - self.asked}
        for name, _, took_s in self.parts:
            told[name] = told.get(name, 0.0) + took_s
        told[REPLY] = max(0.0, self.ended - self.asked - sum(told.values()))
        return told


class _Stage:
    """One part of the work of this thread."""

    __slots__ = ("_began", "_name", "_spent")

    def __init__(self, spent: Spent, name: str) -> None:
        self._spent, self._name = spent, name

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._spent.parts.append((self._name, self._began, time.perf_counter() - self._began))


def stage(name: str) -> AbstractContextManager[None]:
    """Around a part of the work. Stages do not stand in one another."""
    spent = getattr(_here, "spent", None)
    return _NOTHING if spent is None else _Stage(spent, name)


def note_logits(logits: Any) -> None:
    """What the candidates of the request at hand scored."""
    if (spent := getattr(_here, "spent", None)) is not None:
        spent.logits = logits


@contextmanager
def recording(spent: Spent) -> Iterator[None]:
    """While this thread works for a request."""
    spent.began = time.perf_counter()
    _here.spent = spent
    try:
        yield
    finally:
        _here.spent = None
        spent.ended = time.perf_counter()
