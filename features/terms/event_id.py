"""The event_id of an event whose source has none: a hash of its content, equal for a live and a logged event."""
# pyright: reportAttributeAccessIssue=false

import hashlib
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from contracts.schema import INTERACTIONS

IDENTITY = ("user_id", "item_id", "occurred_at", "label", "impression_id", "position")
"""The columns that identify an event without an id."""


def event_ids(events: pa.Table) -> pa.Array:
    """An event_id for each event. events: with the columns IDENTITY, typed as in contracts.schema.INTERACTIONS."""
    parts = [events[name].cast(pa.int64()) if name == "occurred_at" else events[name] for name in IDENTITY]
    texts = [part.cast(pa.string()) for part in parts]
    joined = pc.binary_join_element_wise(*texts, "\x1f", null_handling="replace", null_replacement="\x00")
    return pa.array([hashlib.blake2b(text.encode(), digest_size=16).hexdigest() for text in joined.to_pylist()])


def event_id(**event: Any) -> str:
    """The event_id of one event. event: a value for each column of IDENTITY; occurred_at in microseconds."""
    columns = [pa.array([event[name]]).cast(INTERACTIONS.field(name).type) for name in IDENTITY]
    return event_ids(pa.table(columns, names=list(IDENTITY)))[0].as_py()
