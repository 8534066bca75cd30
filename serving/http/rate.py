"""Callers and times -> whether a request is within the caller's rate, by a token bucket per caller.

LEITMOTIF_RATE is the number of requests per second for each caller: a holder of a token, or an address. Unset: no
limit. Unknown tokens are always rate-limited by address. LEITMOTIF_USER_EVENTS limits a user's live events per hour,
since each takes memory in every worker until a run has read it.
"""

import math
import os
import time
from collections import OrderedDict
from collections.abc import Mapping

from contracts.errors import InputError
from serving.answering.refusal import Refusal

VARIABLE = "LEITMOTIF_RATE"
QUOTA_VARIABLE = "LEITMOTIF_USER_EVENTS"
BURST_S = 2.0
"""Size of a bucket, in seconds of its rate."""
GUESSES_PER_S = 0.5
"""Unknown tokens per address: enough for a client whose token was replaced, too few for guessing."""
MAX_GUESSES = 20
MAX_CALLERS = 10_000
"""Number of buckets that are kept: those of the most recent callers."""


class Rate:
    """One per worker; with several workers, each allows the whole rate. per_s: None: no limit."""

    def __init__(
        self,
        per_s: float | None,
        burst: float | None = None,
        cause: str = "rate",
        what: str = "A caller may send {rate:g} requests per second.",
        *,
        forgets: bool = True,
    ) -> None:
        """forgets: whether callers beyond MAX_CALLERS evict others; if not, only full buckets are evicted."""
        self.per_s = per_s
        self.what = what
        self.burst = burst  # size of a bucket, in requests; None: BURST_S of the rate
        self.cause = cause
        self.forgets = forgets
        self._evict_at = MAX_CALLERS  # number of buckets from which full ones are evicted
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # (requests left, time)

    @classmethod
    def read(cls) -> "Rate":
        """The rate of LEITMOTIF_RATE. Raises InputError if it is not a positive number."""
        given = os.environ.get(VARIABLE, "")
        try:
            per_s = float(given) if given else None
        except ValueError:
            per_s = math.nan
        if per_s is not None and not 0 < per_s < math.inf:
            raise InputError(f"{VARIABLE} is {given!r}. Set it to requests per second, such as 50, or unset it.")
        return cls(per_s)

    @classmethod
    def of_guesses(cls) -> "Rate":
        """The rate of unknown tokens per address."""
        what = "The token is unknown, and too many unknown tokens came from this address."
        return cls(GUESSES_PER_S, MAX_GUESSES, "guessing", what)

    def take(self, caller: str, now: float | None = None) -> None:
        """Count a request. Raises Refusal if it exceeds the rate. now: time.monotonic()."""
        if self.per_s is not None and caller:
            self.take_each({caller: 1}, now)

    def take_each(self, wanted: Mapping[str, int], now: float | None = None) -> None:
        """Count a number of requests for each caller, all or none. Raises Refusal, counting none, beyond the rate."""
        if self.per_s is None:
            return
        now = time.monotonic() if now is None else now
        size = max(1.0, self.per_s * BURST_S if self.burst is None else self.burst)
        if not self.forgets and len(self._buckets) > self._evict_at:
            self._evict_full(size, now)
        for caller in wanted:
            left, then = self._buckets.pop(caller, (size, now))
            self._buckets[caller] = (min(size, left + (now - then) * self.per_s), now)
        short = [(number - self._buckets[caller][0], number) for caller, number in wanted.items()]
        while self.forgets and len(self._buckets) > MAX_CALLERS:
            self._buckets.popitem(last=False)
        if (lacking := max(short))[0] > 0:
            raise self._refusal(math.ceil(lacking[0] / self.per_s), lacking[1] > size)
        for caller, number in wanted.items():
            if caller in self._buckets:
                self._buckets[caller] = (self._buckets[caller][0] - number, now)

    def _evict_full(self, size: float, now: float) -> None:
        """Evict full buckets, which are like new ones. The rest is bounded by the number of live events."""
        rate = self.per_s or 0.0
        for caller in [each for each, (left, then) in self._buckets.items() if left + (now - then) * rate >= size]:
            del self._buckets[caller]
        self._evict_at = max(MAX_CALLERS, 2 * len(self._buckets))  # seldom, since it visits every bucket

    def _refusal(self, wait_s: int, is_hopeless: bool) -> Refusal:
        text = f"{self.what.format(rate=self.per_s or 0, burst=self.burst or 0)} Try again in {wait_s} s."
        return Refusal(429, text + (" Send fewer at once." if is_hopeless else ""), None, wait_s, self.cause)


def user_events() -> Rate:
    """The limit of LEITMOTIF_USER_EVENTS: live events per user and hour. Raises InputError."""
    given = os.environ.get(QUOTA_VARIABLE) or "0"
    if not (given.isascii() and given.isdigit() and len(given) < 10):
        raise InputError(f"{QUOTA_VARIABLE} is {given!r}. Set it to events per hour, such as 1000, or unset it.")
    per_hour = int(given)
    what = "A user may have {burst:,} live events per hour."
    return Rate(per_hour / 3600 if per_hour else None, per_hour, "quota", what, forgets=False)
