"""live/<source>.db -> the live events of a source in one SQLite file: a tail for the processes of one machine."""

import contextlib
import logging
import os
import random
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

from contracts.errors import InputError
from features.live.deadline import left_s
from features.live.tail import Listed, Marks, nobody
from features.sealed.event import EVENT, OUTCOME, SQLITE, Fate, LiveEvent
from features.sealed.forgotten import hash_of
from features.sealed.owner import BELONGS, CLAIM, WHOSE, noted_in
from features.terms.convention import key_of_text

log = logging.getLogger("leitmotif")

T = TypeVar("T")

VERSION = 2
WAIT_S = 5.0
"""How long a lock of another process is waited for, where no request is due earlier (features/live/deadline.py)."""
PAUSES_S = (0.0005, 0.02)
"""The first and the longest pause between two tries."""
PRUNED_AT_ONCE = 2_000
SCHEMA = """
CREATE TABLE IF NOT EXISTS log (
    seq INTEGER PRIMARY KEY, event_id TEXT NOT NULL, revision INTEGER NOT NULL, user_id TEXT NOT NULL,
    item_id TEXT NOT NULL, occurred_at INTEGER NOT NULL, label REAL NOT NULL, role TEXT NOT NULL,
    in_history INTEGER NOT NULL, impression_id TEXT, position INTEGER, session_id TEXT, device TEXT,
    is_subscriber INTEGER, reading_item_id TEXT, known_at INTEGER,
    event_key INTEGER NOT NULL, current INTEGER NOT NULL, UNIQUE (event_id, revision)
);
CREATE INDEX IF NOT EXISTS by_user ON log (user_id, current, COUNTS_FROM, item_id, event_key);
CREATE TABLE IF NOT EXISTS forgotten (user TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS marks (name TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
"""
"""current: the row is its user's history: in_history, and not a show whose outcome counts from the same time on.
user: hash_of."""
COUNTS_FROM = "max(occurred_at, ifnull(known_at, occurred_at))"
"""LiveEvent.counts_from."""
SCHEMA = SCHEMA.replace("COUNTS_FROM", COUNTS_FROM)
FROM_1 = f"""
ALTER TABLE log ADD COLUMN known_at INTEGER;
DROP INDEX by_user;
CREATE INDEX by_user ON log (user_id, current, {COUNTS_FROM}, item_id, event_key);
"""
"""Makes a file of version 1 one of this."""
FIELDS = ", ".join(LiveEvent._fields)
NEWEST = "SELECT coalesce(max(seq), 0) FROM marks WHERE name = 'newest'"
PRUNED = "SELECT coalesce(max(seq), 0) FROM marks WHERE name = 'pruned'"
MARK = "INSERT INTO marks VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET seq = excluded.seq"
INSERT = (
    f"INSERT INTO log (seq, {FIELDS}, event_key, current) VALUES ({', '.join('?' * (len(LiveEvent._fields) + 3))}) "
    "ON CONFLICT (event_id, revision) DO NOTHING"
)
OUTCOME_HELD = f"SELECT 1 FROM log WHERE event_id = ? AND revision = {OUTCOME} AND in_history AND {COUNTS_FROM} <= ?"
SUPERSEDE = f"UPDATE log SET current = 0 WHERE event_id = ? AND revision = {EVENT} AND {COUNTS_FROM} >= ?"
HISTORY = (
    f"SELECT {FIELDS} FROM log WHERE user_id = ? AND current = 1 "
    f"ORDER BY {COUNTS_FROM} DESC, item_id DESC, event_key DESC LIMIT ?"
)
BEHIND = "INSERT INTO marks VALUES ('behind', ?) ON CONFLICT (name) DO UPDATE SET seq = min(seq, excluded.seq)"
FORGOTTEN = "SELECT 1 FROM forgotten WHERE user = ?"
HELD = f"SELECT {FIELDS} FROM log WHERE event_id = ? ORDER BY revision LIMIT 1"
SECRETS = "CREATE TABLE IF NOT EXISTS secrets (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"
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
    """A thread's connection, and which files it was opened on."""

    connection: sqlite3.Connection
    file: tuple[int, int] | None
    wal: tuple[int, int] | None


