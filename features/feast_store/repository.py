"""The feature snapshot and the counters of a source -> what Feast knows of them: entities, views, services.

A request reads the service `ranking` online: a user's newest events, and what is counted of the user. The service
`training` is everything that a row of training data knows in numbers, each as of the row's time: read it with
features/feast_store/retrieve.py, through the offline store of features/feast_store/offline.py, whose tags (lag_s,
strict, sequence) the views carry.

`python -m features.online.load` applies the definitions to registry.db in .state/<source>/feast, as does
`feast -c features/repo apply`. features/encoding/counters.py reads the very Parquet that is registered here;
tests/features/feast_store/test_feast_views.py and test_retrieve.py hold it to Feast's own answer.
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
FOREVER = timedelta(0)  # what is known of a quiet key does not expire


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

COUNTS = [
    Field(name="shows", dtype=Int64, description="Shows, from the log's start."),
    Field(name="clicks", dtype=Int64, description="Those of the shows that were clicked."),
]


def definitions(data: Path, snapshot: Path, history: HistoryParams, statistics: StatisticsParams) -> list[Any]:
    """Everything to apply. Feast stores absolute paths.

    data: data/<source>, where counters and histories are. snapshot: its feature_snapshot. history, statistics: how
    these were made and are read, as read_settings finds them in the snapshot.
    """
    sequence, profile = _snapshot_views(data, snapshot, history)
    state = _state_view(snapshot)
    counters = _counter_views(data, statistics)
    scalars = [*_windows(counters, history, statistics), _event_counts(snapshot, history)]
    ranking = FeatureService(
        name="ranking",
        features=[sequence, state],
        description="What a ranking request reads of its user.",
        tags=TAGS,
        owner=OWNER,
    )
    training = FeatureService(
        name="training",
        features=[*scalars],
        description="What a training row knows in numbers as of its time: all counts, and where its history ends.",
        tags={"stage": "train"},
        owner=OWNER,
    )
    return [user, item, sequence, profile, state, *counters, *scalars, ranking, training]


def sequence_definitions(data: Path, snapshot: Path, history: HistoryParams) -> list[Any]:
    """What a store needs to hold what belongs to users: the entity and its views. Arguments as for definitions."""
    return [user, _snapshot_views(data, snapshot, history)[0], _state_view(snapshot)]


def read_settings(snapshot: Path, stamp: Mapping[str, Any]) -> tuple[HistoryParams, StatisticsParams]:
    """How a snapshot's histories were made and its counters are read. stamp: what its snapshot.json holds."""
    try:
        settings = stamp["settings"]
        made = {name: settings[name] for name in HistoryParams.model_fields}
        return HistoryParams.model_validate(made), StatisticsParams.model_validate(settings["statistics"])
    except (KeyError, ValidationError) as error:
        raise InputError(
            f"{snapshot / 'snapshot.json'} does not say how counters are read ({type(error).__name__}: {error}): "
            "another version made it. `make run` makes it again."
        ) from error


def _counter_views(data: Path, statistics: StatisticsParams) -> list[FeatureView]:
    """One view a table of cumulative counts, over the folder that the stage statistics writes; nothing of it online.

    Without lag: the newest row at or before event_timestamp, as any Feast store reads it. A key without a row is null,
    a count of 0. Lags and scopes are tags that _windows turns into views.
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
        schema=[*keys, *COUNTS],
        source=_parquet(folder, "occurred_at", "statistics"),
        online=False,
        description=f"{description} Cumulative, up to and with event_timestamp.",
        tags={"stage": "statistics", "scopes": ",".join(scopes)} | {name: str(lag) for name, lag in lags.items()},
        owner=OWNER,
    )


def _windows(
    counters: list[FeatureView], history: HistoryParams, statistics: StatisticsParams
) -> Iterator[FeatureView]:
    """One view for each count that a trailing window is a difference of, each over the Parquet of its table.

    `item_shows__total` is what was counted strictly before t - lag, `item_shows__3600s` strictly before t - lag -
    3600 s, so the window's count is the first less the second. `user_counts__session` goes back by session_gap_s.
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
        description=f"{table.name} as counted strictly before t - {lag_s:g} s - {window_s:g} s.",
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
            Field(name="end_offset", dtype=Int64, description="Events of the user's history; null: none."),
        ],
        source=_parquet(snapshot / USER_EVENTS, "occurred_at", "materialize"),
        online=False,
        description="Where a history ends in data/<source>/user_histories: its events strictly before t - lag_s.",
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
            Field(name="labels", dtype=Array(Float32), description="1 clicked, 0 shown and not."),
            Field(name="sessions", dtype=Array(Int64), description="The session of each event, from 0 at the first."),
            Field(name="event_keys", dtype=Array(Int64), description="A hash of each event's id: what names it."),
            Field(name="session_keys", dtype=Array(Int64), description="A hash of the log's session id, 0 for none."),
        ],
        source=_parquet(snapshot / "user_history.parquet", "event_timestamp", "materialize"),
        description="A user's newest events, at most history.max_length; the newest event's time is the row's.",
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
            Field(name="categories", dtype=Array(String), description="All of them, in the catalogue's order."),
            Field(name="published_at", dtype=Int64, description="Microseconds since 1970, UTC; none where unknown."),
            Field(name="embedding", dtype=Array(Float32), description="Dense, of one length; none where unknown."),
        ],
        source=_parquet(snapshot / "item_profile.parquet", "event_timestamp", "materialize"),
        description="What the catalogue says of an item.",
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
            Field(name="counts", dtype=Bytes, description="As features/encoding/user_counts.py packs them."),
        ],
        source=_parquet(snapshot / "user_state.parquet", "event_timestamp", "materialize"),
        description="All that user_counters and user_item_counters have of a user; the newest row's time is its own.",
        tags=TAGS | {"kept_before": "true"},
        owner=OWNER,
    )


def _sequence_tags(data: Path, history: HistoryParams) -> dict[str, str]:
    """What stores need to know: online to merge live events in, offline to cut the histories as of a time."""
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
    """path: one file, or a folder of them; Feast cannot check a pattern."""
    return FileSource(
        name=f"{path.stem}_parquet",
        path=str(path.resolve()),
        timestamp_field=timestamp_field,
        file_format=ParquetFormat(),
        description=f"{path.name}, which the stage {stage} writes.",
        owner=OWNER,
    )
