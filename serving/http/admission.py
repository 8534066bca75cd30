"""A request and those that wait -> admission, or a 429 at once if its turn would come too late.

Each request costs a number of units by its content, and the seconds per unit are learnt from past requests. Requests
are computed one at a time, so the units ahead of a request say when its turn comes.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from serving.answering.explaining import MAX_EXPLAINED
from serving.answering.recommend import RecommendRequest
from serving.answering.refusal import Refusal
from serving.answering.requests import EventsRequest, Message, RankRequest

CANDIDATES_OF_A_UNIT = 250
"""The fixed cost of a request, one unit, equals that of about this many candidates: 6 of 10 ms with 100 candidates."""
EVENTS_OF_A_UNIT = 30
EXPLAINED = 8.0
"""Units of explanations, however few items: all are scored again without each event that may have contributed."""
EXPLAINED_OF_A_UNIT = 10
RECOMMENDED = 3.2
"""Units of a recommendation besides its candidates: the history is read twice, and all items on offer are searched."""
FIRST_UNIT_S = 0.007
"""Seconds per unit before the first measurement."""
LEARNT = 0.1
"""Weight of each new measurement in the moving average."""
CROWDED = 4.0
"""Wall time counts up to this multiple of CPU time, as on a busy machine; the rest was waiting for a store."""


class Admission:
    """One per worker. max_requests: at once. budget_s: time after arrival by which a request must be answered."""

    def __init__(self, max_requests: int, budget_s: float, num_recommended: int) -> None:
        self.max_requests = max_requests
        self.num_recommended = num_recommended  # serve.retrieval.num_candidates of the served bundle
        self.budget_s = budget_s
        self.unit_s = FIRST_UNIT_S
        self.num_requests = 0
        self.num_units = 0.0
        self._lock = Lock()

    @property
    def is_full(self) -> bool:
        """Whether max_requests are in progress."""
        return self.num_requests >= self.max_requests

    def check_number(self) -> None:
        """Raise Refusal if there is no place. Called before the body is parsed."""
        if self.is_full:
            raise full(self.max_requests)

    @contextmanager
    def admitted(self, message: Message) -> Iterator[None]:
        """A context in which a request is answered. Raises Refusal if its turn would come too late.

        A request is always admitted if no other is in progress.
        """
        self.check_number()
        units = weigh(message, self.num_recommended)
        ends_s = (self.num_units + units) * self.unit_s
        if self.num_requests and ends_s > self.budget_s:
            before_s = self.num_units * self.unit_s
            raise Refusal(
                429,
                f"{self.num_requests} requests are in progress and need about {before_s:.1f} s more, the most that is "
                "admitted. Try again later, or rank fewer candidates.",
                retry_after_s=max(1, math.ceil(before_s)),
            )
        self.num_requests += 1
        self.num_units += units
        try:
            yield
        finally:
            self.num_requests -= 1
            self.num_units = self.num_units - units if self.num_requests else 0.0

    def learn(self, message: Message, took_s: float, computed_s: float) -> None:
        """Update the seconds per unit. took_s: wall time. computed_s: CPU time."""
        figure = min(took_s, CROWDED * computed_s) / weigh(message, self.num_recommended)
        with self._lock:
            self.unit_s += LEARNT * (figure - self.unit_s)


def full(max_requests: int) -> Refusal:
    """What a request is told for which there is no place."""
    return Refusal(429, f"{max_requests} requests are in progress, the most at once. Try again later.")


def weigh(message: Message, num_recommended: int) -> float:
    """Units of a request. num_recommended: number of candidates that /recommend ranks."""
    if isinstance(message, RankRequest):
        plain = 1 + len(message.candidates) / CANDIDATES_OF_A_UNIT
        explained = min(message.k or MAX_EXPLAINED, MAX_EXPLAINED, len(message.candidates))
        return plain + (EXPLAINED + explained / EXPLAINED_OF_A_UNIT if message.explain else 0)
    if isinstance(message, EventsRequest):
        return 1 + len(message.events) / EVENTS_OF_A_UNIT
    if isinstance(message, RecommendRequest):
        return RECOMMENDED + num_recommended / CANDIDATES_OF_A_UNIT
    return 1
