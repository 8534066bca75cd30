"""Feast's Redis online store, which merges live events of a RedisTail into views tagged `sequence`.

It uses these private names of Feast 0.67: `RedisOnlineStore._get_client`, `_parse_connection_string`,
`_read_features_per_fv` and its async variant (which bypass `online_read`), and `_versioned_fv_name`, `_redis_key` and
`_mmh3` for the names of keys and fields.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeVar, cast

from feast import FeatureView, RepoConfig
from feast.infra.online_stores.helpers import _mmh3
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig, _versioned_fv_name
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from redis.exceptions import RedisError

from contracts.errors import InputError
from features.feast_store.kept_before import WRITE, as_of, fields_of, is_kept
from features.feast_store.merge import packed
from features.feast_store.redis_order import fields_of_row, newest_of_each, order, order_of, timestamp
from features.feast_store.redis_rows import LOADS, mark_of
from features.feast_store.sequence_view import Row, SequenceView, Written, user_ids
from features.feast_store.unread import Unread
from features.live.redis import RedisTail
from features.live.redis_address import RedisAddress
from features.live.redis_durable import START
from features.live.redis_scripts import sha
from features.live.redis_servers import WAIT_S, Servers
from features.sealed.event import Fate, LiveEvent

T = TypeVar("T")

WRITTEN_AT_ONCE = 200
"""Number of users per pipeline."""
REPLACE = """
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
return 1
"""
"""Write an entity's fields if its timestamp is unchanged since it was read."""


class LeitmotifRedisOnlineStoreConfig(RedisOnlineStoreConfig):
    """connection_string, redis_type: of the server or cluster, which holds the base and the live events.

    tail_prefix: prefix of the tail's keys.
    """

    type: Literal["features.feast_store.redis.LeitmotifRedisOnlineStore"] = (  # type: ignore[assignment]
        "features.feast_store.redis.LeitmotifRedisOnlineStore"
    )
    tail_prefix: str


