"""Rankings that were sent -> live events, written by a background thread; counts how many are stored and lost."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

from contracts.errors import InputError
from serving.answering.feedback import Shown, keep
from serving.answering.predictor import Predictor, Showing
from serving.watching import metrics

log = logging.getLogger("leitmotif")

RETRY_S = 1.0
"""How long no ranking is recorded after a failure; rankings of that time have no impression_id."""
MAX_WAITING = 256
"""Length of the queue of rankings to record; when it is full, further ones are dropped."""


class Remembering:
    """One per worker. A ranking that cannot be recorded is lost; a click on it becomes an event of its own."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "remember")
        self._waiting: set[Future[None]] = set()
        self._lock = Lock()
        self._lost_until = 0.0
        self._was_full = self._was_lost = False

    def look(self, predictor: Predictor, request: Showing) -> None:
        """Count a ranking that is not recorded because serve.max_live_rows is reached; log the first one."""
        if not predictor.is_remembered(request):
            return
        if predictor.is_full and not self._was_full:
            log.warning(
                "%s live rows are in memory, and serve.max_live_rows is %s: rankings are no longer recorded as shown "
                "and have no impression_id; clicks are still stored. `make absorb` and `make run` move the rows into "
                "the log.",
                f"{predictor.store.live.num_events:,}",
                f"{predictor.limits.max_live_rows:,}",
            )
        self._was_full = predictor.is_full
        if predictor.is_full:
            metrics.OVER_LIMIT.inc()

    def takes(self) -> bool:
        """Whether a ranking sent now can probably be recorded. A ranking that cannot be is counted."""
        is_open = len(self._waiting) < MAX_WAITING and time.monotonic() >= self._lost_until
        if not is_open:
            metrics.WITHHELD.inc()
        return is_open

    def keep(self, predictor: Callable[[], Predictor], shown: Shown) -> None:
        """Queue a ranking that has been sent. predictor: called when it is written, to use the newest store."""
        with self._lock:
            if len(self._waiting) >= MAX_WAITING:
                self._lose(f"{MAX_WAITING} others are waiting to be written")
                return
            future = self._thread.submit(self._keep, predictor, shown)
            self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)

    async def settled(self, timeout_s: float) -> None:
        """Wait, at most timeout_s, until the queued rankings are written, so that a click finds its show."""
        if waiting := [asyncio.wrap_future(each) for each in list(self._waiting)]:
            await asyncio.wait(waiting, timeout=timeout_s)

    def _keep(self, predictor: Callable[[], Predictor], shown: Shown) -> None:
        try:
            keep(predictor().store, shown)
        except InputError as error:
            self._lose(str(error))
        except Exception:
            log.exception("A sent ranking could not be recorded as shown")
            metrics.LOST.inc()
        else:
            metrics.KEPT.inc()
            self._was_lost = False

    def _lose(self, reason: str) -> None:
        """Count a lost ranking; log only the first until one is written again, since a store that is down fails all."""
        metrics.LOST.inc()
        self._lost_until = time.monotonic() + RETRY_S
        if not self._was_lost:
            log.warning("A sent ranking is not recorded; clicks on it become events of their own: %s", reason)
        self._was_lost = True

    def show(self, predictor: Predictor) -> None:
        """Update the gauges of live events."""
        store = predictor.store
        metrics.LATEST["live_rows"].set(store.live.num_events)
        metrics.LATEST["live_bytes"].set(store.live.num_bytes)
        metrics.LATEST["live_rows_limit"].set(predictor.limits.max_live_rows)
        with contextlib.suppress(InputError):  # a store that is down reports no size; the other gauges still stand
            metrics.LATEST["tail_bytes"].set(store.tail.size())
