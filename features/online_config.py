"""A state folder -> Feast's configuration over it and the tail of live events beside it: SQLite, or Redis where told.

LEITMOTIF_ONLINE=redis, or host:port, chooses Redis; LEITMOTIF_LIVE names another file of live events.
"""

import os
import re
from pathlib import Path
from typing import Any

from feast import RepoConfig

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

        return RedisTail(address, _prefix(state))
    from features.live_sqlite import SqliteTail

    return SqliteTail(live_path(state))


def config(state: Path, offline: str | dict[str, Any], tail_of: Path | None = None) -> RepoConfig:
    """Feast's configuration over a state folder.

    offline: `file` to serve, or the configuration of a store to load and to read as of a time (it imports ibis).
    tail_of: a state folder whose live events are read in place of its own.
    """
    state = state.resolve()  # the link and the folder that it leads to lie side by side: both name the same tail
    return RepoConfig(
        project=_project(state),
        provider="local",
        registry={"path": str(state / "registry.db"), "cache_ttl_seconds": 0},  # 0: a loaded state never changes
        online_store=_online_store(state, (tail_of or state).absolute()),
        offline_store={"type": offline} if isinstance(offline, str) else offline,
        entity_key_serialization_version=3,
    )


def _online_store(state: Path, tail_of: Path) -> dict[str, Any]:
    if address := redis_address():
        return {
            "type": "features.feast_redis.LeitmotifRedisOnlineStore",
            "connection_string": address,
            "tail_prefix": _prefix(tail_of),
        }
    return {
        "type": "features.feast_sqlite.LeitmotifSqliteOnlineStore",
        "path": str(state / "online.db"),
        "tail_path": str(live_path(tail_of)),
    }


def _project(state: Path) -> str:
    """One Redis may hold several sources; a SQLite file holds one."""
    return f"{PROJECT}_{re.sub(r'[^a-z0-9_]', '_', source_of(state).lower())}" if redis_address() else PROJECT


def _prefix(state: Path) -> str:
    return f"{PROJECT}:{source_of(state)}"
