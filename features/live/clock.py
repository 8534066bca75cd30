"""The service's clock: the wall clock, or the end of the log plus the time since it was first served.

It is the default time of rankings and events, and the time at which events become known. For a log that ended long
ago, time continues from its end at the pace of the wall clock; events do not move it.
"""

import time
from threading import Lock

LOG_END = "log_end"
"""Of params.yaml's serve.clock."""


def wall_us() -> int:
    """The wall clock, in microseconds since 1970."""
    return time.time_ns() // 1000


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
