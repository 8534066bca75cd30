"""An entity frame and feature views -> each row's features as of its time: Feast's DuckDB store with ASOF joins.

It returns what Feast's own store returns, every row once and in the frame's order. Views may have these tags, which
apply to point-in-time joins only; times are exact to the microsecond. With the setting `parts` units join ranges of
rows, in this process or as tasks of Spark (as_of_units.py).

    lag_s: "60"       the view is read as of 60 s before event_timestamp
    strict: "true"    rows exactly at that time are excluded
    sequence: "true"  its arrays are a user's newest `max_length` events, cut from the folder in the tag `histories`
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import ibis
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast.feature_view import FeatureView
from feast.infra.offline_stores.duckdb import (
    DuckDBOfflineStore,
    DuckDBOfflineStoreConfig,
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
from features.engine.engine import HERE
from features.feast_store.as_of_rows import AskedView, retrieve_as_of
from features.feast_store.as_of_units import Retrieval, new_folder, read_parts
from features.terms.convention import micros
from features.terms.params import EngineParams


class LeitmotifOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """The settings of `duckdb` in feature_store.yaml, and who joins."""

    type: StrictStr = "features.feast_store.offline.LeitmotifOfflineStore"
    parts: StrictStr | None = None
    """A folder: units join ranges of rows, and write Parquet files into a folder of each retrieval's own in it."""
    engine: EngineParams = HERE
    """What runs the units, as in params.yaml. Executors of Spark must see the folder."""


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
        store, times = _settings(config), entities[time].drop_null()
        given = time, tuple(asked), str(config.repo_path), filter_by_created_timestamp
        kind, retrieve = AsOfRetrievalJob, partial(retrieve_as_of, entities, *given)
        if store.parts is not None:
            kind, retrieve = PartsRetrievalJob, partial(_by_units, entities, given, Path(store.parts), store.engine)
        return kind(
            retrieve,
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

    def __init__(self, retrieve: Callable[[], Any], **of_feast: Any) -> None:
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


class PartsRetrievalJob(AsOfRetrievalJob):
    """Feast's job over Parquet files that an engine's units write, once. Only to_arrow and to_df hold all rows."""

    def parts(self) -> list[Path]:
        """The files, in the order of the entity frame's rows. Without features on demand."""
        return self._retrieve()

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return read_parts(self.parts())

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return read_parts(self.parts()).to_pandas()

    def persist(self, storage: Any, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Write the result as Feast's own job does, from the files."""
        self.table = ibis.read_parquet([str(part) for part in self.parts()])
        IbisRetrievalJob.persist(self, storage, allow_overwrite, timeout)

    def supports_remote_storage_export(self) -> bool:
        """Always."""
        return True

    def to_remote_storage(self) -> list[str]:
        """The paths of the files. Raises InputError for features on demand, which are not in them."""
        if names := [view.name for view in self.on_demand_feature_views]:
            raise InputError(f"{', '.join(names)}: features on demand are computed by to_arrow and to_df alone.")
        return [str(part) for part in self.parts()]


def _settings(config: RepoConfig) -> LeitmotifOfflineStoreConfig:
    store: Any = config.offline_store
    if store.parts is None and store.engine.name != HERE.name:
        raise InputError(
            f"offline_store.engine is {store.engine.name}, but offline_store.parts names no folder for the files that "
            "its units write. Name one that this process and all executors see."
        )
    return store


def _by_units(
    entities: pa.Table, given: tuple[str, tuple[AskedView, ...], str, bool], parts: Path, engine: EngineParams
) -> list[Path]:
    return Retrieval(new_folder(parts), *given).join(entities, engine)


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
