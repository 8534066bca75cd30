"""Rows of a view in Feast's Redis online store: stamps, removals, listings, and the mark of the loaded snapshot.

Rows that a load writes are visible at once, one by one. A row is a user's whole history, so it is always consistent.

Several processes may write rows for one load. The mark has the load's token, and each of them asks for it before every
batch: what is left of a load that was killed, or cut off, stops once another has begun. A row is written by one command
and whatever the stored one is, so writing it twice ends where writing it once does.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast
from uuid import uuid4

from feast import FeatureStore, FeatureView
from feast.infra.online_stores.helpers import _mmh3, _redis_key, _redis_key_prefix
from feast.infra.online_stores.redis import _versioned_fv_name
from google.protobuf.timestamp_pb2 import Timestamp
from redis.exceptions import RedisError

from contracts.errors import InputError
from features.feast_store.entity_keys import KEY_VERSION, entity_key
from features.feast_store.kept_before import fields_of, is_kept
from features.feast_store.redis_order import fields_of_row, newest_of_each
from features.feast_store.sequence_view import Written
from features.live.redis_durable import refusal
from features.live.redis_scripts import sha
from features.live.redis_servers import WAIT_S, Servers

AT_ONCE = 1_000
ROWS_AT_ONCE = 200
SNAPSHOT, LOADS, WRITER = "snapshot", "loads", "writer"
MAX_SCANNED = 50_000
"""Most keys scanned for a page of ids: tens of milliseconds of the server's time, in small steps."""


FINISH = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return redis.call('HGET', KEYS[1], ARGV[3]) == ARGV[4] and 1 or 0
end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
return 1
"""
"""Write fields of the mark and remove the writer's token, if it is still there. ARGV: its field; the token; fields, the
snapshot's first: if it has the value already, this was done before."""


def mark_of(project: str) -> str:
    """The key of the mark, a hash, so that both of its fields are written atomically."""
    return f"{project}:mark"


def overwrite(feast: FeatureStore, view: FeatureView, rows: Sequence[Written]) -> None:
    """Write rows whatever their times are, each by one command."""
    name = _versioned_fv_name(view, feast.config)
    for first in range(0, len(rows), ROWS_AT_ONCE):
        batch = rows[first : first + ROWS_AT_ONCE]
        if is_kept(view):
            _check_writer(feast)
            store_of(feast).online_write_batch(feast.config, view, [*batch], None)
            continue
        newest = newest_of_each(feast.config, batch)
        _write(feast, [(key, ("HSET", key, *fields_of_row(name, row))) for key, row in newest.items()])


def restamp(feast: FeatureStore, view: FeatureView, ids: Sequence[str], at: Sequence[int]) -> None:
    """Change the event time (us) of rows."""
    field = _time_field(feast, view)
    for first in range(0, len(ids), AT_ONCE):
        commands = []
        for name, time in zip(ids[first : first + AT_ONCE], at[first : first + AT_ONCE], strict=True):
            stamp, key = Timestamp(), _key(feast, view, name)
            stamp.FromMicroseconds(int(time))
            commands.append((key, ("HSET", key, field, stamp.SerializeToString())))
        _write(feast, commands)


def remove(feast: FeatureStore, view: FeatureView, ids: Sequence[str]) -> None:
    """Remove rows of the view, but not those of other views of the same entity."""
    fields = [_time_field(feast, view), *(_mmh3(f"{view.name}:{feature.name}") for feature in view.features)]
    if is_kept(view):
        fields += fields_of(view, view.name)[1:]
    for first in range(0, len(ids), AT_ONCE):
        keys = [_key(feast, view, name) for name in ids[first : first + AT_ONCE]]
        _write(feast, [(key, ("HDEL", key, *fields)) for key in keys])


def stored(feast: FeatureStore, view: FeatureView) -> dict[str, int]:
    """Id -> event time (us) of all rows; in a cluster, of all primaries."""
    field, project = _time_field(feast, view), feast.project.encode()
    begins = len(_key(feast, view, "")) - len(project)
    pattern = _redis_key_prefix(view.join_keys) + b"*" + project

    def found() -> dict[str, int]:
        rows: dict[str, int] = {}
        for server in _servers(feast).primaries():
            for keys in _batches(server.scan_iter(pattern, count=AT_ONCE)):  # type: ignore[arg-type]
                stamps = _pipelined(feast, [(key, ("HGET", key, field)) for key in keys])
                for key, stamp in zip(keys, stamps, strict=True):
                    if stamp is not None:
                        rows[key[begins : -len(project)].decode()] = Timestamp.FromString(stamp).ToMicroseconds()
        return rows

    return _ask(feast, found)


