"""Rows of a view in Feast's Redis online store: stamped and removed in place, listed, and a mark of what was loaded.

What a load writes there is seen at once, row by row; a row is a user's whole history, so each is right at any time.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from feast import FeatureStore, FeatureView
from feast.infra.online_stores.helpers import _mmh3, _redis_key, _redis_key_prefix
from feast.infra.online_stores.redis import _versioned_fv_name
from google.protobuf.timestamp_pb2 import Timestamp
from redis.exceptions import RedisError

from contracts.errors import InputError
from features.feast_store.entity_keys import KEY_VERSION, entity_key
from features.feast_store.kept_before import fields_of, is_kept

AT_ONCE = 1_000
SNAPSHOT, LOADS = "snapshot", "loads"
MAX_SCANNED = 50_000
"""Keys that are looked at for a page of ids: some tens of milliseconds of the server's time, in small steps."""


def mark_of(project: str) -> str:
    """The key of what mark says: a hash, so that both are said at once."""
    return f"{project}:mark"


def restamp(feast: FeatureStore, view: FeatureView, ids: Sequence[str], at: Sequence[int]) -> None:
    """Give rows another event time, in microseconds."""
    field = _time_field(feast, view)
    for first in range(0, len(ids), AT_ONCE):
        with _pipeline(feast) as pipe:
            for name, time in zip(ids[first : first + AT_ONCE], at[first : first + AT_ONCE], strict=True):
                stamp = Timestamp()
                stamp.FromMicroseconds(int(time))
                pipe.hset(_key(feast, view, name), field, stamp.SerializeToString())
            pipe.execute()


def remove(feast: FeatureStore, view: FeatureView, ids: Sequence[str]) -> None:
    """Remove rows of the view; what other views have of the same entity stays."""
    fields = [_time_field(feast, view), *(_mmh3(f"{view.name}:{feature.name}") for feature in view.features)]
    if is_kept(view):
        fields += fields_of(view, view.name)[1:]
    for first in range(0, len(ids), AT_ONCE):
        with _pipeline(feast) as pipe:
            for name in ids[first : first + AT_ONCE]:
                pipe.hdel(_key(feast, view, name), *fields)
            pipe.execute()


def stored(feast: FeatureStore, view: FeatureView) -> dict[str, int]:
    """The ids of all rows and their event times, in microseconds."""
    field, project = _time_field(feast, view), feast.project.encode()
    begins = len(_key(feast, view, "")) - len(project)
    found: dict[str, int] = {}
    for keys in _batches(_client(feast).scan_iter(_redis_key_prefix(view.join_keys) + b"*" + project, count=AT_ONCE)):
        with _pipeline(feast) as pipe:
            for key in keys:
                pipe.hget(key, field)
            for key, stamp in zip(keys, pipe.execute(), strict=True):
                if stamp is not None:
                    found[key[begins : -len(project)].decode()] = Timestamp.FromString(stamp).ToMicroseconds()
    return found


def ids_beginning(feast: FeatureStore, view: FeatureView, prefix: str) -> Iterator[str]:
    """Ids that begin so: the one that is the prefix, then others among MAX_SCANNED keys, in no order, some twice."""
    client, field, project = _client(feast), _time_field(feast, view), feast.project.encode()
    head = _redis_key_prefix(view.join_keys)
    begins = len(_key(feast, view, "")) - len(project)
    if _ask(lambda: client.hexists(_key(feast, view, prefix), field)):
        yield prefix
    pattern = glob_escape_bytes(head) + b"*" + glob_escape_bytes(prefix.encode()) + b"*" + glob_escape_bytes(project)
    cursor, scanned = 0, 0
    while scanned < MAX_SCANNED:
        at = cursor
        cursor, keys = _ask(lambda at=at: client.scan(at, pattern, AT_ONCE))
        scanned += AT_ONCE
        names = {key: key[begins : -len(project)] for key in keys}
        ours = [key for key, name in names.items() if name.startswith(prefix.encode())]
        with _pipeline(feast) as pipe:
            for key in ours:
                pipe.hexists(key, field)
            held = _ask(pipe.execute)
        yield from (names[key].decode() for key, is_held in zip(ours, held, strict=True) if is_held)
        if not cursor:
            return


def mark(feast: FeatureStore, snapshot_id: str) -> None:
    """Say which snapshot all rows are of; "" while they are being written. Each that is told is one more load."""
    fields = {SNAPSHOT: snapshot_id}
    if snapshot_id:
        fields[LOADS] = str(marked(feast)[1] + 1)
    _ask(lambda: _client(feast).hset(_mark(feast), mapping=fields))


def marked(feast: FeatureStore) -> tuple[str | None, int]:
    """Which snapshot all rows are of, None where the server does not know; and how many loads have come to an end."""
    told, loads = _ask(lambda: _client(feast).hmget(_mark(feast), SNAPSHOT, LOADS))
    return None if told is None else told.decode(), int(loads or 0)


def unmark(feast: FeatureStore) -> None:
    """Forget the mark: the end of a scratch store."""
    _ask(lambda: _client(feast).delete(_mark(feast)))


def _ask(question: Any) -> Any:
    try:
        return question()
    except RedisError as error:
        raise InputError(f"Redis cannot be asked: {error}. Start it with `redis-server --appendonly yes`.") from error


def glob_escape_bytes(text: bytes) -> bytes:
    """Bytes as a pattern of Redis that matches them alone."""
    return re.sub(rb"([*?\[\]\\^-])", rb"\\\1", text)


def _client(feast: FeatureStore) -> Any:
    store: Any = feast._get_provider().online_store  # pyright: ignore[reportAttributeAccessIssue]
    return store._get_client(feast.config.online_store)


def _pipeline(feast: FeatureStore) -> Any:
    return _client(feast).pipeline(transaction=False)


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
