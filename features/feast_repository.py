"""A snapshot folder -> what Feast knows of it: two entities, two views, one service.

A request reads the service `ranking`: a user's newest events. Counters are not in Feast: they are read as of a time, by
features/counters.py. To see the definitions in a running Feast: `python -m features.load`, then registry.db in .state/.
"""

from datetime import timedelta
from pathlib import Path
from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Array, Float32, Int64, String

PROJECT = "leitmotif"
OWNER = "leitmotif"
TAGS = {"stage": "materialize"}
FOREVER = timedelta(0)  # a quiet user's history does not expire

USER_HISTORY_FEATURES = ("item_ids", "occurred_at", "labels", "sessions")

user = Entity(
    name="user",
    join_keys=["user_id"],
    value_type=ValueType.STRING,
    description="A person, by the log's own id.",
    owner=OWNER,
)
item = Entity(
    name="item",
    join_keys=["item_id"],
    value_type=ValueType.STRING,
    description="Something that can be shown, by the log's own id.",
    owner=OWNER,
)


def definitions(snapshot: Path) -> list[Any]:
    """Everything to apply. snapshot: data/<source>/feature_snapshot; Feast stores its absolute path."""
    history = FeatureView(
        name="user_history",
        entities=[user],
        ttl=FOREVER,
        schema=[
            Field(name="user_id", dtype=String),
            Field(name="item_ids", dtype=Array(String), description="Items, oldest first."),
            Field(name="occurred_at", dtype=Array(Int64), description="Times, microseconds since 1970, UTC."),
            Field(name="labels", dtype=Array(Float32), description="1 clicked, 0 shown and not."),
            Field(name="sessions", dtype=Array(Int64), description="The session of each event, from 0."),
        ],
        source=_parquet(snapshot / "user_history.parquet"),
        description="A user's newest events, at most history.max_length; the newest event's time is the row's.",
        tags=TAGS,
        owner=OWNER,
    )
    profile = FeatureView(
        name="item_profile",
        entities=[item],
        ttl=FOREVER,
        schema=[
            Field(name="item_id", dtype=String),
            Field(name="title", dtype=String),
            Field(name="categories", dtype=Array(String), description="All of them, in the catalogue's order."),
            Field(name="published_at", dtype=Int64, description="Microseconds since 1970, UTC; none where unknown."),
            Field(name="embedding", dtype=Array(Float32), description="Dense, of one length; none where unknown."),
        ],
        source=_parquet(snapshot / "item_profile.parquet"),
        description="What the catalogue says of an item.",
        tags=TAGS,
        owner=OWNER,
    )
    ranking = FeatureService(
        name="ranking",
        features=[history],
        description="What a ranking request reads of its user.",
        tags=TAGS,
        owner=OWNER,
    )
    return [user, item, history, profile, ranking]


def _parquet(path: Path) -> FileSource:
    return FileSource(
        name=f"{path.stem}_snapshot",
        path=str(path.resolve()),
        timestamp_field="event_timestamp",
        file_format=ParquetFormat(),
        description=f"The snapshot {path.name} that the stage materialize writes.",
        owner=OWNER,
    )
