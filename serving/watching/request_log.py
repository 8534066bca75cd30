"""LEITMOTIF_REQUEST_LOG -> a log of delivered rankings as JSON lines, with all that the bundle needs to repeat them.

    {"at": ..., "request_id": ..., "route": "/rank", "asked": {...}, "scores": {item: probability},
     "impression_id": ..., "model_version": ..., "snapshot_id": ..., "cold_start_user": ..., "store_away": ...}

Each worker writes its own file, which is rotated: at most LEITMOTIF_REQUEST_LOG_MB per worker. It contains user ids.
"""

import json
import logging
import os
from collections.abc import Iterator
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from queue import Full, Queue
from threading import Thread
from typing import Any

from contracts.errors import InputError
from serving.watching import metrics

VARIABLE, SIZE_VARIABLE = "LEITMOTIF_REQUEST_LOG", "LEITMOTIF_REQUEST_LOG_MB"
DEFAULT_MB = 256
NUM_FILES = 8
MAX_WAITING = 1000
"""Most lines that wait for the disk; beyond it, lines are dropped and counted."""

log = logging.getLogger("leitmotif")


class RequestLog:
    """One per worker, written by a background thread, so that a slow disk does not delay answers."""

    def __init__(self, folder: Path, worker: int, max_mb: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"requests-{worker}.jsonl"
        path.touch(mode=0o600)
        size = max_mb * 2**20 // NUM_FILES
        self._handler = _Counting(path, maxBytes=size, backupCount=NUM_FILES - 1, encoding="utf-8", delay=True)
        self._waiting: Queue[dict[str, Any] | None] = Queue(MAX_WAITING)
        self._thread = Thread(target=self._write, name="request-log", daemon=True)
        self._thread.start()

    @classmethod
    def read(cls, worker: int | None) -> "RequestLog | None":
        """The log; None if not configured. worker: None: only check the settings. Raises InputError."""
        if not (name := os.environ.get(VARIABLE)):
            return None
        size = os.environ.get(SIZE_VARIABLE) or str(DEFAULT_MB)
        if not (size.isascii() and size.isdigit() and len(size) < 8 and int(size) >= NUM_FILES):
            raise InputError(f"{SIZE_VARIABLE} is {size!r}. Set it to whole megabytes per worker, at least 8.")
        folder = Path(name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError("it is not writable by this user")
            return None if worker is None else cls(folder, worker, int(size))
        except OSError as error:
            raise InputError(f"{VARIABLE} is {name}, where no request log can be written: {error}.") from error

    def keep(self, line: dict[str, Any]) -> None:
        """Queue a line to be written; never blocks."""
        try:
            self._waiting.put_nowait(line)
        except Full:
            metrics.UNLOGGED.inc()

    def close(self) -> None:
        """Write the queued lines and stop."""
        self._waiting.put(None)
        self._thread.join(5)
        self._handler.close()

    def _write(self) -> None:
        while (line := self._waiting.get()) is not None:
            text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
            self._handler.emit(logging.LogRecord("request", logging.INFO, "", 0, "%s", (text,), None))


class _Counting(RotatingFileHandler):
    """Counts lines that cannot be written, and logs the first failure."""

    def _open(self) -> TextIOWrapper:
        """Open a file that only its owner can read; end a partial line of a killed worker first."""
        stream: TextIOWrapper = open(self.baseFilename, self.mode, encoding=self.encoding, opener=_open_private)  # noqa: SIM115 # pyright: ignore[reportAssignmentType]  # a mode of text
        try:
            with open(self.baseFilename, "rb") as written:
                if size := os.fstat(written.fileno()).st_size:
                    written.seek(size - 1)
                    if written.read() != b"\n":
                        stream.write("\n")
        except BaseException:
            stream.close()
            raise
        return stream

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        metrics.UNLOGGED.inc()
        if not getattr(self, "_is_said", False):
            log.exception("The request log cannot be written; rankings continue without it")
        self._is_said = True


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)


def read_log(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of all workers, oldest first per worker. Partial lines of killed workers are skipped with a warning."""
    paths = sorted(folder.glob("requests-*.jsonl*"), key=lambda path: (path.name.split(".")[0], -_turn(path)))
    num_partial = 0
    for path in paths:
        with path.open("rb") as lines:  # a partial line may end within a character
            for line in lines:
                try:
                    entry = json.loads(line.decode()) if line.endswith(b"\n") else None
                except ValueError:
                    entry = None
                if entry is None:
                    num_partial += 1
                else:
                    yield entry
    if num_partial:
        log.warning("%d partial lines of %s, as a killed worker leaves them, are skipped", num_partial, folder)


def _turn(path: Path) -> int:
    number = path.suffix[1:]
    return int(number) if number.isdigit() else 0