def ids_beginning(feast: FeatureStore, view: FeatureView, prefix: str) -> Iterator[str]:
    """Ids that start with the prefix: first the id equal to it, then others in any order, possibly repeated.

    At most MAX_SCANNED keys are scanned, in a cluster an equal share on each primary.
    """
    field, project, own = _time_field(feast, view), feast.project.encode(), _key(feast, view, prefix)
    head, begins = _redis_key_prefix(view.join_keys), len(_key(feast, view, "")) - len(project)
    if _pipelined(feast, [(own, ("HEXISTS", own, field))])[0]:
        yield prefix
    pattern = glob_escape_bytes(head) + b"*" + glob_escape_bytes(prefix.encode()) + b"*" + glob_escape_bytes(project)
    primaries = _ask(feast, _servers(feast).primaries)
    for server in primaries:
        cursor, scanned = 0, 0
        while scanned < MAX_SCANNED // len(primaries):
            at = cursor
            cursor, keys = _ask(feast, lambda at=at, server=server: server.scan(at, pattern, AT_ONCE))
            scanned += AT_ONCE
            names = {key: key[begins : -len(project)] for key in keys}
            ours = [key for key, name in names.items() if name.startswith(prefix.encode())]
            present = _pipelined(feast, [(key, ("HEXISTS", key, field)) for key in ours])
            yield from (names[key].decode() for key, is_present in zip(ours, present, strict=True) if is_present)
            if not cursor:
                break


def mark(feast: FeatureStore, snapshot_id: str) -> None:
    """Record which snapshot all rows belong to; "" while they are being written. Each snapshot counts as a load.

    "" begins a load under a new token. Raises InputError if a server of a cluster may have lost rows that were written
    since then, or if another load has begun.
    """
    servers, key, store = _servers(feast), _mark(feast), store_of(feast)
    if not snapshot_id:
        store.writes_to, store.writer = _ask(feast, servers.run_ids), uuid4().hex
        begin = ("HSET", key, SNAPSHOT, "", WRITER, store.writer)
        _ask(feast, lambda: servers.written(key, None, begin))
        return
    servers.look_again()
    _ask(feast, servers.replicate)
    before, store.writes_to = store.writes_to, None
    if servers.address.is_cluster and before is not None and (now := _ask(feast, servers.run_ids)) != before:
        gone = sorted(name for name, run in before.items() if now.get(name) != run)
        raise InputError(
            f"{', '.join(gone)} of the {servers.address.where} failed or left while rows were written: a replica that "
            "took over may lack some rows. `make load` loads all of them again."
        )
    fields: tuple[Any, ...] = (SNAPSHOT, snapshot_id, LOADS, marked(feast)[1] + 1)
    writer, store.writer = store.writer, None
    if writer is None:  # a store of its own, which nobody else writes
        _ask(feast, lambda: servers.written(key, None, ("HSET", key, *fields)))
        return
    finish = ("EVALSHA", sha(FINISH), 1, key, WRITER, writer, *fields)
    if not _ask(feast, lambda: servers.written(key, FINISH, finish))[0]:
        raise _superseded(feast)


def _check_writer(feast: FeatureStore) -> None:
    """Raise InputError if another load has begun since the one whose rows are written here."""
    servers, key, writer = _servers(feast), _mark(feast), store_of(feast).writer
    if writer is not None and _ask(feast, lambda: servers.of(key).hget(key, WRITER)) != writer.encode():
        raise _superseded(feast)


def _superseded(feast: FeatureStore) -> InputError:
    return InputError(
        f"The {_servers(feast).address.where} does not have the mark of this load: another load has begun, this is "
        "another server than the load began on (127.0.0.1 is each machine's own), or it lost the mark in a failover. "
        "No more is written. `make load` loads again."
    )


def marked(feast: FeatureStore) -> tuple[str | None, int]:
    """(snapshot that all rows belong to, or None if there is no mark; number of completed loads)."""
    servers, key = _servers(feast), _mark(feast)
    told, loads = cast(list[bytes | None], _ask(feast, lambda: servers.of(key).hmget(key, [SNAPSHOT, LOADS])))
    return None if told is None else told.decode(), int(loads or 0)


def unmark(feast: FeatureStore) -> None:
    """Remove the mark; for temporary stores."""
    key = _mark(feast)
    _ask(feast, lambda: _servers(feast).of(key).delete(key))


def _ask(feast: FeatureStore, question: Callable[[], Any]) -> Any:
    servers = _servers(feast)
    try:
        return servers.ask(question)
    except RedisError as error:
        raise refusal(error, servers.address, WAIT_S) from error


def _write(feast: FeatureStore, commands: Sequence[tuple[bytes, Sequence[Any]]]) -> None:
    _check_writer(feast)
    _pipelined(feast, commands)


def _pipelined(feast: FeatureStore, commands: Sequence[tuple[bytes, Sequence[Any]]]) -> list[Any]:
    return _ask(feast, lambda: _servers(feast).pipelined(commands))


def glob_escape_bytes(text: bytes) -> bytes:
    """Escape bytes for a Redis glob pattern."""
    return re.sub(rb"([*?\[\]\\^-])", rb"\\\1", text)


def store_of(feast: FeatureStore) -> Any:
    """The online store of `feast`, a LeitmotifRedisOnlineStore."""
    return feast._get_provider().online_store  # pyright: ignore[reportAttributeAccessIssue]


def _servers(feast: FeatureStore) -> Servers:
    return store_of(feast).servers(feast.config)


def _key(feast: FeatureStore, view: FeatureView, name: str) -> bytes:
    return _redis_key(feast.project, entity_key(view.join_keys, name), entity_key_serialization_version=KEY_VERSION)


def _time_field(feast: FeatureStore, view: FeatureView) -> str:
    return f"_ts:{_versioned_fv_name(view, feast.config)}"


def _mark(feast: FeatureStore) -> str:
    return mark_of(feast.project)


def _batches(keys: Iterator[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    for key in keys:
        batch.append(key)
        if len(batch) == AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch
