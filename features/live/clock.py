"""The service's clock: the wall clock, or the end of the log plus the time since it was first served.

It is the default time of rankings and events, and the time at which events become known. For a log that ended long
ago, time continues from its end at the pace of the wall clock; events do not move it.
"""

import time
from threading import Lock
from typing import NamedTuple

LOG_END = "log_end"
"""Of params.yaml's serve.clock."""
LOST_US = 86_400 * 1_000_000
"""A log that ends up to a day earlier lost some last rows (a forgotten user): going back would hide live events."""


def wall_us() -> int:
    """The wall clock, in microseconds since 1970."""
    return time.time_ns() // 1000


class Behind(NamedTuple):
    """How far a log's clock is behind the wall clock, as its tail keeps it for all processes."""

    us: int
    end_us: int | None  # end of the log that set it; None: set by a version that did not record it
    loaded_at: int  # us, time of the newest load that told its end; 0: unknown


def agreed(held: Behind | None, told: Behind) -> Behind:
    """What a tail keeps after a process has told how far its log's end is behind the wall clock.

    The least, as the clock is never before the log's end. But where the log of a later load ends more than LOST_US
    before the one that set the clock, what came after is gone (a wrong year that was corrected, say): the clock goes
    back by as much, and keeps the time since. A load that was superseded sets nothing. The same in Lua:
    redis_scripts.BEHIND.
    """
    if held is None:
        return told
    if told.loaded_at < held.loaded_at:
        return held
    us, end_us = held.us, held.end_us
    if end_us is None:
        if us < 0 <= told.us:  # in the future, where no log that ends in the past can have set it
            us, end_us = told.us, told.end_us
    elif told.end_us is not None and told.end_us < end_us - LOST_US and told.loaded_at > held.loaded_at:
        us, end_us = us + end_us - told.end_us, told.end_us
    if told.us < us:
        us, end_us = told.us, told.end_us
    return Behind(us, end_us, told.loaded_at)


class Clock:
    """A clock that never goes back within a process, even if the wall clock does.

    After that it goes at half the pace of time until the wall clock has caught up. If it stood still, nobody would see
    a click before then: only events strictly before a request are read.

    behind_us: how far it is behind the wall clock, stored in the tail (LiveTail.behind) for all processes of a log.
    """

    def __init__(self, behind_us: int = 0) -> None:
        self.behind_us = behind_us
        self._newest = 0
        self._told_at = time.monotonic_ns()
        self._lock = Lock()

    def now(self) -> int:
        """Microseconds since 1970."""
        with self._lock:
            told_at, self._told_at = self._told_at, time.monotonic_ns()
            slowed = self._newest + (self._told_at - told_at) // 2_000
            self._newest = max(slowed, wall_us() - self.behind_us)
            return self._newest
