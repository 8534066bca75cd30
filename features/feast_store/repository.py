"""The feature snapshot and the counters of a source -> Feast's definitions: entities, feature views, feature services.

The service `ranking` is read online for a request: a user's newest events and counts. The service `training` has all
scalars of a training row as of its time: read it with features/feast_store/retrieve.py, through the offline store of
features/feast_store/offline.py, which explains the tags lag_s, strict and sequence.

`python -m features.online.load` applies the definitions to registry.db in .state/<source>/feast, as does
`feast -c features/repo apply`. features/encoding/counters.py reads the Parquet files that are registered here;
tests/features/feast_store/test_feast_views.py and test_retrieve.py compare its reads with Feast's.
"""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Array, Bytes, Float32, Int64, String
from pydantic import ValidationError

from contracts.errors import InputError
from features.tables.event_counts import USER_EVENTS
from features.terms.params import HistoryParams, StatisticsParams

PROJECT = "leitmotif"
OWNER = "leitmotif"
TAGS = {"stage": "materialize"}
FOREVER = timedelta(0)  # features never expire, however old a key's newest row is


user = Entity(
    name="user",
    join_keys=["user_id"],
    value_type=ValueType.STRING,
    description="A person; the id is the log's.",
    owner=OWNER,
)
item = Entity(
    name="item",
    join_keys=["item_id"],
    value_type=ValueType.STRING,
    description="Something that can be shown; the id is the log's.",
    owner=OWNER,
)

COUNTS = [
    Field(name="shows", dtype=Int64, description="Number of shows since the log's start."),
    Field(name="clicks", dtype=Int64, description="Number of clicked shows since the log's start."),
]


def definitions(data: Path, snapshot: Path, history: HistoryParams, statistics: StatisticsParams) -> list[Any]:
    """All definitions to apply. Feast stores absolute paths.

    data: data/<source>, with counters and histories. snapshot: its feature_snapshot. history, statistics: the
    snapshot's settings, from read_settings.
    """
    sequence, profile = _snapshot_views(data, snapshot, history)
    state = _state_view(snapshot)
    counters = _counter_views(data, statistics)
    scalars = [*_windows(counters, history, statistics), _event_counts(snapshot, history)]
    ranking = FeatureService(
        name="ranking",
        features=[sequence, state],
        description="What a ranking request reads of its user: newest events and counts.",
        tags=TAGS,
        owner=OWNER,
    )
    training = FeatureService(
        name="training",
        features=[*scalars],
        description="Scalars of a training row as of its time: all counts, and the offset at which its history ends.",
        tags={"stage": "train"},
        owner=OWNER,
    )
    return [user, item, sequence, profile, state, *counters, *scalars, ranking, training]


def sequence_definitions(data: Path, snapshot: Path, history: HistoryParams) -> list[Any]:
    """Only the entity `user` and its online views. Arguments as for `definitions`."""
    return [user, _snapshot_views(data, snapshot, history)[0], _state_view(snapshot)]


def read_settings(snapshot: Path, stamp: Mapping[str, Any]) -> tuple[HistoryParams, StatisticsParams]:
    """The parameters of a snapshot's histories and counters. stamp: content of snapshot.json. Raises InputError."""
    try:
        settings = stamp["settings"]
        made = {name: settings[name] for name in HistoryParams.model_fields}
        return HistoryParams.model_validate(made), StatisticsParams.model_validate(settings["statistics"])
    except (KeyError, ValidationError) as error:
        raise InputError(
            f"{snapshot / 'snapshot.json'} lacks valid settings ({type(error).__name__}: {error}): another version "
            "made it. `make run` makes it again."
        ) from error


def _counter_views(data: Path, statistics: StatisticsParams) -> list[FeatureView]:
    """One offline view per table of cumulative counts, over the folder that the stage statistics writes.

    A read returns the newest row at or before event_timestamp, without lag; null, a count of 0, for a key without a
    row. Lags and scopes are tags; _windows makes views of them.
    """
    of_item = {"shows_lag_s": statistics.shows_lag_s, "clicks_lag_s": statistics.clicks_lag_s}
    of_user = {"shows_lag_s": statistics.user_lag_s, "clicks_lag_s": statistics.user_lag_s}
    windows = tuple(f"{window}s" for window in statistics.windows_s)
    shown = "Counts of an item over rows of role impression, clicked or not."
    return [
        _counters(data / "item_counters", [item], of_item, ("total", *windows), shown),
        _counters(data / "user_counters", [user], of_user, ("total", *windows), "Counts of a user over all rows."),
        _counters(data / "user_item_counters", [user, item], of_user, ("total",), "Counts of a user with an item."),
    ]


def _counters(
    folder: Path, entities: list[Entity], lags: Mapping[str, float], scopes: tuple[str, ...], description: str
) -> FeatureView:
    keys = [Field(name=entity.join_key, dtype=String) for entity in entities]
    return FeatureView(
        name=folder.name,
        entities=entities,
        ttl=FOREVER,
        schema=[*keys, *COUNTS],
        source=_parquet(folder, "occurred_at", "statistics"),
        online=False,
        description=f"{description} Cumulative, event_timestamp included.",
        tags={"stage": "statistics", "scopes": ",".join(scopes)} | {name: str(lag) for name, lag in lags.items()},
        owner=OWNER,
    )


