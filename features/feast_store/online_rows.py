"""Rows of a snapshot -> Feast's online store. Feast writes rows; stamps, removals and listings bypass it.

This module has the SQLite statements, features/feast_store/redis_rows.py the Redis commands.
"""

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
from feast.utils import _convert_arrow_to_proto

from features.feast_store.entity_keys import KEY_VERSION, entity_key

LENGTH_BYTES = 4
"""Length of the field before an id's text in its key, which has the text's length."""
END_OF_TEXT = b"\xff"
"""Sorts after any UTF-8 text."""
IDS_AT_ONCE = 100
ELEMENTS_AT_ONCE = 1 << 19
"""List elements that are Python objects at once, about 100 MB."""


def write(feast: FeatureStore, view: FeatureView, rows: pa.Table) -> None:
    """Write rows, replacing those of the same ids, as Feast's materialization engine does."""
    provider = feast._get_provider()
    for data in _converted(view, rows):
        provider.online_write_batch(feast.config, view, data, progress=None)


def overwrite(feast: FeatureStore, view: FeatureView, rows: pa.Table, stored: Sequence[str]) -> None:
    """Write rows, also over newer ones, which our stores otherwise keep. Done twice, it ends the same.

    stored: those of their ids that the store has. In a file, which nobody reads yet, these are removed first. The rows
    of a server are read meanwhile, so each is replaced by one command.
    """
    if is_file(feast):
        remove(feast, view, stored)
        write(feast, view, rows)
        return
    for data in _converted(view, rows):
        redis_rows().overwrite(feast, view, data)


def restamp(feast: FeatureStore, view: FeatureView, ids: Sequence[str], at: Sequence[int]) -> None:
    """Change the event time (us) of rows without changing their features."""
    if not is_file(feast):
        redis_rows().restamp(feast, view, ids, at)
        return
    changes = list(zip(map(_seconds, at), _keys(view, ids), strict=True))
    _execute(feast, f"UPDATE {_quoted(feast, view)} SET event_ts = ? WHERE entity_key = ?", changes)


def remove(feast: FeatureStore, view: FeatureView, ids: Sequence[str]) -> None:
    """Remove rows; reads then return what they return for unknown ids."""
    if not is_file(feast):
        redis_rows().remove(feast, view, ids)
        return
    keys = [(key,) for key in _keys(view, ids)]
    _execute(feast, f"DELETE FROM {_quoted(feast, view)} WHERE entity_key = ?", keys)


def stored_ids(feast: FeatureStore, view: FeatureView) -> pa.Array:
    """The ids of all rows in the store."""
    if not is_file(feast):
        return pa.array(list(redis_rows().stored(feast, view)), pa.string())
    begins = len(_key(view.join_keys, "")) + 1  # an id's text ends its key
    select = f"SELECT CAST(substr(entity_key, ?) AS TEXT) FROM {_quoted(feast, view)} WHERE feature_name = ?"
    return pa.array([name for (name,) in _select(feast, select, (begins, _lightest(view)))], pa.string())


def ids_beginning(feast: FeatureStore, view: FeatureView, prefix: str) -> Iterator[str]:
    """The ids that start with the prefix, read page by page. SQLite yields them in order of their keys.

    SQLite skips other ids through its index; for Redis see redis_rows.
    """
    if not is_file(feast):
        yield from redis_rows().ids_beginning(feast, view, prefix)
        return
    head, text = _key(view.join_keys, "")[:-LENGTH_BYTES], prefix.encode()
    select = f"SELECT entity_key FROM {_quoted(feast, view)} WHERE entity_key >= ? AND feature_name = ? "
    select += f"ORDER BY entity_key LIMIT {IDS_AT_ONCE}"
    at, name = head, _lightest(view)
    while keys := [key for (key,) in _select(feast, select, (at, name))]:
        for key in keys:
            length, own = key[len(head) :][:LENGTH_BYTES], key[len(head) + LENGTH_BYTES :]
            if own.startswith(text):
                yield own.decode()
                at = key + b"\0"
            else:  # jump to the prefix among ids of this length or, if past it, to the next length
                at = head + length + (text if own < text else END_OF_TEXT)
                break


