"""A request, and those that wait -> whether its turn would come in time. The rest are told so at once, with a 429.

Requests are weighed by what they hold, and the seconds of a unit are learnt from what was computed here. One computes
at a time, so that the units before a request say when its turn comes.
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
"""What a request takes whatever it holds is about what so many candidates take: 6 of 10 ms of one with 100."""
EVENTS_OF_A_UNIT = 30
EXPLAINED = 8.0
"""Units of reasons, of however few items: all of them are scored once for each event that may have carried one."""
EXPLAINED_OF_A_UNIT = 10
RECOMMENDED = 3.2
"""Units of a recommendation beside its candidates: the history is read twice, and everything on offer is searched."""
FIRST_UNIT_S = 0.007
"""Until something was computed."""
LEARNT = 0.1
"""Of each new figure, the share that counts."""
CROWDED = 4.0
"""On a busy machine a request takes up to so many times its own work; what lasts longer waited for a store."""


class Admission:
    """One a worker. max_requests: at once. budget_s: how long after it came a request's turn must have ended."""

    def __init__(self, max_requests: int, budget_s: float, num_recommended: int) -> None:
        self.max_requests = max_requests
        self.num_recommended = num_recommended  # serve.retrieval.num_candidates of the bundle that answers
        self.budget_s = budget_s
        self.unit_s = FIRST_UNIT_S
        self.num_requests = 0
        self.num_units = 0.0
        self._lock = Lock()

    def check_number(self) -> None:
        """Raise Refusal where there is no place, whatever a request holds: before its body is parsed."""
        if self.num_requests >= self.max_requests:
            raise Refusal(429, f"{self.num_requests} requests are being answered, the most at once. Try again later.")

    @contextmanager
    def admitted(self, message: Message) -> Iterator[None]:
        """While a request is answered. Raises Refusal where its turn would come too late; one alone is always taken."""
        self.check_number()
        units = weigh(message, self.num_recommended)
        ends_s = (self.num_units + units) * self.unit_s
        if self.num_requests and ends_s > self.budget_s:
            before_s = self.num_units * self.unit_s
            raise Refusal(
                429,
                f"{self.num_requests} requests are being answered, which takes about {before_s:.1f} s more, the most "
                "at once. Try again later, or rank fewer candidates.",
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
        """What a request took: by the clock, and of the processor."""
        figure = min(took_s, CROWDED * computed_s) / weigh(message, self.num_recommended)
        with self._lock:
            self.unit_s += LEARNT * (figure - self.unit_s)


def weigh(message: Message, num_recommended: int) -> float:
    """Units of a request. num_recommended: candidates that /recommend ranks."""
    if isinstance(message, RankRequest):
        plain = 1 + len(message.candidates) / CANDIDATES_OF_A_UNIT
        explained = min(message.k or MAX_EXPLAINED, MAX_EXPLAINED, len(message.candidates))
        return plain + (EXPLAINED + explained / EXPLAINED_OF_A_UNIT if message.explain else 0)
    if isinstance(message, EventsRequest):
        return 1 + len(message.events) / EVENTS_OF_A_UNIT
    if isinstance(message, RecommendRequest):
        return RECOMMENDED + num_recommended / CANDIDATES_OF_A_UNIT
    return 1
