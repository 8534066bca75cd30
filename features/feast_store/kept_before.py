"""Rows of a Redis that a newer load changes in place, kept as they were for who still serves the load before it.

Counts add up: a worker of the load before counts live events that a newer row holds already, so it must not see that
row. A view tagged `kept_before` has beside its one feature the number of the load that wrote it, and what was there.
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
"""Keys: the entity's. Arguments: the fields of the value, of its load, of what was before; load, value; the timestamp's
field, and it. A load that was killed has the number of the next one, so what was before it stays."""


class StaleStoreError(InputError):
    """Live events between the opened load and the tail have been pruned, or rows of it: a newer load must be opened."""


def is_kept(view: FeatureView) -> bool:
    """Whether a view is tagged so."""
    return (view.tags or {}).get(TAG) == "true"


def fields_of(view: FeatureView, name: str) -> tuple[bytes, str, str]:
    """Fields of an entity's hash: the value, the load that wrote it, what was before. name: the view's, as Feast's."""
    (feature,) = view.features
    value: Any = _mmh3(f"{name}:{feature.name}")
    return value, f"_load:{name}", f"_before:{name}"


def as_of(view: FeatureView, found: Sequence[bytes | None], load: int | None) -> Value | None:
    """The value that a load had, None where it had none. found: of fields_of. load: its number; None: the newest."""
    value, at, before = found
    if load is None or int(at or 0) <= load:
        return None if value is None else Value.FromString(value)
    if before is None:
        return None
    number, kept = before.split(b":", 1)
    if int(number) > load:
        raise StaleStoreError(
            f"Two newer loads have changed a row of {view.name} in Redis since the store was opened: open it again."
        )
    return Value.FromString(kept)