class SqliteTail:
    """See features/live/tail.py. WAL, every acknowledgement on the disk before it is given, a connection a thread.

    path: the file; made, with its folder, at the first use. wait_s: how long a locked file is tried, in seconds.
    acknowledged: the newest seq that is known to have been given, of a file that may be gone: no later one is smaller.
    """

    engine = SQLITE

    def __init__(self, path: Path, wait_s: float = WAIT_S, listed: Listed = nobody, acknowledged: int = 0) -> None:
        self.path = path
        self._acknowledged = acknowledged
        self._file: tuple[int, int] | None = None  # which file was used last, by whichever thread
        self._size = 0  # bytes that it has had: SQLite never makes it smaller, for nothing here vacuums
        self._wal = path.with_name(f"{path.name}-wal")
        self._losing = threading.Lock()
        self._listed = listed
        self._wait_s = wait_s
        # By process and thread: a fork never touches its parent's connections, not even to close them. A thread that
        # is given the number of one that ended takes over its connection.
        self._opened: dict[tuple[int, int], Opened] = {}

    def append(self, events: Sequence[LiveEvent]) -> list[Fate]:
        """One transaction."""
        if not events:
            return []
        fates, newest = self._write(lambda connection: _append(connection, events, self._acknowledged))
        self._acknowledged = max(self._acknowledged, newest)
        return fates

    def newest_seq(self) -> int:
        """A row of one page that is always in memory."""
        newest = self._patiently(lambda connection: connection.execute(NEWEST).fetchone()[0])
        self._acknowledged = max(self._acknowledged, newest)
        return newest

    def marks(self) -> Marks:
        rows = self._patiently(lambda connection: connection.execute("SELECT name, seq FROM marks").fetchall())
        told = dict(rows)
        marks = Marks(told.get("newest", 0), told.get("pruned", 0), told.get("origin", 0), told.get("behind"))
        self._acknowledged = max(self._acknowledged, marks.newest)
        return marks

    def behind(self, us: int) -> int:
        self._write(lambda connection: connection.execute(BEHIND, (us,)))
        told = self.marks().behind
        assert told is not None
        return told

    def size(self) -> int:
        return sum(path.stat().st_size for path in (self.path, self._wal) if path.exists())

    def pruned_seq(self) -> int:
        return self._patiently(lambda connection: connection.execute(PRUNED).fetchone()[0])

    def since(self, seq: int, limit: int = 10_000) -> list[tuple[int, LiveEvent]]:
        query = f"SELECT seq, {FIELDS} FROM log WHERE seq > ? ORDER BY seq LIMIT ?"
        rows = self._patiently(lambda connection: connection.execute(query, (seq, limit)).fetchall())
        return [(row[0], _event(row[1:])) for row in rows]

    def histories(self, user_ids: Sequence[str], length: int) -> list[list[LiveEvent] | None]:
        def read(connection: sqlite3.Connection) -> list[list[LiveEvent] | None]:
            found = []
            for user_id in user_ids:
                rows = connection.execute(HISTORY, (user_id, length)).fetchall()
                gone = connection.execute(FORGOTTEN, (hash_of(user_id),)).fetchone()
                found.append(None if gone else [_event(row) for row in reversed(rows)])
            return found

        return self._patiently(read)

    def held(self, event_ids: Sequence[str]) -> list[LiveEvent | None]:
        def read(connection: sqlite3.Connection) -> list[LiveEvent | None]:
            rows = [connection.execute(HELD, (event_id,)).fetchone() for event_id in event_ids]
            return [None if row is None else _event(row) for row in rows]

        return self._patiently(read)

    def secret(self) -> bytes:
        """In a table of its own, so that files from before there was one get it too."""

        def read(connection: sqlite3.Connection) -> bytes:
            connection.execute(SECRETS)
            connection.execute("INSERT OR IGNORE INTO secrets VALUES ('tail', ?)", (secrets.token_bytes(32),))
            return connection.execute("SELECT value FROM secrets WHERE name = 'tail'").fetchone()[0]

        return self._write(read)

    def belongs_to(self, log: str) -> str:
        """In a table of its own, so that files from before there was one get it too."""
        noted = noted_in(self.path)
        return noted if noted is not None else self._write(lambda connection: _belongs_to(connection, log))

    def forgotten(self, user_ids: Sequence[str]) -> list[bool]:
        return self._are_forgotten([hash_of(user_id) for user_id in user_ids])

    def prune(self, upto_seq: int) -> int:
        """In small transactions; that they are gone is written before the first goes."""

        def mark(connection: sqlite3.Connection) -> int:
            upto = min(upto_seq, connection.execute(NEWEST).fetchone()[0])
            if upto > connection.execute(PRUNED).fetchone()[0]:
                connection.execute(MARK, ("pruned", upto))
            return upto

        upto, dropped = self._write(mark), 0
        query = "DELETE FROM log WHERE seq IN (SELECT seq FROM log WHERE seq <= ? ORDER BY seq LIMIT ?)"
        while gone := self._write(lambda connection: connection.execute(query, (upto, PRUNED_AT_ONCE)).rowcount):
            dropped += gone
        return dropped

    def forget(self, user_ids: Sequence[str]) -> None:
        """Their bytes are overwritten, in the file at once, in its log where no reader holds that open."""
        self._forget([hash_of(user_id) for user_id in user_ids], lambda _: user_ids)

    def forget_hashes(self, digests: Iterable[str]) -> int:
        """One look where it has forgotten them all."""
        told = list(digests)
        lacking = [digest for digest, known in zip(told, self._are_forgotten(told), strict=True) if not known]
        if lacking:
            self._forget(lacking, lambda connection: _users(connection, frozenset(lacking)))
        return len(lacking)

    def _forget(self, digests: Sequence[str], users_of: Callable[[sqlite3.Connection], Sequence[str]]) -> None:
        def drop(connection: sqlite3.Connection) -> None:
            connection.executemany("INSERT OR IGNORE INTO forgotten VALUES (?)", [(digest,) for digest in digests])
            connection.executemany("DELETE FROM log WHERE user_id = ?", [(user,) for user in users_of(connection)])

        self._patiently(lambda connection: connection.execute("PRAGMA secure_delete = ON").fetchone())
        try:
            self._write(drop)
        finally:
            self._patiently(lambda connection: connection.execute("PRAGMA secure_delete = OFF").fetchone())
        self._patiently(lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())

    def drop(self) -> None:
        self.close()
        self._file, self._size = None, 0
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)

    def close(self) -> None:
        for key in [key for key in self._opened if key[0] == os.getpid()]:
            self._opened.pop(key).connection.close()

    def _are_forgotten(self, names: Sequence[str]) -> list[bool]:
        return self._patiently(
            lambda connection: [connection.execute(FORGOTTEN, (name,)).fetchone() is not None for name in names]
        )

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
        """Do it, again and again while the file is locked, and raise InputError for everything else that is wrong."""
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
        self._let_go()  # the file was taken away: what is written must not go with it
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
            self.forget_hashes(self._listed())
        except BaseException:
            self._let_go()
            raise
        return connection

    def _check_whole(self, opened: Opened) -> None:
        """SQLite goes on with a log that has no name any more, and in a file that was cut short: all would be lost."""
        size = os.stat(self.path).st_size
        with self._losing:
            was, self._size = self._size, max(self._size, size)
        if (wal := _file(self._wal)) != opened.wal:
            if wal is None:  # nobody has begun another: what ours holds goes into the file while we still have it
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
        """there: the file that is at the path now."""
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
    """Of two processes that open the file at once, one does it."""
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


