"""Hot reload: a new bundle in the bundle's folder -> a predictor for it, opened while the old one keeps answering.

`make promote` and `make rollback` replace the champion's folder atomically. Each worker looks there every LOOK_S: it
loads the new bundle and checks its golden requests before it answers; requests in flight end with the old one. If the
new bundle cannot be served, this is logged once, the old one stays in use, and the new one is retried every AGAIN_S:
the store may have been unavailable, or a checkout unfinished. If only a model beside it changed (`make run` packaged a
new one), the served one is not opened again.

A request may find that a newer load must be opened. Only one thread opens at a time, so that a bundle opened before a
promotion never replaces the one that was promoted.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, RLock, Thread

from contracts.errors import InputError
from serving.answering.beside import beside_paths, open_beside, open_served
from serving.answering.predictor import Predictor
from serving.bundle.loaded import read_json
from serving.bundle.manifest import MANIFEST
from serving.locations import find_bundle
from serving.watching import metrics

log = logging.getLogger("leitmotif")

LOOK_S = 2.0
AGAIN_S = 60.0
REOPEN_S = 5.0
"""How long no other load is opened after one could not be: opening takes the time of many requests."""
Mark = tuple[str, int, int]


class Succession:
    """One per worker. Created before the predictor is opened, so that a bundle that arrives meanwhile is noticed."""

    def __init__(self) -> None:
        self.refused = ""  # why the bundle in the folder is not served; empty if it is
        self._seen = _mark()
        self._seen_beside = _marks_now()
        self._again_at = self._reopen_at = 0.0
        self._why = ""  # no other load is opened before _reopen_at
        self._turn = RLock()  # held while a predictor is opened and until it is in use
        self._ended = Event()

    def watch(self, current: Callable[[], Predictor], take: Callable[[Predictor], None]) -> None:
        """Poll until `end` or the end of the process. current: the predictor in use; take: replaces it."""
        Thread(target=self._watch, args=(current, take), name="succession", daemon=True).start()

    def end(self) -> None:
        """Open no other bundle: the worker shuts down."""
        self._ended.set()

    def reopen(
        self, outdated: Predictor, why: str, current: Callable[[], Predictor], take: Callable[[Predictor], None]
    ) -> Predictor:
        """Open the newest load and take a predictor over it, unless another thread has replaced the outdated one.

        why: what the outdated one's store said, for the log. Returns the predictor in use. Raises InputError if none
        can be opened, for REOPEN_S without trying again.
        """
        with self._turn:
            if current() is not outdated:
                return current()
            if time.monotonic() < self._reopen_at:
                raise InputError(self._why)
            log.warning("%s", why)
            self._seen_beside = _marks_of(outdated.bundle.manifest.source)
            try:
                take(open_served(outdated))
            except InputError as error:
                self._why, self._reopen_at = str(error), time.monotonic() + REOPEN_S
                raise
            return current()

    def look(self) -> Predictor | None:
        """A predictor for the bundle if it changed since the last look; None if it did not, or cannot be served."""
        with self._turn:
            mark = _mark()
            is_due = bool(self.refused) and time.monotonic() >= self._again_at
            if mark is None or (mark == self._seen and not is_due):
                return None
            self._seen, beside = mark, _marks_now()
            try:
                predictor = open_served()
            except InputError as error:
                if str(error) != self.refused:
                    log.warning("The new bundle in %s is not served; the old one stays in use. %s", mark[0], error)
                self.refused, self._again_at = str(error), time.monotonic() + AGAIN_S
                return None
            self.refused, self._seen_beside = "", beside
            metrics.TAKEN.inc()
            return predictor

    def look_beside(self, current: Predictor) -> Predictor | None:
        """The predictor with other models beside it, if the bundles of these changed since the last look."""
        with self._turn:
            marks = _marks_of(current.bundle.manifest.source)
            if self._seen_beside == marks:
                return None
            self._seen_beside = marks
            return open_beside(current)

    def follow(self, current: Callable[[], Predictor], take: Callable[[Predictor], None]) -> None:
        """Take what is new in the folders of the served bundle and of those beside it."""
        with self._turn:
            if predictor := self.look():
                before = current().bundle.version
                take(predictor)
                # a warning, which is logged by default: whoever reads the log sees who answered when
                log.warning("Model %s is now served; before, it was %s", predictor.bundle.version, before)
            elif predictor := self.look_beside(current()):
                take(predictor)
                names = ", ".join(f"{name} {each.bundle.version}" for name, each in predictor.beside.items())
                log.warning("Models beside the served one: %s", names or "none")

    def show(self) -> None:
        """Update the gauge that says whether the newest bundle was refused."""
        metrics.LATEST["bundle_refused"].set(bool(self.refused))

    def _watch(self, current: Callable[[], Predictor], take: Callable[[Predictor], None]) -> None:
        while not self._ended.wait(LOOK_S):
            try:
                self.follow(current, take)
            except Exception:  # the worker keeps serving the bundle it has
                log.exception("Looking for a new bundle failed")


def _mark() -> Mark | None:
    try:
        return _mark_of(find_bundle())
    except InputError:
        return None


def _mark_of(bundle: Path) -> Mark | None:
    """Path, inode and modification time of the manifest, which change with the bundle; None while there is none."""
    try:
        found = Path(bundle / MANIFEST).stat()
    except OSError:
        return None
    return str(bundle), found.st_ino, found.st_mtime_ns


def _marks_now() -> tuple[Mark | None, ...] | None:
    """Of the models beside the bundle that is to be served; None while there is none, or its manifest is damaged."""
    try:
        return _marks_of(str(read_json(find_bundle() / MANIFEST).get("source")))  # whole or not: whoever opens it says
    except InputError:
        return None


def _marks_of(source: str) -> tuple[Mark | None, ...]:
    return tuple(map(_mark_of, beside_paths(source)))
