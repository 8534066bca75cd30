"""The feature snapshot and the counters of a source -> what Feast knows of them: entities, views, services.

A request reads the service `ranking` online: a user's newest events. The service `training` has counts as of a time.
Training and serving read those in features/counters.py, by the same as-of join over the very Parquet that is registered
here; tests/features/test_feast_views.py holds it to Feast's own answer.

`python -m features.load` applies the definitions to registry.db in .state/<source>/feast. To see them, and to read them
as of a time: features.load.offline_store over that folder gives Feast's own FeatureStore.
"""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Array, Float32, Int64, String

from features.params import StatisticsParams

PROJECT = "leitmotif"
OWNER = "leitmotif"
TAGS = {"stage": "materialize"}
FOREVER = timedelta(0)  # what is known of a quiet key does not expire

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


def definitions(data: Path, snapshot: Path, statistics: StatisticsParams) -> list[Any]:
    """Everything to apply. Feast stores absolute paths.

    data: data/<source>, where the counters are. snapshot: its feature_snapshot. statistics: how counters are read.
    """
    history, profile = _snapshot_views(snapshot)
    counters = _counter_views(data, statistics)
    ranking = FeatureService(
        name="ranking",
        features=[history],
        description="What a ranking request reads of its user.",
        tags=TAGS,
        owner=OWNER,
    )
    training = FeatureService(
        name="training",
        features=[*counters],
        description="Counts as of a time, of a candidate, its user and both; a history is read by its end_offset.",
        tags={"stage": "train"},
        owner=OWNER,
    )
    return [user, item, history, profile, *counters, ranking, training]


def _counter_views(data: Path, statistics: StatisticsParams) -> list[FeatureView]:
    """One view a table of cumulative counts, over the folder that the stage statistics writes; nothing of it online.

    A view answers with the newest row at or before event_timestamp. A request at t knows what happened strictly before
    t - lag, so its event_timestamp is t - lag - 1 us; a key without a row is null, a count of 0. What happened within a
    trailing window is a difference of two such reads, the older one another window earlier: two rows of one entity
    frame. There is no view a window, for it would be the same view again: Feast's join knows no lag, and gives all
    views of a call one time. Lags and windows are tags, which Feast carries and does not apply.
    """
    of_item = {"shows_lag_s": statistics.shows_lag_s, "clicks_lag_s": statistics.clicks_lag_s}
    of_user = {"shows_lag_s": statistics.user_lag_s, "clicks_lag_s": statistics.user_lag_s}
    windows = tuple(f"{window}s" for window in statistics.windows_s)
    shown = "Of an item, over rows of role impression; a show that was not clicked is in no history."
    return [
        _counters(data / "item_counters", [item], of_item, ("total", *windows), shown),
        _counters(data / "user_counters", [user], of_user, ("total", *windows), "Of a user, over all rows."),
        _counters(data / "user_item_counters", [user, item], of_user, ("total",), "Of a user with an item."),
    ]


def _counters(
    folder: Path, entities: list[Entity], lags: Mapping[str, float], scopes: tuple[str, ...], description: str
) -> FeatureView:
    keys = [Field(name=entity.join_key, dtype=String) for entity in entities]
    return FeatureView(
        name=folder.name,
        entities=entities,
        ttl=FOREVER,
        schema=[
            *keys,
            Field(name="shows", dtype=Int64, description="Shows up to and with the row's time, from the log's start."),
            Field(name="clicks", dtype=Int64, description="Those of the shows that were clicked."),
        ],
        source=_parquet(folder, "occurred_at", "statistics"),
        online=False,
        description=f"{description} Cumulative: read as of t - lag - 1 us.",
        tags={"stage": "statistics", "scopes": ",".join(scopes)} | {name: str(lag) for name, lag in lags.items()},
        owner=OWNER,
    )


def _snapshot_views(snapshot: Path) -> tuple[FeatureView, FeatureView]:
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
            Field(name="event_keys", dtype=Array(Int64), description="A hash of each event's id: what names it."),
            Field(name="session_keys", dtype=Array(Int64), description="A hash of the log's session id, 0 for none."),
            Field(name="session_started_at", dtype=Int64, description="When the first event's session began, us."),
        ],
        source=_parquet(snapshot / "user_history.parquet", "event_timestamp", "materialize"),
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
        source=_parquet(snapshot / "item_profile.parquet", "event_timestamp", "materialize"),
        description="What the catalogue says of an item.",
        tags=TAGS,
        owner=OWNER,
    )
    return history, profile


def _parquet(path: Path, timestamp_field: str, stage: str) -> FileSource:
    """path: one file, or a folder of them; Feast cannot check a pattern."""
    return FileSource(
        name=f"{path.stem}_parquet",
        path=str(path.resolve()),
        timestamp_field=timestamp_field,
        file_format=ParquetFormat(),
        description=f"{path.name}, which the stage {stage} writes.",
        owner=OWNER,
    )