def _belongs_to(connection: sqlite3.Connection, log: str) -> str:
    connection.execute(BELONGS)
    connection.execute(CLAIM, (log,))
    return connection.execute(WHOSE).fetchone()[0]


def _append(connection: sqlite3.Connection, events: Sequence[LiveEvent], acknowledged: int) -> tuple[list[Fate], int]:
    seq = max(connection.execute(NEWEST).fetchone()[0], acknowledged)
    now = time.time_ns() // 1_000
    gone: dict[str, bool] = {}
    fates, first = [], seq
    for event in events:
        user_id = event.user_id
        if user_id not in gone:
            gone[user_id] = connection.execute(FORGOTTEN, (hash_of(user_id),)).fetchone() is not None
        if gone[user_id]:
            fates.append(Fate.FORGOTTEN)
            continue
        current = event.in_history
        if current and event.revision == EVENT:
            current = connection.execute(OUTCOME_HELD, (event.event_id, event.counts_from)).fetchone() is None
        row = (max(seq + 1, now), *event, key_of_text(event.event_id), current)
        if not connection.execute(INSERT, row).rowcount:
            fates.append(Fate.REPEATED)
            continue
        if current and event.revision == OUTCOME:
            connection.execute(SUPERSEDE, (event.event_id, event.counts_from))
        seq = row[0]
        fates.append(Fate.NEW)
    if seq != first:
        connection.execute(MARK, ("newest", seq))
    return fates, seq


def _users(connection: sqlite3.Connection, digests: frozenset[str]) -> list[str]:
    """Those who have events here, of these."""
    users = connection.execute("SELECT DISTINCT user_id FROM log").fetchall()
    return [user for (user,) in users if hash_of(user) in digests]


def _event(row: Sequence) -> LiveEvent:
    subscriber = None if row[12] is None else bool(row[12])
    return LiveEvent._make((*row[:7], bool(row[7]), *row[8:12], subscriber, *row[13:]))


def _file(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _name(error: sqlite3.Error) -> str:
    """SQLite's own name of an error, such as SQLITE_BUSY_SNAPSHOT."""
    return getattr(error, "sqlite_errorname", None) or type(error).__name__