class LeitmotifRedisOnlineStore(RedisOnlineStore):
    """Views without the tag are read and written by Feast's own code, with WAIT_S as the timeout of every command.

    The base has one hash per user, so one slot of a cluster per user; users are spread over all slots.
    """

    def __init__(self) -> None:
        super().__init__()
        self._servers: Servers | None = None
        self._tails: dict[tuple[str, str], RedisTail] = {}
        self.writes_to: dict[str, str] | None = None  # during a load: the primaries, as returned by Servers.run_ids
        self.writer: str | None = None  # during a load: its token in the mark (redis_rows.py)
        self.load: int | None = None  # the load as of which views tagged kept_before are read; None: the newest

    def tail(self, config: RepoConfig) -> RedisTail:
        """The live events that this store reads."""
        settings = _settings(config)
        where = (settings.connection_string, settings.tail_prefix)
        return self._tails.get(where) or self._tails.setdefault(where, RedisTail(_address(settings), where[1]))

    def servers(self, config: RepoConfig) -> Servers:
        """The servers of the base."""
        return self._servers_of(_settings(config))

    def _servers_of(self, settings: LeitmotifRedisOnlineStoreConfig) -> Servers:
        if self._servers is None:
            self._servers = Servers(_address(settings), WAIT_S)
        return self._servers

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
        read = super().online_read
        asked = None if any(live) or requested_features is None else requested_features
        # Feast appends to the list that it is given
        rows = self._ask(config, lambda: read(config, table, entity_keys, asked and list(asked)))
        return [sequence.unite(row, events, requested_features) for row, events in zip(rows, live, strict=True)]

    def online_read_together(
        self, config: RepoConfig, wanted: Sequence[tuple[FeatureView, Sequence[str]]], entity_keys: list[EntityKey]
    ) -> list[list[Unread]]:
        """The rows of several views of one entity, each with its requested features: the tail, then one base read."""
        live: list[list[LiveEvent] | None] | None = None
        asked = [(view, SequenceView.of(view), list(names)) for view, names in wanted]
        for _, sequence, _ in asked:
            if sequence is not None:
                live = self.tail(config).histories(user_ids(sequence, entity_keys), sequence.max_length)
        fields = [
            _fields(config, view, names, whole=sequence is not None and any(live or ()))
            for view, sequence, names in asked
        ]
        keys = self._generate_redis_keys_for_entities(config, entity_keys)
        wholly = [field for _, own in fields for field in own]
        servers = self.servers(config)
        found = self._ask(config, lambda: servers.pipelined([(key, ("HMGET", key, *wholly)) for key in keys]))
        tables, first = [], 0
        for (view, sequence, names), (read, own) in zip(asked, fields, strict=True):
            values = [row[first : first + len(own)] for row in found]
            first += len(own)
            if is_kept(view):
                tables.append([Unread((row, self.load), partial(_kept, view, row, self.load)) for row in values])
                continue
            parsed = partial(self._parsed, sequence, _versioned_fv_name(view, config), read, names)
            own_live = live if sequence is not None and live is not None else [[] for _ in values]
            pairs = zip(values, own_live, strict=True)
            tables.append([Unread((row, packed(events)), partial(parsed, row, events)) for row, events in pairs])
        return tables

    def _parsed(
        self,
        sequence: SequenceView | None,
        name: str,
        read: list[str],
        names: Sequence[str],
        stored: Sequence[bytes | None],
        live: list[LiveEvent] | None,
    ) -> dict[str, Value] | None:
        row = self._get_features_for_entity(stored, name, read)
        return (row if sequence is None else sequence.unite(row, live, names))[1]

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[Row]:
        if SequenceView.of(table) is None:
            return await super().online_read_async(config, table, entity_keys, requested_features)
        return await asyncio.to_thread(self.online_read, config, table, entity_keys, requested_features)

    def _read_features_per_fv(self, config: RepoConfig, grouped_refs: Any, *more: Any) -> None:
        """Feast's Redis store bypasses online_read here; for sequences call the base class, which does not."""
        if not any(SequenceView.of(table) for table, _ in grouped_refs):
            super()._read_features_per_fv(config, grouped_refs, *more)
            return
        for ref in grouped_refs:
            if SequenceView.of(ref[0]):
                OnlineStore._read_features_per_fv(self, config, [ref], *more)
            else:
                super()._read_features_per_fv(config, [ref], *more)

    async def _read_features_per_fv_async(self, config: RepoConfig, grouped_refs: Any, *more: Any) -> None:
        if not any(SequenceView.of(table) for table, _ in grouped_refs):
            await super()._read_features_per_fv_async(config, grouped_refs, *more)
            return
        for ref in grouped_refs:
            if SequenceView.of(ref[0]):
                await OnlineStore._read_features_per_fv_async(self, config, [ref], *more)
            else:
                await super()._read_features_per_fv_async(config, [ref], *more)

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Written],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """For a sequence, writes only rows that are at least as new as the stored ones, each row atomically."""
        if is_kept(table):
            self._write_kept(config, table, data)
            return
        if SequenceView.of(table) is None:
            super().online_write_batch(config, table, data, progress)
            return
        for first in range(0, len(data), WRITTEN_AT_ONCE):
            rows = data[first : first + WRITTEN_AT_ONCE]
            self._ask(config, lambda rows=rows: self._write_newer(config, table, rows))
            if progress:
                progress(len(rows))

    async def online_write_batch_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[Written],
        progress: Callable[[int], Any] | None,
    ) -> None:
        if SequenceView.of(table) is None:
            await super().online_write_batch_async(config, table, data, progress)
        else:
            await asyncio.to_thread(self.online_write_batch, config, table, data, progress)

    def _write_kept(self, config: RepoConfig, table: FeatureView, data: list[Written]) -> None:
        """Write rows and keep their previous values, for workers that serve the previous load."""
        name, servers = _versioned_fv_name(table, config), self.servers(config)
        fields, mark = fields_of(table, name), mark_of(config.project)
        (feature,) = table.features
        loads = self._ask(config, lambda: servers.of(mark).hget(mark, LOADS))
        load = int(cast(bytes | None, loads) or 0) + 1
        for first in range(0, len(data), WRITTEN_AT_ONCE):
            commands = []
            for row in data[first : first + WRITTEN_AT_ONCE]:
                (key,) = newest_of_each(config, [row])
                told = load, row[1][feature.name].SerializeToString()
                stamp = f"_ts:{name}", timestamp(row[2]).SerializeToString()
                commands.append((key, ("EVALSHA", sha(WRITE), 1, key, *fields, *told, *stamp)))
            self._ask(config, lambda commands=commands: servers.pipelined(commands, WRITE))

    def _write_newer(self, config: RepoConfig, table: FeatureView, rows: Sequence[Written]) -> None:
        """Compare with the stored times and write rows that are not older; retry those that another writer changed."""
        name, servers = _versioned_fv_name(table, config), self.servers(config)
        stamp = f"_ts:{name}"
        seconds_to_live = _settings(config).key_ttl_seconds
        waiting = newest_of_each(config, rows)
        while waiting:
            times = servers.pipelined([(key, ("HGET", key, stamp)) for key in waiting])
            stored = dict(zip(waiting, times, strict=True))
            waiting = {key: row for key, row in waiting.items() if order(row[2]) >= order_of(stored[key])}
            commands = []
            for key, row in waiting.items():
                told = stamp, stored[key] or b"", *fields_of_row(name, row)
                commands.append((key, ("EVALSHA", sha(REPLACE), 1, key, *told)))
            done = servers.pipelined(commands, REPLACE)
            if seconds_to_live:
                servers.pipelined([(key, ("EXPIRE", key, seconds_to_live)) for key in waiting])
            waiting = {key: row for (key, row), wrote in zip(waiting.items(), done, strict=True) if not wrote}

    def _ask(self, config: RepoConfig, question: Callable[[], T]) -> T:
        try:
            return self.servers(config).ask(question)
        except RedisError as error:
            raise _refusal(config, error) from error

    def _get_client(self, online_store_config: RedisOnlineStoreConfig) -> Any:
        """Feast's client, but failing at once when a server is gone, where redis-py would retry for ten seconds."""
        assert isinstance(online_store_config, LeitmotifRedisOnlineStoreConfig)
        self._client = self._servers_of(online_store_config).client
        return self._client

    @staticmethod
    def _parse_connection_string(connection_string: str) -> tuple[list, dict[str, Any]]:
        """Feast's parsing, with default timeouts where the string sets none."""
        nodes, params = RedisOnlineStore._parse_connection_string(connection_string)
        return nodes, {"socket_timeout": WAIT_S, "socket_connect_timeout": WAIT_S} | params


