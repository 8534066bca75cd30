"""A SQLite file that processes of one machine share: one connection per thread, retries, and detection of lost files.

Writes to a file that is removed, truncated or replaced while in use are refused.
"""

import contextlib
import logging
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

from contracts.errors import InputError
from features.live.deadline import left_s
from features.live.sqlite_statements import FROM_1, SCHEMA, VERSION

log = logging.getLogger("leitmotif")

T = TypeVar("T")

WAIT_S = 5.0
"""How long to wait for another process's lock, unless a request is due earlier (features/live/deadline.py)."""
PAUSES_S = (0.0005, 0.02)
"""The first and the longest pause between two attempts."""
BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")
NEXT_STEP = {
    "SQLITE_FULL": "Free space on its disk; nothing of this call was kept.",
    "SQLITE_READONLY": "Let this process write the file and its folder (`chmod u+w`).",
    "SQLITE_PERM": "Let this process write the file and its folder (`chmod u+w`).",
    "SQLITE_CANTOPEN": "Let this process make the file and write its folder (`ls -ld` shows what is in the way).",
    "SQLITE_IOERR": "Look at its disk (full? a limit on file sizes? gone?); nothing of this call was kept.",
    "SQLITE_CORRUPT": "Move it away; `sqlite3 FILE .recover` saves what can be read of events not yet absorbed.",
    "SQLITE_NOTADB": "Move it away; `sqlite3 FILE .recover` saves what can be read of events not yet absorbed.",
}


class Opened(NamedTuple):
    """A thread's connection and the inodes of its files."""

    connection: sqlite3.Connection
    file: tuple[int, int] | None
    wal: tuple[int, int] | None


