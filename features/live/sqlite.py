"""live/<source>.db -> the live events of a source in one SQLite file: a tail for the processes of one machine."""

import logging
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from features.live.clock import Behind, agreed
from features.live.sqlite_file import WAIT_S, SqliteFile
from features.live.sqlite_statements import (
    BEHIND,
    FIELDS,
    FORGOTTEN,
    HELD,
    HISTORY,
    INSERT,
    MARK,
    NEWEST,
    OUTCOME_HELD,
    PRUNED,
    SECRETS,
    SUPERSEDE,
)
from features.live.tail import Listed, Marks, nobody
from features.sealed.event import EVENT, OUTCOME, SQLITE, Fate, LiveEvent
from features.sealed.forgotten import hash_of
from features.sealed.owner import BELONGS, CLAIM, WHOSE, noted_in
from features.terms.convention import key_of_text

log = logging.getLogger("leitmotif")

T = TypeVar("T")

PRUNED_AT_ONCE = 2_000


class SqliteTail(SqliteFile):
    """Implements features/live/tail.py in WAL mode. Writes are on disk before they are acknowledged.

    path: the file; created, with its folder, at the first use. wait_s: how long a locked file is retried, in seconds.
    acknowledged: the newest seq that is known to have been acknowledged; later ones are larger, even in a new file.
    """

    engine = SQLITE

    def __init__(self, path: Path, wait_s: float = WAIT_S, listed: Listed = nobody, acknowledged: int = 0) -> None:
        super().__init__(path, wait_s, acknowledged)
        self._listed = listed

    def append(self, events: Sequence[LiveEvent]) -> list[Fate]:
        """One transaction."""
        if not events:
            return []
        fates, newest = self._write(lambda connection: _append(connection, events, self._acknowledged))
        self._acknowledged = max(self._acknowledged, newest)
        return fates

    def newest_seq(self) -> int:
        """Reads one row of a page that is always cached."""
        newest = self._patiently(lambda connection: connection.execute(NEWEST).fetchone()[0])
        self._acknowledged = max(self._acknowledged, newest)
        return newest

    def marks(self) -> Marks:
        rows = self._patiently(lambda connection: connection.execute("SELECT name, seq FROM marks").fetchall())
        told = dict(rows)
        marks = Marks(told.get("newest", 0), told.get("pruned", 0), told.get("origin", 0), told.get("behind"))
        self._acknowledged = max(self._acknowledged, marks.newest)
        return marks

    def behind(self, us: int, end_us: int = 0, loaded_at: int = 0) -> int:
        return min(us, self._write(lambda connection: _set_behind(connection, Behind(us, end_us, loaded_at))).us)

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
        """In a separate table, so that it can be added to older files."""

        def read(connection: sqlite3.Connection) -> bytes:
            connection.execute(SECRETS)
            connection.execute("INSERT OR IGNORE INTO secrets VALUES ('tail', ?)", (secrets.token_bytes(32),))
            return connection.execute("SELECT value FROM secrets WHERE name = 'tail'").fetchone()[0]

        return self._write(read)

    def belongs_to(self, log: str) -> str:
        """In a separate table, so that it can be added to older files."""
        noted = noted_in(self.path)
        return noted if noted is not None else self._write(lambda connection: _belongs_to(connection, log))

    def forgotten(self, user_ids: Sequence[str]) -> list[bool]:
        return self._are_forgotten([hash_of(user_id) for user_id in user_ids])

    def prune(self, upto_seq: int) -> int:
        """In small transactions. The seq is recorded before any event is deleted."""

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
        """Their bytes are overwritten: in the file at once, in its WAL unless a reader has it open."""
        self._forget([hash_of(user_id) for user_id in user_ids], lambda _: user_ids)

    def forget_hashes(self, digests: Iterable[str]) -> int:
        """One read if all of them are forgotten already."""
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

    def _are_forgotten(self, names: Sequence[str]) -> list[bool]:
        return self._patiently(
            lambda connection: [connection.execute(FORGOTTEN, (name,)).fetchone() is not None for name in names]
        )

    def _began(self) -> None:
        self.forget_hashes(self._listed())


def _belongs_to(connection: sqlite3.Connection, log: str) -> str:
    connection.execute(BELONGS)
    connection.execute(CLAIM, (log,))
    return connection.execute(WHOSE).fetchone()[0]


def _set_behind(connection: sqlite3.Connection, told: Behind) -> Behind:
    marks = dict(connection.execute("SELECT name, seq FROM marks").fetchall())
    us, end_us, loaded_at = (marks.get(name) for name in BEHIND)
    held = agreed(None if us is None else Behind(us, end_us, loaded_at or 0), told)
    connection.executemany(MARK, [each for each in zip(BEHIND, held, strict=True) if each[1] is not None])
    return held


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
    """The users among these hashes who have events in the file."""
    users = connection.execute("SELECT DISTINCT user_id FROM log").fetchall()
    return [user for (user,) in users if hash_of(user) in digests]


def _event(row: Sequence) -> LiveEvent:
    subscriber = None if row[12] is None else bool(row[12])
    return LiveEvent._make((*row[:7], bool(row[7]), *row[8:12], subscriber, *row[13:]))
