"""An id -> Feast's entity key."""

from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

KEY_VERSION = 3


def entity_key(join_keys: list[str], name: str) -> EntityKey:
    """The key of an entity with one join key."""
    return EntityKey(join_keys=join_keys, entity_values=[Value(string_val=name)])
