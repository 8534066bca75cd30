"""What `now` means for a service: the wall clock, or the end of the log plus the time since it was first served.

The one place that says so: the time of a ranking that names none, of an event that tells none, and of its becoming
known. For a log that ended long ago, time continues from its end at the pace of the wall clock; no event moves it.
"""

import time
from threading import Lock

LOG_END = "log_end"
"""Of params.yaml's serve.clock."""


def wall_us() -> int:
    """The wall clock, in microseconds since 1970."""
    return time.time_ns() // 1000


class Clock:
    """Never goes back within a process, whatever the wall clock does.

    behind_us: how far it is behind the wall clock; the tail keeps that (LiveTail.behind), one for all who serve a log.
    """

    def __init__(self, behind_us: int = 0) -> None:
        self.behind_us = behind_us
        self._newest = 0
        self._lock = Lock()

    def now(self) -> int:
        """Microseconds since 1970."""
        with self._lock:
            self._newest = max(self._newest, wall_us() - self.behind_us)
            return self._newest
