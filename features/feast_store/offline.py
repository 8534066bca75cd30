"""An entity frame and feature views -> each row's features as of its time: Feast's DuckDB store with ASOF joins.

It returns what Feast's own store returns, every row once and in the frame's order. Views may have these tags, which
apply to point-in-time joins only; times are exact to the microsecond:

    lag_s: "60"       the view is read as of 60 s before event_timestamp
    strict: "true"    rows exactly at that time are excluded
    sequence: "true"  its arrays are a user's newest `max_length` events, cut from the folder in the tag `histories`
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, cast

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast.data_source import DataSource
from feast.feature_view import FeatureView
from feast.infra.offline_stores.duckdb import (
    DuckDBOfflineStore,
    DuckDBOfflineStoreConfig,
    _read_data_source,
    _write_data_source,
)
from feast.infra.offline_stores.ibis import IbisRetrievalJob
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from pydantic import StrictStr

from contracts.errors import InputError
from contracts.schema import TIME
from features.feast_store.as_of_join import NO_FACT, UNKNOWN_KEY, AsOfJoin, number_keys, take
from features.feast_store.cut import cut_histories
from features.terms.convention import micros

Int64 = npt.NDArray[np.int64]

BEFORE_TIME = np.iinfo(np.int64).min
"""Replaces a null time: no fact is before it."""


class LeitmotifOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """The same settings in feature_store.yaml as for `duckdb`."""

    type: StrictStr = "features.feast_store.offline.LeitmotifOfflineStore"


class LeitmotifOfflineStore(DuckDBOfflineStore):
    """Overrides point-in-time joins; materialization and everything else is Feast's."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """A job that joins when its result is first asked for."""
        if not isinstance(entity_df, pd.DataFrame):
            raise InputError(
                f"entity_df is {type(entity_df).__name__}, but must be a pandas frame. Run the query, or list the keys "
                "and times, and pass the frame."
            )
        on_demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        if substrait := [view.name for view in on_demand if view.mode == "substrait"]:
            raise InputError(f"{', '.join(substrait)}: mode substrait is not supported here; use pandas or python.")
        time = infer_event_timestamp_from_entity_df(dict(entity_df.dtypes))
        entities = _entity_table(entity_df, time)
        asked = [_ask(view, feature_refs, full_feature_names) for view in feature_views]
        _check_columns(entities, asked)
        store: Any = config.offline_store
        times = entities[time].drop_null()
        return AsOfRetrievalJob(
            lambda: retrieve_as_of(entities, time, asked, str(config.repo_path), filter_by_created_timestamp),
            on_demand_feature_views=on_demand,
            full_feature_names=full_feature_names,
            metadata=RetrievalMetadata(
                features=feature_refs,
                keys=[name for name in entities.column_names if name != time],
                min_event_timestamp=pc.call_function("min", [times]).as_py(),
                max_event_timestamp=pc.call_function("max", [times]).as_py(),
            ),
            data_source_writer=_write_data_source,
            staging_location=store.staging_location,
            staging_location_endpoint_override=store.staging_location_endpoint_override,
            repo_path=str(config.repo_path),
        )


