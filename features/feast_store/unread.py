"""An entity's row of one view as it was found, before it is parsed: whoever has parsed the same one need not again."""

from collections.abc import Callable
from dataclasses import dataclass, field

from feast.protos.feast.types.Value_pb2 import Value


@dataclass(frozen=True)
class Unread:
    """found: the stored bytes, and the live events that belong to them, packed; equal ones have equal features.

    parse: the features, live events merged in; None if there is no row, or its user is forgotten.
    """

    found: object
    parse: Callable[[], dict[str, Value] | None] = field(compare=False, repr=False)