def newest_ids(feast: FeatureStore, view: FeatureView) -> tuple[datetime | None, list[str]]:
    """(newest event time of all rows in whole seconds, as stored by Feast's SQLite; the ids of its rows)."""
    if not is_file(feast):
        stored = redis_rows().stored(feast, view)
        seconds = {name: time // 1_000_000 for name, time in stored.items()}
        last = max(seconds.values(), default=None)
        at = None if last is None else datetime.fromtimestamp(last, UTC)
        return at, [name for name, second in seconds.items() if second == last]
    begins = len(_key(view.join_keys, "")) + 1
    table, lightest = _quoted(feast, view), _lightest(view)
    ((newest,),) = _select(feast, f"SELECT max(event_ts) FROM {table} WHERE feature_name = ?", (lightest,))
    if newest is None:
        return None, []
    select = f"SELECT CAST(substr(entity_key, ?) AS TEXT) FROM {table} WHERE feature_name = ? AND event_ts = ?"
    ids = [name for (name,) in _select(feast, select, (begins, lightest, newest))]
    return datetime.fromtimestamp(newest).replace(tzinfo=UTC), ids


def mark(feast: FeatureStore, snapshot_id: str) -> None:
    """Record in a Redis which snapshot its rows belong to; "" while they are being written."""
    if not is_file(feast):
        redis_rows().mark(feast, snapshot_id)


def writer(feast: FeatureStore) -> str | None:
    """The token of the load that `mark` has begun in a Redis; None for a file."""
    return None if is_file(feast) else redis_rows().store_of(feast).writer


def write_for(feast: FeatureStore, writer: str | None) -> None:
    """From now on this `feast` writes rows for the load with that token, which another process has begun."""
    if writer is not None:
        redis_rows().store_of(feast).writer = writer


def is_of(feast: FeatureStore, snapshot_id: str) -> bool:
    """Whether the rows belong to a snapshot. Always true for a file, which its stamp describes."""
    return is_file(feast) or redis_rows().marked(feast)[0] == snapshot_id


def read_as_of(feast: FeatureStore, snapshot_id: str) -> bool:
    """Like is_of; and from now on this `feast` reads views tagged kept_before as of the current load.

    Values that newer loads write are then not read (kept_before.py).
    """
    if is_file(feast):
        return True
    found, load = redis_rows().marked(feast)
    store: Any = feast._get_provider().online_store  # pyright: ignore[reportAttributeAccessIssue]
    store.load = load
    return found == snapshot_id


def drop(feast: FeatureStore) -> None:
    """Remove all rows of all views; for temporary stores."""
    feast.teardown()
    if not is_file(feast):
        redis_rows().unmark(feast)


def is_file(feast: FeatureStore) -> bool:
    """Whether the online store is a SQLite file (new for each load), not a server whose rows change in place."""
    return hasattr(feast.config.online_store, "path")


def redis_rows() -> Any:
    """The module redis_rows, imported only where Redis is used, since it needs the client library."""
    from features.feast_store import redis_rows

    return redis_rows


def path_of(feast: FeatureStore) -> str:
    """The file of the online store."""
    store: Any = feast.config.online_store
    return store.path


def _keys(view: FeatureView, ids: Sequence[str]) -> list[bytes]:
    """The store's keys of ids."""
    join_keys = view.join_keys
    return [_key(join_keys, name) for name in ids]


def _key(join_keys: list[str], name: str) -> bytes:
    return serialize_entity_key(entity_key(join_keys, name), KEY_VERSION)


def _converted(view: FeatureView, rows: pa.Table) -> Iterator[list[Any]]:
    kinds = {column.name: column.dtype.to_value_type() for column in view.entity_columns}
    for piece in _pieces(rows):
        yield _convert_arrow_to_proto(piece, view, kinds)


def _pieces(rows: pa.Table) -> Iterator[pa.RecordBatch]:
    """Contiguous batches of about ELEMENTS_AT_ONCE list elements, at least one row each."""
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
    """The feature with the smallest values: SQLite reads past the value to reach a row's time."""
    return min(view.features, key=lambda feature: (hasattr(feature.dtype, "base_type"), feature.name)).name


def _seconds(at: int) -> int:
    """A time as Feast's SQLite stores it: whole seconds of UTC, interpreted as local time."""
    return int(datetime.fromtimestamp(at / 1e6, UTC).replace(tzinfo=None).timestamp())


def _quoted(feast: FeatureStore, view: FeatureView) -> str:
    registry: Any = feast.config.registry
    return f'"{compute_table_id(feast.project, view, registry.enable_online_feature_view_versioning)}"'


def _execute(feast: FeatureStore, statement: str, values: Sequence[tuple[Any, ...]]) -> None:
    if not values:
        return
    with closing(sqlite3.connect(path_of(feast))) as database, database:
        database.execute("PRAGMA secure_delete = ON")  # so that no bytes of forgotten users stay in free pages
        database.executemany(statement, values)


def _select(feast: FeatureStore, statement: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """By the connection that Feast has open: the file of an open store is removed once a newer load has replaced it."""
    store: Any = feast._get_provider().online_store  # pyright: ignore[reportAttributeAccessIssue]
    return store._get_conn(feast.config).execute(statement, values).fetchall()