class AsOfRetrievalJob(IbisRetrievalJob):
    """Feast's job over a table that is computed lazily, once."""

    def __init__(self, retrieve: Callable[[], pa.Table], **of_feast: Any) -> None:
        super().__init__(table=None, **of_feast)
        self._retrieve = cache(retrieve)

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._retrieve()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._retrieve().to_pandas()

    def persist(self, storage: Any, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Write the result as Feast's own job does."""
        self.table = ibis.memtable(self._retrieve())
        super().persist(storage, allow_overwrite, timeout)

    def to_remote_storage(self) -> list[str]:
        """Write the result to the staging location."""
        self.table = ibis.memtable(self._retrieve())
        return super().to_remote_storage()


@dataclass(frozen=True)
class AskedView:
    """The requested part of one view."""

    view: FeatureView
    keys: dict[str, str]  # the view's join key -> the entity frame's column
    features: list[str]  # names in the view
    names: list[str]  # names in the result
    back_us: int  # the view is read as of event_timestamp minus this

    @property
    def source(self) -> DataSource:
        """The source of the view's rows. Raises InputError if it has none."""
        if self.view.batch_source is None:
            raise InputError(f"Feature view {self.view.name} has no batch source: it cannot be joined as of a time.")
        return self.view.batch_source

    @property
    def is_sequence(self) -> bool:
        """Whether the view's arrays are cut from stored histories."""
        return self.view.tags.get("sequence") == "true"

    def facts_id(self) -> tuple[Any, ...]:
        """Equal for views that read the same rows by the same keys."""
        return self.source.to_proto().SerializeToString(deterministic=True), tuple(self.keys.items())


def retrieve_as_of(
    entities: pa.Table, time: str, asked: Sequence[AskedView], repo_path: str, by_arrival: bool
) -> pa.Table:
    """The entity table, in its order, with a column added for each requested feature.

    by_arrival: a row is also unknown before its created timestamp, if the source has one.
    """
    at = entities[time].cast(pa.int64()).fill_null(BEFORE_TIME).to_numpy()
    columns: dict[str, pa.ChunkedArray] = {}
    groups: dict[tuple[Any, ...], list[AskedView]] = {}
    for each in asked:
        if each.is_sequence:
            columns |= _cut(entities, at, each)
        else:
            groups.setdefault(each.facts_id(), []).append(each)
    for views in groups.values():
        columns |= _join(entities, at, views, repo_path, by_arrival)
    for each in asked:
        for name in each.names:
            entities = entities.append_column(name, columns[name])
    return entities


def _join(
    entities: pa.Table, at: Int64, views: Sequence[AskedView], repo_path: str, by_arrival: bool
) -> dict[str, pa.ChunkedArray]:
    """The columns of views that read the same rows by the same keys, which are read and sorted once."""
    first, source = views[0], views[0].source
    features = sorted({name for each in views for name in each.features})
    table = _read_facts(source, [*first.keys], features, repo_path)
    facts, backend = table.to_pyarrow(), cast(Any, ibis.get_backend(table))
    keys, asking = number_keys(
        [facts[f"key_{number}"] for number in range(len(first.keys))], [entities[name] for name in first.keys.values()]
    )
    fact_at = facts["at"].to_numpy()
    created = facts["created"] if source.created_timestamp_column else None
    join = AsOfJoin(backend.con, keys, fact_at, created, by_arrival and created is not None)
    join.ask(np.where(at == BEFORE_TIME, UNKNOWN_KEY, asking), at)
    columns: dict[str, pa.ChunkedArray] = {}
    for each in views:
        chosen = join.newest(each.back_us)
        if each.view.ttl and len(fact_at):
            expired = fact_at[chosen] + micros(each.view.ttl.total_seconds()) < at - each.back_us
            chosen = np.where(expired, NO_FACT, chosen)
        columns |= zip(each.names, take(facts, [f"feature_{name}" for name in each.features], chosen), strict=True)
    join.close()
    return columns


def _read_facts(source: DataSource, keys: Sequence[str], features: Sequence[str], repo_path: str) -> ir.Table:
    """Columns key_0, key_1, ..., at, created (both us) and the features, of all rows with a time."""
    table = _read_data_source(source, repo_path)
    for old, new in source.field_mapping.items():
        if old in table.columns:
            table = table.rename({new: old})
    columns: dict[str, ir.Value] = {f"key_{number}": table[key] for number, key in enumerate(keys)}
    columns |= {f"feature_{name}": table[name] for name in features}
    columns["at"] = _micros_of(table[source.timestamp_field])
    if source.created_timestamp_column:
        columns["created"] = _micros_of(table[source.created_timestamp_column])
    return table.select(**columns).filter(ibis._["at"].notnull())


@ibis.udf.scalar.builtin(signature=((dt.Timestamp(timezone="UTC"),), dt.int64))
def epoch_us(at) -> int:  # type: ignore[empty-body]
    """DuckDB's built-in function."""


def _micros_of(column: ir.Value) -> ir.Value:
    """Microseconds; a time without a zone is read as UTC."""
    utc: Any = dt.Timestamp(timezone="UTC")
    return epoch_us(column.cast(utc))


def _cut(entities: pa.Table, at: Int64, asked: AskedView) -> dict[str, pa.ChunkedArray]:
    tags, name = asked.view.tags, asked.view.name
    if missing := [tag for tag in ("histories", "max_length") if tag not in tags]:
        raise InputError(
            f"{name} is tagged as a sequence but lacks the tag {missing[0]}. `make load` applies the definitions."
        )
    folder = Path(tags["histories"])
    if not folder.is_dir():
        raise InputError(
            f"{name} is cut from {folder}, which does not exist. `make run` makes it, `make pull` fetches it."
        )
    (user,) = asked.keys.values()
    before = np.where(
        at == BEFORE_TIME, BEFORE_TIME, at - asked.back_us + 1
    )  # inclusive: strictly before the next microsecond
    found = cut_histories(folder, entities[user], before, int(tags["max_length"]), asked.features)
    return {named: found[feature] for feature, named in zip(asked.features, asked.names, strict=True)}


def _entity_table(entity_df: pd.DataFrame, time: str) -> pa.Table:
    """The caller's columns unchanged, with the time in UTC microseconds."""
    times = pa.array(pd.to_datetime(entity_df[time], utc=True), from_pandas=True).cast(TIME, safe=False)
    table = pa.Table.from_pandas(entity_df, preserve_index=False).replace_schema_metadata(None)
    return table.set_column(table.column_names.index(time), time, times)


def _ask(view: FeatureView, feature_refs: Sequence[str], full_feature_names: bool) -> AskedView:
    projection = view.projection
    prefix = f"{projection.name_to_use()}:"
    features = [reference.removeprefix(prefix) for reference in feature_refs if reference.startswith(prefix)]
    shown = f"{projection.name_alias or view.name}__" if full_feature_names else ""
    lag_us = micros(float(view.tags.get("lag_s", 0)))
    if lag_us < 0:
        raise InputError(
            f"{view.name}: lag_s is {view.tags['lag_s']}, and must be at least 0: a negative lag reads the future."
        )
    return AskedView(
        view=view,
        keys={column.name: projection.join_key_map.get(column.name, column.name) for column in view.entity_columns},
        features=features,
        names=[f"{shown}{feature}" for feature in features],
        back_us=lag_us + (view.tags.get("strict") == "true"),
    )


def _check_columns(entities: pa.Table, asked: Sequence[AskedView]) -> None:
    names = [*entities.column_names, *(name for each in asked for name in each.names)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"The result would have several columns named {', '.join(twice)}. Pass full_feature_names=True, or rename "
            "the entity frame's columns."
        )
    for each in asked:
        if missing := [column for column in each.keys.values() if column not in entities.column_names]:
            raise InputError(
                f"entity_df has no column {', '.join(missing)}, by which {each.view.name} is joined; it has "
                f"{', '.join(entities.column_names)}."
            )
