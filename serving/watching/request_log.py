"""LEITMOTIF_REQUEST_LOG -> each ranking that was given, as a line of JSON, so that the same bundle can give it again.

    {"at": ..., "request_id": ..., "route": "/rank", "asked": {...}, "scores": {item: probability},
     "impression_id": ..., "model_version": ..., "snapshot_id": ..., "cold_start_user": ..., "store_away": ...}

A file a worker, rotated: never more than LEITMOTIF_REQUEST_LOG_MB on the disk for each. It holds ids of users.
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
"""Lines that wait for the disk; while it does not take them, one more is left out and counted."""

log = logging.getLogger("leitmotif")


class RequestLog:
    """One a worker, written by a thread of its own: a slow disk slows no answer."""

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
        """None where none is wanted. worker: None: only look whether it could be. Raises InputError."""
        if not (told := os.environ.get(VARIABLE)):
            return None
        size = os.environ.get(SIZE_VARIABLE) or str(DEFAULT_MB)
        if not (size.isascii() and size.isdigit() and len(size) < 8 and int(size) >= NUM_FILES):
            raise InputError(f"{SIZE_VARIABLE} is {size!r}. Set it to whole megabytes for each worker, 8 or more.")
        folder = Path(told)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError("it is not this user's to write")
            return None if worker is None else cls(folder, worker, int(size))
        except OSError as error:
            raise InputError(f"{VARIABLE} names {told}, where no request log can be kept: {error}.") from error

    def keep(self, line: dict[str, Any]) -> None:
        """Soon; never waits."""
        try:
            self._waiting.put_nowait(line)
        except Full:
            metrics.UNLOGGED.inc()

    def close(self) -> None:
        """Write what waits."""
        self._waiting.put(None)
        self._thread.join(5)
        self._handler.close()

    def _write(self) -> None:
        while (line := self._waiting.get()) is not None:
            text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
            self._handler.emit(logging.LogRecord("request", logging.INFO, "", 0, "%s", (text,), None))


class _Counting(RotatingFileHandler):
    """What the disk does not take is counted and said once, until it takes one again."""

    def _open(self) -> TextIOWrapper:
        """Each file is its owner's alone, and no line joins the half one of a killed worker."""
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
            log.exception("The request log cannot be written; rankings go on without it")
        self._is_said = True


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)


def read_log(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of all workers, each worker's oldest first. Those left half by killed workers are counted and said."""
    paths = sorted(folder.glob("requests-*.jsonl*"), key=lambda path: (path.name.split(".")[0], -_turn(path)))
    num_half = 0
    for path in paths:
        with path.open("rb") as lines:  # a half line may end within a character
            for line in lines:
                try:
                    told = json.loads(line.decode()) if line.endswith(b"\n") else None
                except ValueError:
                    told = None
                if told is None:
                    num_half += 1
                else:
                    yield told
    if num_half:
        log.warning("%d lines of %s are not whole, as a killed worker leaves one: left out", num_half, folder)


def _turn(path: Path) -> int:
    told = path.suffix[1:]
    return int(told) if told.isdigit() else 0
