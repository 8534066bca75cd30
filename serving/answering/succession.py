"""The bundle's folder -> a predictor for a new bundle in it, opened while the old one keeps answering.

`make promote` and `make rollback` replace the champion's folder atomically. Each worker looks there every LOOK_S: it
loads the new bundle and checks its golden requests before it answers; requests in flight end with the old one. If the
new bundle cannot be served, that is logged once, the old one stays, and the new one is tried again every AGAIN_S: the
store may have been unavailable, or a checkout unfinished.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock, Thread

from contracts.errors import InputError
from serving.answering.beside import open_served
from serving.answering.predictor import Predictor
from serving.bundle.manifest import MANIFEST
from serving.locations import find_bundle
from serving.watching import metrics

log = logging.getLogger("leitmotif")

LOOK_S = 2.0
AGAIN_S = 60.0
Mark = tuple[str, int, int]


class Succession:
    """One per worker. Created before the predictor is opened, so that a bundle that arrives meanwhile is noticed."""

    def __init__(self) -> None:
        self.refused = ""  # why what stands there is not served
        self._seen = _mark()
        self._again_at = 0.0
        self._lock = Lock()

    def watch(self, take: Callable[[Predictor], None]) -> None:
        """Poll until the process ends. take: replaces the current predictor."""
        Thread(target=self._watch, args=(take,), name="succession", daemon=True).start()

    def look(self) -> Predictor | None:
        """The predictor of another bundle than at the last look; None where there is none, or it cannot be served."""
        with self._lock:
            mark = _mark()
            is_due = bool(self.refused) and time.monotonic() >= self._again_at
            if mark is None or (mark == self._seen and not is_due):
                return None
            self._seen = mark
            try:
                predictor = open_served()
            except InputError as error:
                if str(error) != self.refused:
                    log.warning("%s holds a bundle that is not served; the one before goes on. %s", mark[0], error)
                self.refused, self._again_at = str(error), time.monotonic() + AGAIN_S
                return None
            self.refused = ""
            metrics.TAKEN.inc()
            return predictor

    def show(self) -> None:
        """Bring the figure up to date: whether the newest was refused."""
        metrics.LATEST["bundle_refused"].set(bool(self.refused))

    def _watch(self, take: Callable[[Predictor], None]) -> None:
        while True:
            time.sleep(LOOK_S)
            try:
                if predictor := self.look():
                    take(predictor)
                    log.info("model %s answers now", predictor.bundle.manifest.model_version)
            except Exception:  # a worker goes on with what it has
                log.exception("looking for another bundle failed")


def _mark() -> Mark | None:
    """What tells one bundle from another without reading it; None while there is none."""
    try:
        path = find_bundle()
        found = Path(path / MANIFEST).stat()
    except (InputError, OSError):
        return None
    return str(path), found.st_ino, found.st_mtime_ns
