"""A state folder -> the tail of live events that belongs to it: SQLite, or Redis where told. No Feast here.

LEITMOTIF_ONLINE=redis, or host:port, chooses Redis; LEITMOTIF_LIVE names another file of live events.
"""

import os
import re
from pathlib import Path

from contracts.errors import InputError
from features.live_tail import LiveTail

PROJECT = "leitmotif"
ENGINE_VARIABLE = "LEITMOTIF_ONLINE"
LIVE_VARIABLE = "LEITMOTIF_LIVE"
REDIS_DEFAULT = "127.0.0.1:6379"


def redis_address() -> str | None:
    """host:port of the Redis that LEITMOTIF_ONLINE names; None: SQLite."""
    told = os.environ.get(ENGINE_VARIABLE, "").strip()
    if told in ("", "sqlite"):
        return None
    if told == "redis":
        return REDIS_DEFAULT
    if re.fullmatch(r"[^\s:/]+:\d+(,.*)?", told):
        return told
    raise InputError(f"{ENGINE_VARIABLE} is {told!r}; it is sqlite (default), redis or host:port of a Redis.")


def source_of(state: Path) -> str:
    """.state/<source>/feast -> <source>."""
    return state.parent.name


def live_path(state: Path) -> Path:
    """The SQLite file of live events: live/<source>.db beside .state/, so that deleting .state/ loses none of them."""
    if told := os.environ.get(LIVE_VARIABLE):
        return Path(told).resolve()
    folder = state.absolute().parent
    if folder.parent.name == ".state":
        return folder.parent.parent / "live" / f"{folder.name}.db"
    return folder / "live.db"


def open_tail(state: Path) -> LiveTail:
    """The live events that belong to a state folder. Raises InputError where their store does not answer."""
    if address := redis_address():
        from features.live_redis import RedisTail

        return RedisTail(address, prefix_of(state))
    from features.live_sqlite import SqliteTail

    return SqliteTail(live_path(state))


def prefix_of(state: Path) -> str:
    """What the names of all keys begin with that a source has in Redis."""
    return f"{PROJECT}:{source_of(state)}"
