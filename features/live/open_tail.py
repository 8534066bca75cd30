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
from features.sealed.forgotten import Forgotten, read_forgotten
from features.sealed.known_logs import shared

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
    folder = state.absolute().parent
    if folder.parent.name != ".state":
        return frozenset()
    return read_forgotten(shared(folder.parent.parent / "live" / folder.name))


def place_of(state: Path) -> str:
    """The place of the configured tail, as text without passwords."""
    address = redis_address()
    return f"{live_path(state)} (SQLite)" if address is None else f"the {address.where}"


def open_tail(state: Path, acknowledged: int = 0) -> LiveTail:
    """The tail of a state folder. It applies the list of forgotten users.

    acknowledged: the newest seq that is known to have been acknowledged; later ones are larger, even if the store was
    lost. Raises InputError, at the first use, if the store does not answer or the list cannot be read.
    """
    if address := redis_address():
        from features.live.redis import RedisTail

        return RedisTail(address, prefix_of(state), listed=lambda: forgotten_of(state), acknowledged=acknowledged)
    return open_sqlite(state, acknowledged)


def open_sqlite(state: Path, acknowledged: int = 0) -> LiveTail:
    """The tail of the SQLite file, whichever engine is chosen."""
    from features.live.sqlite import SqliteTail

    return SqliteTail(live_path(state), listed=lambda: forgotten_of(state), acknowledged=acknowledged)


def claim(tail: LiveTail, state: Path, log: str) -> str:
    """The identity of the log that a tail belongs to; this log takes it over if none is recorded."""
    return log if state.absolute().parent.parent.name != ".state" else tail.belongs_to(log)


def prefix_of(state: Path) -> str:
    """The prefix of all of a source's keys in Redis."""
    return f"{PROJECT}:{source_of(state)}"
