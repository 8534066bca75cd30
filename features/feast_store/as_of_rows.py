"""An entity table and requested views -> each row's features as of its time, strict and lagged as offline.py says."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from feast.data_source import DataSource
from feast.feature_view import FeatureView
from feast.infra.offline_stores.duckdb import _read_data_source

from contracts.errors import InputError
from features.feast_store.as_of_join import NO_FACT, UNKNOWN_KEY, AsOfJoin, number_keys, take
from features.feast_store.cut import cut_histories
from features.terms.convention import micros

Int64 = npt.NDArray[np.int64]

BEFORE_TIME = np.iinfo(np.int64).min
"""Replaces a null time: no fact is before it."""


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
    entities: pa.Table,
    time: str,
    asked: Sequence[AskedView],
    repo_path: str,
    by_arrival: bool,
    of_asked: bool = False,
) -> pa.Table:
    """The entity table, in its order, with a column added for each requested feature.

    by_arrival: a row is also unknown before its created timestamp, if the source has one. of_asked: read only facts of
    the entities' keys and times; worth its cost where these are a small part of all.
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
        columns |= _join(entities, at, views, repo_path, by_arrival, of_asked)
    for each in asked:
        for name in each.names:
            entities = entities.append_column(name, columns[name])
    return entities


def _join(
    entities: pa.Table, at: Int64, views: Sequence[AskedView], repo_path: str, by_arrival: bool, of_asked: bool
) -> dict[str, pa.ChunkedArray]:
    """The columns of views that read the same rows by the same keys, which are read and sorted once."""
    first, source = views[0], views[0].source
    features = sorted({name for each in views for name in each.features})
    table = _read_facts(source, [*first.keys], features, repo_path)
    if of_asked:
        table = _of_asked(table, [entities[name] for name in first.keys.values()], at)
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


def _of_asked(facts: ir.Table, keys: Sequence[pa.ChunkedArray], at: Int64) -> ir.Table:
    """The facts that have the keys' values and are not later than every row."""
    newest: Any = int(at.max(initial=BEFORE_TIME))
    facts = facts.filter(facts["at"] <= newest)
    for number, column in enumerate(keys):
        name = f"key_{number}"
        kind = facts.select(name).schema().to_pyarrow().field(name).type
        known = ibis.memtable(pa.table({name: column.cast(kind).unique().drop_null()}))
        facts = facts.semi_join(known, name)
    return facts


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
