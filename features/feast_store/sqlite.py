"""Feast's SQLite online store, whose views tagged `sequence` are read together with the live events of a SqliteTail.

Of Feast 0.67 it uses, beside what is public: `SqliteOnlineStore._get_conn` and `_get_db_path`, and of its module
`_initialize_conn`, `_quote_id`, `_table_id` and `adapt_datetime_epoch`, in which form it keeps timestamps.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from feast import FeatureView, RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.sqlite import (
    SqliteOnlineStore,
    SqliteOnlineStoreConfig,
    _initialize_conn,
    _quote_id,
    _table_id,
    adapt_datetime_epoch,
)
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.utils import to_naive_utc

from contracts.errors import InputError
from features.feast_store.sequence_view import Row, SequenceView, Written, newest_of, user_ids
from features.live.sqlite import SqliteTail
from features.sealed.event import Fate, LiveEvent

WRITTEN_AT_ONCE = 200
"""Users of one transaction: no reader waits for more."""
READ_WAIT_MS = 1_000
"""How long a reader waits for a writer of the base."""


class LeitmotifSqliteOnlineStoreConfig(SqliteOnlineStoreConfig):
    """path: the base, which Feast materializes. tail_path: live events; `feast apply` and teardown leave them be."""

    type: Literal["features.feast_store.sqlite.LeitmotifSqliteOnlineStore"] = (  # type: ignore[assignment]
        "features.feast_store.sqlite.LeitmotifSqliteOnlineStore"
    )
    tail_path: str


class LeitmotifSqliteOnlineStore(SqliteOnlineStore):
    """Views without the tag are Feast's own, unchanged."""

    def __init__(self) -> None:
        super().__init__()
        self._tails: dict[Path, SqliteTail] = {}
        self._own = threading.local()  # the connection with which this thread writes

    def tail(self, config: RepoConfig) -> SqliteTail:
        """The live events that this store reads."""
        settings = config.online_store
        assert isinstance(settings, LeitmotifSqliteOnlineStoreConfig)
        path = Path(settings.tail_path)
        if config.repo_path and not path.is_absolute():
            path = config.repo_path / path
        return self._tails.get(path) or self._tails.setdefault(path, SqliteTail(path))

    def append(self, config: RepoConfig, table: FeatureView, events: Sequence[LiveEvent]) -> list[Fate]:
        """Make events part of the sequences of a view, from the next read on. See LiveTail.append."""
        SequenceView.required(table)
        return self.tail(config).append(events)

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[Row]:
        """The tail first, then the base: an event that moves from one to the other meanwhile is in at least one."""
        sequence = SequenceView.of(table)
        if sequence is None:
            return super().online_read(config, table, entity_keys, requested_features)
        live = self.tail(config).histories(user_ids(sequence, entity_keys), sequence.max_length)
        try:
            rows = super().online_read(config, table, entity_keys, requested_features)
        except sqlite3.OperationalError as error:
            raise InputError(
                f"Feast's online store in {self._get_db_path(config)} cannot be read: {error}. Where another process "
                "writes to it, ask again when it has ended; else `make load` loads it again."
            ) from error
        return [sequence.unite(row, events, requested_features) for row, events in zip(rows, live, strict=True)]

    def online_read_together(
        self, config: RepoConfig, wanted: Sequence[tuple[FeatureView, Sequence[str]]], entity_keys: list[EntityKey]
    ) -> list[list[Row]]:
        """Of several views of one entity, each with the features asked for, the rows."""
        return [self.online_read(config, view, entity_keys, list(names)) for view, names in wanted]

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Written],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Of a sequence, small transactions of rows that are not older than what is stored."""
        if SequenceView.of(table) is None:
            super().online_write_batch(config, table, data, progress)
            return
        with self._writing(config) as connection:
            for first in range(0, len(data), WRITTEN_AT_ONCE):
                rows = data[first : first + WRITTEN_AT_ONCE]
                connection.execute("BEGIN IMMEDIATE")  # Feast's write commits it
                newer = self._newer(connection, config, table, rows)
                super().online_write_batch(config, table, newer, None)
                if progress:
                    progress(len(rows))

    def _get_conn(self, config: RepoConfig) -> sqlite3.Connection:
        if connection := getattr(self._own, "connection", None):
            return connection
        connection = super()._get_conn(config)
        connection.execute(f"PRAGMA busy_timeout = {READ_WAIT_MS}")  # the driver's own 5 s outlast a request
        return connection

    @contextmanager
    def _writing(self, config: RepoConfig) -> Iterator[sqlite3.Connection]:
        """A connection of its own: other threads read through the shared one, and never what is half written."""
        connection = _initialize_conn(self._get_db_path(config))
        self._own.connection = connection
        try:
            yield connection
        finally:
            del self._own.connection
            connection.close()

    def _newer(
        self, connection: sqlite3.Connection, config: RepoConfig, table: FeatureView, rows: Sequence[Written]
    ) -> list[Written]:
        """Of each entity the newest of the rows that is not older than the stored one.

        Feast keeps whole seconds of a timestamp; within one second the newest events are compared.
        """
        version = config.entity_key_serialization_version
        keys = [serialize_entity_key(row[0], entity_key_serialization_version=version) for row in rows]
        name = _table_id(
            config.project, table, getattr(config.registry, "enable_online_feature_view_versioning", False)
        )
        stored = connection.execute(
            f"SELECT entity_key, CAST(event_ts AS INTEGER), value FROM {_quote_id(name)} "
            f"WHERE feature_name = 'occurred_at' AND entity_key IN ({','.join('?' * len(keys))})",
            keys,
        )
        newest: dict[bytes, tuple[int, bytes | dict[str, Value]]] = {}
        for key, at, value in stored:
            newest[key] = at, value
        kept: dict[bytes, Written] = {}
        for key, row in zip(keys, rows, strict=True):
            at = adapt_datetime_epoch(to_naive_utc(row[2]))
            if key not in newest or _is_as_new(at, row, *newest[key]):
                newest[key], kept[key] = (at, row[1]), row
        return list(kept.values())


def _is_as_new(at: int, row: Written, stored_at: int, stored: bytes | dict[str, Value]) -> bool:
    """stored: the feature occurred_at as it lies in the database, or the features of a row of the same batch."""
    if at != stored_at:
        return at > stored_at
    held = {"occurred_at": Value.FromString(stored)} if isinstance(stored, bytes) else stored
    return newest_of(row[1]) >= newest_of(held)