def _fields(config: RepoConfig, view: FeatureView, names: list[str], whole: bool) -> tuple[list[str], list[Any]]:
    """(features, fields of an entity's hash) to read of a view. whole: all features, as needed to merge live events."""
    name = _versioned_fv_name(view, config)
    if is_kept(view):
        return names, [*fields_of(view, name)]
    read = [feature.name for feature in view.features] if whole else names
    return [*read, f"_ts:{name}"], [*(_mmh3(f"{name}:{feature}") for feature in read), f"_ts:{name}"]


def _kept(view: FeatureView, found: Sequence[bytes | None], load: int | None) -> dict[str, Value] | None:
    value = as_of(view, found, load)
    return None if value is None else {view.features[0].name: value}


def _settings(config: RepoConfig) -> LeitmotifRedisOnlineStoreConfig:
    settings = config.online_store
    assert isinstance(settings, LeitmotifRedisOnlineStoreConfig)
    return settings


def _address(settings: LeitmotifRedisOnlineStoreConfig) -> RedisAddress:
    return RedisAddress.read(settings.connection_string, settings.redis_type.value)


def _refusal(config: RepoConfig, error: RedisError) -> InputError:
    where = _address(_settings(config)).where
    return InputError(
        f"Feast's online store on the {where} cannot be used ({type(error).__name__}: {error}). "
        f"Start it with {START}, then `make load`, which also repeats a load that stopped midway."
    )
