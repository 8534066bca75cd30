"""Rankings that were sent -> live events, written by a background thread, with metrics of the results."""

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
        """Count, and say once, that a ranking is not remembered since too much is in memory."""
        if not predictor.is_remembered(request):
            return
        if predictor.is_full and not self._was_full:
            log.warning(
                "%s live rows are in memory, and serve.max_live_rows is %s: rankings are not remembered as shown any "
                "more and have no impression_id; clicks are kept. `make absorb` and `make run` bring them into the "
                "log.",
                f"{predictor.store.live.num_events:,}",
                f"{predictor.limits.max_live_rows:,}",
            )
        self._was_full = predictor.is_full
        if predictor.is_full:
            metrics.OVER_LIMIT.inc()

    def takes(self) -> bool:
        """Whether a ranking that is given now can be kept, as far as is known; counted where it cannot."""
        takes = len(self._waiting) < MAX_WAITING and time.monotonic() >= self._lost_until
        if not takes:
            metrics.WITHHELD.inc()
        return takes

    def keep(self, predictor: Callable[[], Predictor], shown: Shown) -> None:
        """Keep a ranking that has been given, soon. predictor: the newest, when it comes to that."""
        with self._lock:
            if len(self._waiting) >= MAX_WAITING:
                self._lose(f"{MAX_WAITING} others wait to be kept")
                return
            future = self._thread.submit(self._keep, predictor, shown)
            self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)

    async def settled(self, timeout_s: float) -> None:
        """Wait until what has been given is kept, so that a click finds what was shown; not longer than timeout_s."""
        if waiting := [asyncio.wrap_future(each) for each in list(self._waiting)]:
            await asyncio.wait(waiting, timeout=timeout_s)

    def _keep(self, predictor: Callable[[], Predictor], shown: Shown) -> None:
        try:
            keep(predictor().store, shown)
        except InputError as error:
            self._lose(str(error))
        except Exception:
            log.exception("A ranking that was given is not kept as shown")
            metrics.LOST.inc()
        else:
            metrics.KEPT.inc()
            self._was_lost = False

    def _lose(self, reason: str) -> None:
        """Said once until one is kept again: a store that is down fails each."""
        metrics.LOST.inc()
        self._lost_until = time.monotonic() + RETRY_S
        if not self._was_lost:
            log.warning("A ranking that was given is not kept as shown; its click will be an event alone: %s", reason)
        self._was_lost = True

    def show(self, predictor: Predictor) -> None:
        """Bring the figures of live events up to date."""
        store = predictor.store
        metrics.LATEST["live_rows"].set(store.live.num_events)
        metrics.LATEST["live_bytes"].set(store.live.num_bytes)
        metrics.LATEST["live_rows_limit"].set(predictor.limits.max_live_rows)
        with contextlib.suppress(InputError):  # a store that does not answer has no size; the rest is told all the same
            metrics.LATEST["tail_bytes"].set(store.tail.size())
