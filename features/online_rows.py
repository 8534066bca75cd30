"""Rows of a snapshot -> Feast's SQLite online store: written by Feast's own path, restamped and removed beside it."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from feast import FeatureStore, FeatureView
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import compute_table_id
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.utils import _convert_arrow_to_proto

ELEMENTS_AT_ONCE = 1 << 19
"""Of list elements, as many become Python objects at once: about 100 MB."""
KEY_VERSION = 3


def write(feast: FeatureStore, view: FeatureView, rows: pa.Table) -> None:
    """Write rows, whatever was there under their ids, as Feast's own materialization engine does."""
    kinds = {column.name: column.dtype.to_value_type() for column in view.entity_columns}
    provider = feast._get_provider()
    for piece in _pieces(rows):
        data = _convert_arrow_to_proto(piece, view, kinds)
        provider.online_write_batch(feast.config, view, data, progress=None)


def restamp(feast: FeatureStore, view: FeatureView, ids: Sequence[str], at: Sequence[int]) -> None:
    """Give rows another event time, in microseconds; their features stay."""
    changes = list(zip(map(_seconds, at), _keys(view, ids), strict=True))
    _execute(feast, f"UPDATE {_quoted(feast, view)} SET event_ts = ? WHERE entity_key = ?", changes)


def remove(feast: FeatureStore, view: FeatureView, ids: Sequence[str]) -> None:
    """Remove rows; a read of them then answers as for an id that never was."""
    keys = [(key,) for key in _keys(view, ids)]
    _execute(feast, f"DELETE FROM {_quoted(feast, view)} WHERE entity_key = ?", keys)


def stored_ids(feast: FeatureStore, view: FeatureView) -> pa.Array:
    """The ids of all rows, as the store itself has them."""
    begins = len(_key(view.join_keys, "")) + 1  # an id's text ends its key
    select = f"SELECT CAST(substr(entity_key, ?) AS TEXT) FROM {_quoted(feast, view)} WHERE feature_name = ?"
    return pa.array([name for (name,) in _select(feast, select, (begins, _lightest(view)))], pa.string())


def newest_ids(feast: FeatureStore, view: FeatureView) -> tuple[datetime | None, list[str]]:
    """The newest event time of all rows, in whole seconds as Feast's SQLite keeps it, and whose it is."""
    begins = len(_key(view.join_keys, "")) + 1
    table, lightest = _quoted(feast, view), _lightest(view)
    ((newest,),) = _select(feast, f"SELECT max(event_ts) FROM {table} WHERE feature_name = ?", (lightest,))
    if newest is None:
        return None, []
    select = f"SELECT CAST(substr(entity_key, ?) AS TEXT) FROM {table} WHERE feature_name = ? AND event_ts = ?"
    ids = [name for (name,) in _select(feast, select, (begins, lightest, newest))]
    return datetime.fromtimestamp(newest).replace(tzinfo=UTC), ids


def path_of(feast: FeatureStore) -> str:
    """The file of the online store."""
    store: Any = feast.config.online_store
    return store.path


def _keys(view: FeatureView, ids: Sequence[str]) -> list[bytes]:
    """Ids as the store's keys of their rows."""
    join_keys = view.join_keys
    return [_key(join_keys, name) for name in ids]


def _key(join_keys: list[str], name: str) -> bytes:
    return serialize_entity_key(EntityKey(join_keys=join_keys, entity_values=[Value(string_val=name)]), KEY_VERSION)


def _pieces(rows: pa.Table) -> Iterator[pa.RecordBatch]:
    """Contiguous batches of a bounded number of list elements, at least one row each."""
    if not len(rows):
        return
    lengths = np.ones(len(rows), np.int64)
    for column in rows.columns:
        if pa.types.is_list(column.type):
            lengths += np.diff(column.combine_chunks().offsets.to_numpy())
    piece = np.cumsum(lengths) // ELEMENTS_AT_ONCE
    first = np.flatnonzero(np.r_[True, piece[1:] != piece[:-1]])
    for begin, end in zip(first, np.r_[first[1:], len(rows)], strict=True):
        yield from rows.slice(begin, end - begin).combine_chunks().to_batches()


def _lightest(view: FeatureView) -> str:
    """The feature whose rows are smallest: SQLite reads past a value to get at a row's time."""
    return min(view.features, key=lambda feature: (hasattr(feature.dtype, "base_type"), feature.name)).name


def _seconds(at: int) -> int:
    """A time as Feast's SQLite keeps it: of whole seconds, UTC read as if it were local time."""
    return int(datetime.fromtimestamp(at / 1e6, UTC).replace(tzinfo=None).timestamp())


def _quoted(feast: FeatureStore, view: FeatureView) -> str:
    registry: Any = feast.config.registry
    return f'"{compute_table_id(feast.project, view, registry.enable_online_feature_view_versioning)}"'


def _execute(feast: FeatureStore, statement: str, values: Sequence[tuple[Any, ...]]) -> None:
    if not values:
        return
    with closing(sqlite3.connect(path_of(feast))) as database, database:
        database.executemany(statement, values)


def _select(feast: FeatureStore, statement: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path_of(feast))) as database:
        return database.execute(statement, values).fetchall()
