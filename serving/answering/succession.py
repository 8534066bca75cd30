"""The place of the bundle -> the predictor of another one that stands there now, opened beside the one that answers.

`make promote` and `make rollback` exchange the champion's folder in one step. Each worker looks there every LOOK_S: the
new bundle is read, its golden requests are scored, and only then it answers; requests that were begun end with the old
one. What cannot be served is said once, the old one goes on, and it is tried again every AGAIN_S: the store may have
been away, or a checkout still under way.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock, Thread

from contracts.errors import InputError
from serving.answering.predictor import Predictor, open_here
from serving.bundle.manifest import MANIFEST
from serving.locations import find_bundle
from serving.watching import metrics

log = logging.getLogger("leitmotif")

LOOK_S = 2.0
AGAIN_S = 60.0
Mark = tuple[str, int, int]


class Succession:
    """One a worker. Made before the predictor is opened: what comes meanwhile is seen at the first look."""

    def __init__(self) -> None:
        self.refused = ""  # why what stands there is not served
        self._seen = _mark()
        self._again_at = 0.0
        self._lock = Lock()

    def watch(self, take: Callable[[Predictor], None]) -> None:
        """Look for as long as the process lives. take: puts a predictor in the place of the one that answers."""
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
                predictor = open_here()
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
