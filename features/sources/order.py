"""The order of the rows in a partition; a hash of rows that does not depend on their order."""
# pyright: reportAttributeAccessIssue=false

import hashlib

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.sources.log import EVENTS

MOST_IN_MEMORY = 1_000_000
"""A partition with more rows is sorted on disk."""
ORDER = ("occurred_at", "event_id", *(name for name in EVENTS.names[1:] if name != "occurred_at"))
"""Rows with equal times and event_ids are ordered by all other columns."""


def digest_of(events: pa.Table) -> str:
    """A hash of rows that does not depend on their order: of the sorted rows as Parquet."""
    digest = hashlib.sha256()
    if len(events):
        with pa.BufferOutputStream() as out:
            pq.write_table(in_order(events).combine_chunks(), out, compression="none", use_dictionary=False)
            digest.update(out.getvalue())
    return digest.hexdigest()


def in_order(events: pa.Table) -> pa.Table:
    """The rows in order of time."""
    order = pc.sort_indices(events.select(ORDER[:2]), sort_keys=[(name, "ascending") for name in ORDER[:2]])
    events = events.take(order)
    at, names = (events[name].combine_chunks() for name in ORDER[:2])
    tied = pc.and_(pc.equal(at[1:], at[:-1]), pc.equal(names[1:], names[:-1]))
    if pc.any(tied).as_py():
        return events.sort_by([(name, "ascending") for name in ORDER])
    return events
