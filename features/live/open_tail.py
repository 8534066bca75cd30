"""A state folder -> its tail of live events, in SQLite or, if chosen, in Redis. No Feast here.

LEITMOTIF_ONLINE=redis, or host:port, chooses Redis, and host:port,host:port,... a Redis Cluster; LEITMOTIF_LIVE names
another file of live events.
"""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from contracts.errors import InputError
from features.live.tail import LiveTail
from features.sealed.event import REDIS, SQLITE
from features.sealed.files import UNREADABLE, engine_of, footer_seq, sealed_files
from features.sealed.forgotten import Forgotten, read_forgotten
from features.sealed.known_logs import shared
from features.tables.partitions import Partition

if TYPE_CHECKING:
    from features.live.redis_address import RedisAddress

PROJECT = "leitmotif"
ENGINE_VARIABLE = "LEITMOTIF_ONLINE"
LIVE_VARIABLE = "LEITMOTIF_LIVE"
REDIS_DEFAULT = "127.0.0.1:6379"


def redis_address() -> "RedisAddress | None":
    """The Redis, or Redis Cluster, that LEITMOTIF_ONLINE names in Feast's form; None: SQLite."""
    told = os.environ.get(ENGINE_VARIABLE, "").strip()
    if told in ("", SQLITE):
        return None
    from features.live.redis_address import FORM, RedisAddress, shown

    if told == "redis":
        told = REDIS_DEFAULT
    if re.fullmatch(FORM, told):
        return RedisAddress.read(told)
    raise InputError(
        f"{ENGINE_VARIABLE} is {shown(told)!r}; it is sqlite (default), redis, or host:port of a Redis, of a "
        "Redis Cluster host:port,host:port,... of some nodes (or one and ,redis_type=redis_cluster), with "
        ",password=... (username, db, ssl=true, ssl_ca_certs=<file>) where it wants them."
    )


def engine() -> str:
    """Which online store is chosen: sqlite or redis."""
    return SQLITE if redis_address() is None else REDIS


def source_of(state: Path) -> str:
    """.state/<source>/feast -> <source>."""
    return state.parent.name


def live_path(state: Path) -> Path:
    """The SQLite file of live events: live/<source>.db beside .state/, so that deleting .state/ does not lose them.

    A temporary state, which is not in .state/, has its own file, regardless of LEITMOTIF_LIVE.
    """
    folder = state.absolute().parent
    if folder.parent.name != ".state":
        return folder / "live.db"
    if told := os.environ.get(LIVE_VARIABLE):
        return Path(told).resolve()
    return folder.parent.parent / "live" / f"{folder.name}.db"


def forgotten_of(state: Path) -> Forgotten:
    """The list live/<source>/forgotten.txt; empty for a temporary state, which is not in .state/."""
    folder = _sealed_of(state)
    return frozenset() if folder is None else read_forgotten(folder)


def given_seq(state: Path, engine: str) -> int:
    """A seq that no sealed event of an engine exceeds: new events get greater ones, else absorb would pass over them.

    It is read from the footer of the engine's newest file; if that is damaged, it is the end of the file's day.
    """
    folder = _sealed_of(state)
    files = [] if folder is None else [path for path in sealed_files(folder) if engine_of(path) == engine]
    if not files:
        return 0
    try:
        return footer_seq(files[-1])
    except (*UNREADABLE, LookupError, ValueError):
        return Partition(files[-1].name.partition(".")[0]).last_us


def place_of(state: Path) -> str:
    """The place of the configured tail, as text without passwords."""
    address = redis_address()
    return f"{live_path(state)} (SQLite)" if address is None else f"the {address.where}"


def open_tail(state: Path, acknowledged: int = 0) -> LiveTail:
    """The tail of a state folder. It applies the list of forgotten users.

    acknowledged: the newest seq that is known to have been acknowledged; later ones are larger than it and than all
    sealed ones, even if the store was lost. Raises InputError, at the first use, if the store does not answer or the
    list cannot be read.
    """
    if address := redis_address():
        from features.live.redis import RedisTail

        given = max(acknowledged, given_seq(state, REDIS))
        return RedisTail(address, prefix_of(state), listed=lambda: forgotten_of(state), acknowledged=given)
    return open_sqlite(state, acknowledged)


def open_sqlite(state: Path, acknowledged: int = 0) -> LiveTail:
    """The tail of the SQLite file, whichever engine is chosen."""
    from features.live.sqlite import SqliteTail

    given = max(acknowledged, given_seq(state, SQLITE))
    return SqliteTail(live_path(state), listed=lambda: forgotten_of(state), acknowledged=given)


def claim(tail: LiveTail, state: Path, log: str) -> str:
    """The identity of the log that a tail belongs to; this log takes it over if none is recorded."""
    return log if state.absolute().parent.parent.name != ".state" else tail.belongs_to(log)


def prefix_of(state: Path) -> str:
    """The prefix of all of a source's keys in Redis."""
    return f"{PROJECT}:{source_of(state)}"


def _sealed_of(state: Path) -> Path | None:
    """The folder live/<source>; None for a temporary state."""
    folder = state.absolute().parent
    return shared(folder.parent.parent / "live" / folder.name) if folder.parent.name == ".state" else None