class SqliteFile:
    """A file in WAL mode with one connection per thread. Writes are on disk before they return.

    path: the file; created, with its folder, at the first use. wait_s: how long a locked file is retried, in seconds.
    acknowledged: the newest seq that is known to have been acknowledged; the log line about a lost file has its time.
    """

    def __init__(self, path: Path, wait_s: float, acknowledged: int) -> None:
        self.path = path
        self._acknowledged = acknowledged
        self._file: tuple[int, int] | None = None  # inode of the file that any thread used last
        self._size = 0  # largest size so far, in bytes; SQLite never shrinks the file without VACUUM
        self._wal = path.with_name(f"{path.name}-wal")
        self._losing = threading.Lock()
        self._wait_s = wait_s
        # By process and thread: a fork never touches its parent's connections, not even to close them. A new thread
        # with the id of an ended one reuses its connection.
        self._opened: dict[tuple[int, int], Opened] = {}

    def drop(self) -> None:
        self.close()
        self._file, self._size = None, 0
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    def close(self) -> None:
        for key in [key for key in self._opened if key[0] == os.getpid()]:
            self._opened.pop(key).connection.close()

    def _began(self) -> None:
        """Called first on every new connection."""

    def _write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        def transaction(connection: sqlite3.Connection) -> T:
            connection.execute("BEGIN IMMEDIATE")
            try:
                result = change(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            return result

        return self._patiently(transaction)

    def _patiently(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Retry while the file is locked; raise InputError for every other error."""
        wait_s = left_s(self._wait_s)
        if wait_s <= 0:
            raise InputError(
                f"The time for an answer was over before {self.path} could be asked. Nothing was written: send it "
                "again."
            )
        deadline = time.monotonic() + wait_s
        pause, longest = PAUSES_S
        while True:
            try:
                return work(self._connection())
            except sqlite3.Error as error:
                if not _name(error).startswith(BUSY):
                    self._let_go()
                    raise self._refusal(error) from error
                if time.monotonic() > deadline:
                    raise InputError(
                        f"{self.path} has been locked by another process for {wait_s:.2g} s, which is the limit. "
                        f"Nothing was written: send it again. `fuser {self.path}` names the process."
                    ) from error
            except OSError as error:
                raise InputError(
                    f"{self.path} cannot be made: {error}. Choose a folder that this process may write."
                ) from error
            time.sleep(random.uniform(0, pause))
            pause = min(2 * pause, longest)

    def _refusal(self, error: sqlite3.Error) -> InputError:
        name = "_".join(_name(error).split("_")[:2])
        return InputError(
            f"The live events in {self.path} cannot be used: {error} ({_name(error)}). "
            + NEXT_STEP.get(name, "Nothing of this call was kept.").replace("FILE", str(self.path))
        )

    def _connection(self) -> sqlite3.Connection:
        key = (os.getpid(), threading.get_ident())
        opened, there = self._opened.get(key), _file(self.path)
        if opened is not None and opened.file == there:
            self._check_whole(opened)
            return opened.connection
        self._let_go()  # the file was removed or replaced: no more writes to the old one
        self._say_if_lost(there)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._file, self._size = _file(self.path), max(self._size, os.stat(self.path).st_size)
        self._opened[key] = Opened(connection, self._file, _file(self._wal))
        try:
            self._began()
        except BaseException:
            self._let_go()
            raise
        return connection

    def _check_whole(self, opened: Opened) -> None:
        """Refuse a WAL that was unlinked or a file that was truncated, in which SQLite would go on writing."""
        with self._losing:  # from the look on: another thread may see the file grow meanwhile
            size = os.stat(self.path).st_size
            was, self._size = self._size, max(self._size, size)
        if (wal := _file(self._wal)) != opened.wal:
            if wal is None:  # no other WAL exists yet, so ours can still be written to the file
                opened.connection.execute("PRAGMA wal_checkpoint").fetchone()
            raise InputError(
                f"{self._wal} was taken away while it was in use: what was written now would be lost, so nothing is "
                f"taken. End all that uses {self.path} and start it again; what was acknowledged before is in there."
            )
        if size < was:
            raise InputError(
                f"{self.path} was cut short while it was in use, from {was:,} bytes to {size:,}. Nothing is taken. "
                "Stop what uses it, bring the file back from a copy, or move it away, and start again."
            )

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == VERSION:
            return
        if version == 1:
            _from_1(connection)
            return
        if version:
            raise InputError(
                f"{self.path} was written by another version (its format is {version}, ours {VERSION}). "
                "`make absorb` with that version, then move the file away."
            )
        born = f"INSERT OR IGNORE INTO marks VALUES ('origin', {time.time_ns() // 1_000});"
        connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} {born} PRAGMA user_version = {VERSION}; COMMIT;")

    def _say_if_lost(self, there: tuple[int, int] | None) -> None:
        """Log an error if the file was lost. there: inode of the file that is at the path now."""
        with self._losing:
            lost, self._file, self._size = self._file, None, 0
        if lost is not None and there != lost:
            log.error(
                "%s was taken away while it was in use; %s. Live events acknowledged until %s that are not sealed in "
                "live/ are lost with it, and rankings given out before are not known any more. To have them back, stop "
                "what uses it, put the file in place and start again.",
                self.path,
                "it is made anew, empty" if there is None else "another file is in its place",
                datetime.fromtimestamp(self._acknowledged / 1e6, UTC).isoformat(timespec="seconds"),
            )

    def _let_go(self) -> None:
        opened = self._opened.pop((os.getpid(), threading.get_ident()), None)
        if opened is not None:
            with contextlib.suppress(sqlite3.Error):
                opened.connection.close()


def _from_1(connection: sqlite3.Connection) -> None:
    """Migrate a file of version 1; only one of several processes that open it does so."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        if connection.execute("PRAGMA user_version").fetchone()[0] == 1:
            for statement in FROM_1.strip().split(";\n"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _file(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _name(error: sqlite3.Error) -> str:
    """SQLite's name of an error, such as SQLITE_BUSY_SNAPSHOT."""
    return getattr(error, "sqlite_errorname", None) or type(error).__name__
