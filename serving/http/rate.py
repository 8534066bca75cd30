"""Who asks, and when -> whether that is more than one caller may: a bucket of requests for each, filled at a rate.

LEITMOTIF_RATE is the requests a second that one caller may make: a token's holder, or an address. Not set: any number.
Tokens that are none are counted by address, whether a rate is set or not.
"""

import math
import os
import time
from collections import OrderedDict

from contracts.errors import InputError
from serving.answering.refusal import Refusal

VARIABLE = "LEITMOTIF_RATE"
BURST_S = 2.0
"""Seconds of its rate that a caller may use at once."""
GUESSES_PER_S = 0.5
"""Of one address: a client with a token that was replaced is told so, one that tries tokens gets nowhere."""
MAX_GUESSES = 20
MAX_CALLERS = 10_000
"""Whose buckets are kept: those who asked last."""


class Rate:
    """One a worker; where there are several, a caller has the rate of each. per_s: None: any."""

    def __init__(self, per_s: float | None, burst: float | None = None, cause: str = "rate") -> None:
        self.per_s = per_s
        self.burst = burst  # requests at once; None: those of BURST_S
        self.cause = cause
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # requests left, as of when

    @classmethod
    def read(cls) -> "Rate":
        """Raises InputError where the environment names no rate."""
        told = os.environ.get(VARIABLE, "")
        try:
            per_s = float(told) if told else None
        except ValueError:
            per_s = math.nan
        if per_s is not None and not 0 < per_s < math.inf:
            raise InputError(f"{VARIABLE} is {told!r}. Set it to requests a second, such as 50, or not at all.")
        return cls(per_s)

    @classmethod
    def of_guesses(cls) -> "Rate":
        """How often one address may send a token that is none."""
        return cls(GUESSES_PER_S, MAX_GUESSES, "guessing")

    def take(self, caller: str, now: float | None = None) -> None:
        """Count one request. Raises Refusal where it is one too many. now: of time.monotonic()."""
        if self.per_s is None or not caller:
            return
        now = time.monotonic() if now is None else now
        size = max(1.0, self.per_s * BURST_S if self.burst is None else self.burst)
        left, then = self._buckets.pop(caller, (size, now))
        left = min(size, left + (now - then) * self.per_s)
        taken = left >= 1
        self._buckets[caller] = (left - taken, now)
        if len(self._buckets) > MAX_CALLERS:
            self._buckets.popitem(last=False)
        if not taken:
            wait_s = math.ceil((1 - left) / self.per_s)
            told = f"One caller may ask {self.per_s:g} times a second. Ask again in {wait_s} s."
            raise Refusal(429, told, None, wait_s, self.cause)
