"""A state folder -> Feast's configuration for it, with the SQLite or Redis online store that merges live events."""

import re
from pathlib import Path
from typing import Any

from feast import RepoConfig

from features.live.open_tail import PROJECT, live_path, prefix_of, redis_address, source_of

NEVER_READ = {"type": "remote", "host": "offline.invalid"}
"""The offline store of those who only read online: Feast imports the class of the one it is told, and wants one. This
takes .02 s, Feast's default (Dask's, `file`) .4 s, in the service's first process and in each worker."""


def config(state: Path, offline: str | dict[str, Any], tail_of: Path | None = None) -> RepoConfig:
    """Feast's configuration for a state folder.

    offline: NEVER_READ for serving, `file` to apply definitions, or the configuration of an offline store for loads and
        point-in-time joins, which imports ibis. tail_of: a state folder whose live events are read, not this one's.
    """
    state = state.resolve()  # the link's target is in the same folder as the link, so both lead to the same tail
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
        from features.feast_store.redis import LeitmotifRedisOnlineStore

        told = {"connection_string": address.text, "redis_type": address.redis_type, "tail_prefix": prefix_of(tail_of)}
        return {"type": _path(LeitmotifRedisOnlineStore)} | told
    from features.feast_store.sqlite import LeitmotifSqliteOnlineStore

    told = {"path": str(state / "online.db"), "tail_path": str(live_path(tail_of))}
    return {"type": _path(LeitmotifSqliteOnlineStore)} | told


def _path(store: type) -> str:
    return f"{store.__module__}.{store.__qualname__}"


def _project(state: Path) -> str:
    """The project's name: one per source in Redis, where sources share a server; fixed in SQLite, a file per source."""
    return f"{PROJECT}_{re.sub(r'[^a-z0-9_]', '_', source_of(state).lower())}" if redis_address() else PROJECT
