"""Feast's SQLite online store, which merges live events of a SqliteTail into views tagged `sequence`.

It uses these private names of Feast 0.67: `SqliteOnlineStore._get_conn` and `_get_db_path`, `_initialize_conn`,
`_quote_id`, `_table_id`, and `adapt_datetime_epoch` for the form of timestamps.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
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
from features.feast_store.merge import packed
from features.feast_store.sequence_view import ENCODE, Row, SequenceView, Written, newest_of, user_ids
from features.feast_store.unread import Unread
from features.live.sqlite import SqliteTail
from features.sealed.event import Fate, LiveEvent

WRITTEN_AT_ONCE = 200
"""Number of users per transaction, which bounds how long readers wait."""
READ_WAIT_MS = 1_000
"""How long a read waits for a writer of the base."""


class LeitmotifSqliteOnlineStoreConfig(SqliteOnlineStoreConfig):
    """path: the base, which Feast materializes. tail_path: live events, which `feast apply` and teardown keep."""

    type: Literal["features.feast_store.sqlite.LeitmotifSqliteOnlineStore"] = (  # type: ignore[assignment]
        "features.feast_store.sqlite.LeitmotifSqliteOnlineStore"
    )
    tail_path: str


class LeitmotifSqliteOnlineStore(SqliteOnlineStore):
    """Views without the tag are read and written by Feast's own code."""

    def __init__(self) -> None:
        super().__init__()
        self._tails: dict[tuple[Path | None, str], SqliteTail] = {}  # by the settings of their path
        self._own = threading.local()  # the connection with which this thread writes

    def tail(self, config: RepoConfig) -> SqliteTail:
        """The live events that this store reads."""
        settings = config.online_store
        assert isinstance(settings, LeitmotifSqliteOnlineStoreConfig)
        place = config.repo_path, settings.tail_path
        if (tail := self._tails.get(place)) is None:
            path = Path(settings.tail_path)
            if config.repo_path and not path.is_absolute():
                path = config.repo_path / path
            tail = self._tails.setdefault(place, SqliteTail(path))
        return tail

    def append(self, config: RepoConfig, table: FeatureView, events: Sequence[LiveEvent]) -> list[Fate]:
        """Append live events, which the next read of the view includes. See LiveTail.append."""
        SequenceView.required(table)
        return self.tail(config).append(events)

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[Row]:
        """Read the tail first, then the base, so that an event that moves from tail to base meanwhile is not missed."""
        sequence = SequenceView.of(table)
        if sequence is None:
            return super().online_read(config, table, entity_keys, requested_features)
        live = self.tail(config).histories(user_ids(sequence, entity_keys), sequence.max_length)
        with self._saying_why(config):
            rows = super().online_read(config, table, entity_keys, requested_features)
        return [sequence.unite(row, events, requested_features) for row, events in zip(rows, live, strict=True)]

    def online_read_together(
        self, config: RepoConfig, wanted: Sequence[tuple[FeatureView, Sequence[str]]], entity_keys: list[EntityKey]
    ) -> list[list[Unread]]:
        """The rows of several views of one entity, each with its requested features, without their times.

        Feast's own read fetches and parses all features of a view; those of a sequence that are not asked for are only
        needed to merge live events.
        """
        return [self._read_requested(config, view, entity_keys, names) for view, names in wanted]

    def _read_requested(
        self, config: RepoConfig, view: FeatureView, entity_keys: list[EntityKey], names: Sequence[str]
    ) -> list[Unread]:
        live: list[list[LiveEvent] | None] = [[] for _ in entity_keys]
        if (sequence := SequenceView.of(view)) is not None:
            live = self.tail(config).histories(user_ids(sequence, entity_keys), sequence.max_length)
        asked = list(ENCODE) if any(live) else names
        version = config.entity_key_serialization_version
        keys = [serialize_entity_key(key, entity_key_serialization_version=version) for key in entity_keys]
        query = (
            f"SELECT entity_key, feature_name, value FROM {_quote_id(self._table(config, view))} "
            f"WHERE entity_key IN ({','.join('?' * len(keys))}) AND feature_name IN ({','.join('?' * len(asked))})"
        )
        found: dict[bytes, dict[str, bytes]] = {}
        with self._saying_why(config):
            for key, name, value in self._get_conn(config).execute(query, (*keys, *asked)):
                found.setdefault(key, {})[name] = value
        return [
            Unread((stored, packed(events)), partial(_parsed, sequence, stored, events, names))
            for stored, events in zip(map(found.get, keys), live, strict=True)
        ]

    @contextmanager
    def _saying_why(self, config: RepoConfig) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise InputError(
                f"Feast's online store in {self._get_db_path(config)} cannot be read: {error}. If another process is "
                "writing to it, try again later; else `make load` loads it again."
            ) from error

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Written],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """For a sequence, writes only rows that are at least as new as the stored ones, in small transactions."""
        if SequenceView.of(table) is None:
            super().online_write_batch(config, table, data, progress)
            return
        with self._writing(config) as connection:
            for first in range(0, len(data), WRITTEN_AT_ONCE):
                rows = data[first : first + WRITTEN_AT_ONCE]
                connection.execute("BEGIN IMMEDIATE")  # committed by Feast's write
                newer = self._newer(connection, config, table, rows)
                super().online_write_batch(config, table, newer, None)
                if progress:
                    progress(len(rows))

    def _get_conn(self, config: RepoConfig) -> sqlite3.Connection:
        if connection := getattr(self._own, "connection", None):
            return connection
        connection = super()._get_conn(config)
        connection.execute(
            f"PRAGMA busy_timeout = {READ_WAIT_MS}"
        )  # the driver's default of 5 s is longer than a request may take
        return connection

    @contextmanager
    def _writing(self, config: RepoConfig) -> Iterator[sqlite3.Connection]:
        """A separate connection for writes, so that other threads do not read uncommitted rows on the shared one."""
        connection = _initialize_conn(self._get_db_path(config))
        self._own.connection = connection
        try:
            yield connection
        finally:
            del self._own.connection
            connection.close()

    def _table(self, config: RepoConfig, view: FeatureView) -> str:
        versioning = getattr(config.registry, "enable_online_feature_view_versioning", False)
        return _table_id(config.project, view, versioning)

    def _newer(
        self, connection: sqlite3.Connection, config: RepoConfig, table: FeatureView, rows: Sequence[Written]
    ) -> list[Written]:
        """Each entity's newest row, if it is at least as new as the stored one.

        Feast stores timestamps in whole seconds; within a second, the times of the newest events decide.
        """
        version = config.entity_key_serialization_version
        keys = [serialize_entity_key(row[0], entity_key_serialization_version=version) for row in rows]
        name = self._table(config, table)
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


def _parsed(
    sequence: SequenceView | None,
    stored: dict[str, bytes] | None,
    live: list[LiveEvent] | None,
    names: Sequence[str],
) -> dict[str, Value] | None:
    values = None if stored is None else {name: Value.FromString(value) for name, value in stored.items()}
    return values if sequence is None else sequence.unite((None, values), live, names)[1]


def _is_as_new(at: int, row: Written, stored_at: int, stored: bytes | dict[str, Value]) -> bool:
    """stored: the serialized feature occurred_at of the database, or the features of a row of the same batch."""
    if at != stored_at:
        return at > stored_at
    features = {"occurred_at": Value.FromString(stored)} if isinstance(stored, bytes) else stored
    return newest_of(row[1]) >= newest_of(features)
