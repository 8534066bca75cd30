"""Feast over one of four online stores, ours and its own, with two views of the same columns: one tagged a sequence."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, Float32, Int64, String
from feast.value_type import ValueType

from features.feast_store.merge import NewestEvents, live_events, merge
from features.feast_store.sequence_view import ENCODE, EPOCH, Written
from features.sealed.event import LiveEvent
from features.terms.convention import key_of_text
from features.terms.sessions import SessionRule
from tests.features.live_tails import Server
from tests.features.redis_cluster import Cluster

LENGTH = 20
RULE = SessionRule.of(1800, 86400)
TAGS = {"sequence": "true", "session_gap_s": "1800", "session_max_s": "86400", "max_length": str(LENGTH)}
LISTS = {"item_ids": String, "occurred_at": Int64, "labels": Float32, "sessions": Int64}
LISTS |= {"event_keys": Int64, "session_keys": Int64}
NAMES = tuple(ENCODE)


def views(folder: Path, length: int = LENGTH) -> list[Any]:
    """The entity and both views. length: the events that a sequence keeps."""
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
    source = FileSource(name="history", path=str(folder / "history.parquet"), timestamp_field="event_timestamp")
    lists = [Field(name=name, dtype=Array(kind)) for name, kind in LISTS.items()]
    schema = [Field(name="user_id", dtype=String), *lists]
    given: dict[str, Any] = {"entities": [user], "schema": schema, "source": source, "ttl": timedelta(0)}
    return [
        user,
        FeatureView(name="user_history", tags=TAGS | {"max_length": str(length)}, **given),
        FeatureView(name="plain", **given),
    ]


def settings(engine: str, ours: bool, folder: Path, server: Server | None) -> dict[str, Any]:
    """The section online_store of feature_store.yaml."""
    if engine == "sqlite":
        stock: dict[str, Any] = {"type": "sqlite", "path": str(folder / "online.db")}
        own = {
            "type": "features.feast_store.sqlite.LeitmotifSqliteOnlineStore",
            "tail_path": str(folder / "live" / "log.db"),
        }
    else:
        assert server is not None
        told = {"redis_type": "redis_cluster"} if isinstance(server, Cluster) else {}
        stock = {"type": "redis", "connection_string": server.address} | told
        own = {"type": "features.feast_store.redis.LeitmotifRedisOnlineStore", "tail_prefix": f"live:{folder}"}
    return stock | own if ours else stock


def open_feast(
    engine: str, folder: Path, server: Server | None, ours: bool = True, length: int = LENGTH
) -> FeatureStore:
    """Applied already. A folder of its own is a store of its own, in Redis too."""
    folder.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([("user_id", pa.string()), ("event_timestamp", pa.timestamp("us", tz="UTC"))])
    pq.write_table(schema.empty_table(), folder / "history.parquet")
    config = RepoConfig(
        project="p" + "".join(letter for letter in str(folder) if letter.isalnum()),
        provider="local",
        registry={"path": str(folder / "registry.db"), "cache_ttl_seconds": 0},
        online_store=settings(engine, ours, folder, server),
        offline_store={"type": "file"},
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    store.apply(views(folder, length))
    return store


def close(store: FeatureStore) -> None:
    """Let go of files and connections."""
    online = online_of(store)
    if hasattr(online, "tail"):
        online.tail(store.config).close()
    for held in (getattr(online, "_conn", None), getattr(online, "_client", None)):
        if held is not None:
            held.close()


def key_of(user: str) -> EntityKey:
    return EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=user)])


def history_of(events: Sequence[LiveEvent], length: int = LENGTH) -> NewestEvents:
    """As a rebuild would make it."""
    ordered = sorted(events, key=lambda each: (each.occurred_at, each.item_id, key_of_text(each.event_id)))
    history = merge(None, live_events(ordered), RULE, length)
    assert history is not None
    return history


def row_of(user: str, events: Sequence[LiveEvent], length: int = LENGTH) -> Written:
    """What Feast materializes of a user."""
    history = history_of(events, length)
    return key_of(user), {name: encode(history) for name, encode in ENCODE.items()}, newest_at(events), None


def newest_at(events: Sequence[LiveEvent]) -> datetime:
    return EPOCH + timedelta(microseconds=max(each.occurred_at for each in events))


def write(store: FeatureStore, rows: Sequence[Written], view: str = "user_history") -> None:
    online_of(store).online_write_batch(store.config, store.get_feature_view(view), list(rows), None)


def online_of(store: FeatureStore) -> Any:
    return store._get_provider().online_store  # type: ignore[attr-defined]


def append(store: FeatureStore, events: Sequence[LiveEvent]) -> list[Any]:
    return online_of(store).append(store.config, store.get_feature_view("user_history"), events)


def read(
    store: FeatureStore, users: Sequence[str], names: Sequence[str] = NAMES, view: str = "user_history"
) -> list[Mapping[str, Any]]:
    """What get_online_features says of each user."""
    features = [f"{view}:{name}" for name in names]
    columns = store.get_online_features(features, [{"user_id": user} for user in users]).to_dict()
    return [{name: columns[name][row] for name in names} for row in range(len(users))]


def seen(history: NewestEvents) -> dict[str, Any]:
    """A history as read() says it."""
    values = {name: encode(history) for name, encode in ENCODE.items()}
    return {
        name: getattr(value, value.WhichOneof("val")).val if "list" in value.WhichOneof("val") else value.int64_val
        for name, value in values.items()
    }


def timestamp_of(store: FeatureStore, user: str) -> datetime:
    """The event timestamp with which Feast serves a user's row."""
    response = store.get_online_features(["user_history:item_ids"], [{"user_id": user}]).proto
    names = list(response.metadata.feature_names.val)
    return response.results[names.index("item_ids")].event_timestamps[0].ToDatetime(tzinfo=UTC)
