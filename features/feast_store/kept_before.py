"""Previous values of Redis rows that a newer load replaces in place, for workers that still serve the previous load.

A worker adds live events to the counts of its own load. A newer row has these events counted already, so the worker
must not read it. A view tagged `kept_before` stores beside its one feature the number of the load that wrote it, and
the previous value.
"""

from collections.abc import Sequence
from typing import Any

from feast import FeatureView
from feast.infra.online_stores.helpers import _mmh3
from feast.protos.feast.types.Value_pb2 import Value

from contracts.errors import InputError

TAG = "kept_before"
WRITE = """
local now = redis.call('HGET', KEYS[1], ARGV[1])
if now ~= ARGV[5] then
  local at = redis.call('HGET', KEYS[1], ARGV[2]) or '0'
  if tonumber(at) < tonumber(ARGV[4]) then
    if now then redis.call('HSET', KEYS[1], ARGV[3], at .. ':' .. now) else redis.call('HDEL', KEYS[1], ARGV[3]) end
  end
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[5], ARGV[2], ARGV[4])
end
redis.call('HSET', KEYS[1], ARGV[6], ARGV[7])
"""
"""KEYS: the entity's. ARGV: fields of value, load and previous value; load; value; field of the timestamp; timestamp.
A killed load and the next one have the same number, so the value from before both is kept."""


class StaleStoreError(InputError):
    """The opened load is too old: live events that it lacks, or its own rows, are gone. A newer load must be opened."""


def is_kept(view: FeatureView) -> bool:
    """Whether a view is tagged `kept_before`."""
    return (view.tags or {}).get(TAG) == "true"


def fields_of(view: FeatureView, name: str) -> tuple[bytes, str, str]:
    """Fields of an entity's hash: value, load that wrote it, previous value. name: the view's, versioned by Feast."""
    (feature,) = view.features
    value: Any = _mmh3(f"{name}:{feature.name}")
    return value, f"_load:{name}", f"_before:{name}"


def as_of(view: FeatureView, found: Sequence[bytes | None], load: int | None) -> Value | None:
    """The value as of a load; None if it had none. found: the content of fields_of. load: number; None: newest."""
    value, at, before = found
    if load is None or int(at or 0) <= load:
        return None if value is None else Value.FromString(value)
    if before is None:
        return None
    number, kept = before.split(b":", 1)
    if int(number) > load:
        raise StaleStoreError(
            f"A row of {view.name} in Redis was changed by two newer loads since the store was opened: open it again."
        )
    return Value.FromString(kept)