def _windows(
    counters: list[FeatureView], history: HistoryParams, statistics: StatisticsParams
) -> Iterator[FeatureView]:
    """Views over the counters' Parquet files, from whose differences the counts of trailing windows are computed.

    `item_shows__total` counts strictly before t - lag, `item_shows__3600s` strictly before t - lag - 3600 s; the
    window's count is their difference. `user_counts__session` is as of session_gap_s earlier.
    """
    of_item, of_user, of_pair = counters
    scopes = {"total": 0.0} | {f"{window}s": float(window) for window in statistics.windows_s}
    for scope, window_s in scopes.items():
        yield _window(of_item, "item_shows", scope, COUNTS[:1], statistics.shows_lag_s, window_s)
        yield _window(of_item, "item_clicks", scope, COUNTS[1:], statistics.clicks_lag_s, window_s)
        yield _window(of_user, "user_counts", scope, COUNTS, statistics.user_lag_s, window_s)
    yield _window(of_user, "user_counts", "session", COUNTS[:1], statistics.user_lag_s, history.session_gap_s)
    yield _window(of_pair, "user_item_counts", "total", COUNTS, statistics.user_lag_s, 0.0)


def _window(
    table: FeatureView, name: str, scope: str, counts: list[Field], lag_s: float, window_s: float
) -> FeatureView:
    columns = {column.name for column in table.entity_columns}
    return FeatureView(
        name=f"{name}__{scope}",
        entities=[entity for entity in (user, item) if entity.join_key in columns],
        ttl=FOREVER,
        schema=[*(Field(name=column, dtype=String) for column in sorted(columns)), *counts],
        source=table.batch_source,
        online=False,
        description=f"{table.name} strictly before t - {lag_s:g} s - {window_s:g} s.",
        tags={"stage": "statistics", "of": name.rsplit("_", 1)[0], "scope": scope}
        | {"lag_s": repr(lag_s + window_s), "strict": "true"},
        owner=OWNER,
    )


def _event_counts(snapshot: Path, history: HistoryParams) -> FeatureView:
    return FeatureView(
        name="user_events",
        entities=[user],
        ttl=FOREVER,
        schema=[
            Field(name="user_id", dtype=String),
            Field(name="end_offset", dtype=Int64, description="Number of events in the user's history; null: none."),
        ],
        source=_parquet(snapshot / USER_EVENTS, "occurred_at", "materialize"),
        online=False,
        description="Where a history ends in data/<source>/user_histories: number of events strictly before t - lag_s.",
        tags=TAGS | {"lag_s": repr(history.lag_s), "strict": "true"},
        owner=OWNER,
    )


def _snapshot_views(data: Path, snapshot: Path, history: HistoryParams) -> tuple[FeatureView, FeatureView]:
    sequence = FeatureView(
        name="user_history",
        entities=[user],
        ttl=FOREVER,
        schema=[
            Field(name="user_id", dtype=String),
            Field(name="item_ids", dtype=Array(String), description="Items, oldest first."),
            Field(name="occurred_at", dtype=Array(Int64), description="Times, microseconds since 1970, UTC."),
            Field(name="labels", dtype=Array(Float32), description="1: clicked, 0: shown but not clicked."),
            Field(name="sessions", dtype=Array(Int64), description="Session number of each event, from 0."),
            Field(name="event_keys", dtype=Array(Int64), description="A hash of each event's id."),
            Field(name="session_keys", dtype=Array(Int64), description="A hash of the log's session id, 0 for none."),
        ],
        source=_parquet(snapshot / "user_history.parquet", "event_timestamp", "materialize"),
        description="A user's newest events, at most history.max_length; event_timestamp is the newest event's time.",
        tags=TAGS | _sequence_tags(data, history),
        owner=OWNER,
    )
    profile = FeatureView(
        name="item_profile",
        entities=[item],
        ttl=FOREVER,
        schema=[
            Field(name="item_id", dtype=String),
            Field(name="title", dtype=String),
            Field(name="categories", dtype=Array(String), description="All categories, in the catalogue's order."),
            Field(name="published_at", dtype=Int64, description="Microseconds since 1970, UTC; null if unknown."),
            Field(name="embedding", dtype=Array(Float32), description="Dense vector of one length; empty if unknown."),
        ],
        source=_parquet(snapshot / "item_profile.parquet", "event_timestamp", "materialize"),
        description="An item's row of the catalogue.",
        tags=TAGS,
        owner=OWNER,
    )
    return sequence, profile


def _state_view(snapshot: Path) -> FeatureView:
    return FeatureView(
        name="user_state",
        entities=[user],
        ttl=FOREVER,
        schema=[
            Field(name="user_id", dtype=String),
            Field(name="counts", dtype=Bytes, description="Packed by features/encoding/user_counts.py."),
        ],
        source=_parquet(snapshot / "user_state.parquet", "event_timestamp", "materialize"),
        description="A user's rows of user_counters and user_item_counters; event_timestamp is the newest row's time.",
        tags=TAGS | {"kept_before": "true"},
        owner=OWNER,
    )


def _sequence_tags(data: Path, history: HistoryParams) -> dict[str, str]:
    """Settings for the online store, to merge live events, and for the offline store, to cut histories as of a time."""
    return {
        "sequence": "true",
        "labels": history.labels,
        "max_length": str(history.max_length),
        "session_gap_s": repr(history.session_gap_s),
        "session_max_s": "" if history.session_max_s is None else repr(history.session_max_s),
        "histories": str((data / "user_histories").resolve()),
        "lag_s": repr(history.lag_s),
        "strict": "true",
    }


def _parquet(path: Path, timestamp_field: str, stage: str) -> FileSource:
    """A Parquet source. path: one file, or a folder of them; Feast cannot check a pattern."""
    return FileSource(
        name=f"{path.stem}_parquet",
        path=str(path.resolve()),
        timestamp_field=timestamp_field,
        file_format=ParquetFormat(),
        description=f"{path.name}, written by the stage {stage}.",
        owner=OWNER,
    )
