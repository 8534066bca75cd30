"""Who asks, and when -> whether that is more than one caller may: a bucket of requests for each, filled at a rate.

LEITMOTIF_RATE is the requests a second that one caller may make: a token's holder, or an address. Not set: any number.
Tokens that are none are counted by address, whether a rate is set or not. LEITMOTIF_USER_EVENTS bounds what one user's
live events may become: each costs memory in every worker until a run has read it.
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
"""Seconds of its rate that a caller may use at once."""
GUESSES_PER_S = 0.5
"""Of one address: a client with a token that was replaced is told so, one that tries tokens gets nowhere."""
MAX_GUESSES = 20
MAX_CALLERS = 10_000
"""Whose buckets are kept: those who asked last."""


class Rate:
    """One a worker; where there are several, a caller has the rate of each. per_s: None: any."""

    def __init__(
        self,
        per_s: float | None,
        burst: float | None = None,
        cause: str = "rate",
        what: str = "One caller may ask {rate:g} times a second.",
        *,
        forgets: bool = True,
    ) -> None:
        """forgets: whether callers beyond MAX_CALLERS push out others, or only those whose bucket is full again."""
        self.per_s = per_s
        self.what = what
        self.burst = burst  # requests at once; None: those of BURST_S
        self.cause = cause
        self.forgets = forgets
        self._look_at = MAX_CALLERS  # so many buckets are looked through for full ones
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
        what = "No token that this service knows came, and too many such came from this address."
        return cls(GUESSES_PER_S, MAX_GUESSES, "guessing", what)

    def take(self, caller: str, now: float | None = None) -> None:
        """Count one request. Raises Refusal where it is one too many. now: of time.monotonic()."""
        if self.per_s is not None and caller:
            self.take_each({caller: 1}, now)

    def take_each(self, wanted: Mapping[str, int], now: float | None = None) -> None:
        """Count so many of each, of all or of none. Raises Refusal, which counts nothing more but a wait."""
        if self.per_s is None:
            return
        now = time.monotonic() if now is None else now
        size = max(1.0, self.per_s * BURST_S if self.burst is None else self.burst)
        if not self.forgets and len(self._buckets) > self._look_at:
            self._leave_out_full(size, now)
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

    def _leave_out_full(self, size: float, now: float) -> None:
        """A full bucket is as none. The others are fewer than the live events that are kept, which are bounded."""
        rate = self.per_s or 0.0
        for caller in [each for each, (left, then) in self._buckets.items() if left + (now - then) * rate >= size]:
            del self._buckets[caller]
        self._look_at = max(MAX_CALLERS, 2 * len(self._buckets))  # seldom: it costs a look at each

    def _refusal(self, wait_s: int, is_hopeless: bool) -> Refusal:
        told = f"{self.what.format(rate=self.per_s or 0, burst=self.burst or 0)} Ask again in {wait_s} s."
        return Refusal(429, told + (" Send fewer at once." if is_hopeless else ""), None, wait_s, self.cause)


def user_events() -> Rate:
    """LEITMOTIF_USER_EVENTS: how many live events one user may have in an hour. Raises InputError."""
    told = os.environ.get(QUOTA_VARIABLE) or "0"
    if not (told.isascii() and told.isdigit() and len(told) < 10):
        raise InputError(f"{QUOTA_VARIABLE} is {told!r}. Set it to events an hour, such as 1000, or not at all.")
    an_hour = int(told)
    what = "One user may have {burst:,} live events an hour."
    return Rate(an_hour / 3600 if an_hour else None, an_hour, "quota", what, forgets=False)
