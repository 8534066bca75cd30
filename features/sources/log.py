"""What every source returns: one log, parsed but not yet validated."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from contracts.schema import CONTEXTS, INTERACTIONS, PROVENANCE, REJECTED

EVENTS = pa.schema(
    [
        *[column.with_nullable(True) if column.name == "event_id" else column for column in INTERACTIONS],
        PROVENANCE.field("file"),
        PROVENANCE.field("line"),
    ]
)
"""Interactions with the file and line of each row. event_id may be null: ingest then derives it from the content."""


@dataclass(frozen=True)
class Log:
    """A parsed source: events, items, and the rows that could not be parsed."""

    events: pa.Table  # EVENTS, in any order
    items: pa.Table  # ITEMS, in any order, one row per item; items that only the events name may be absent
    rejected: pa.Table  # REJECTED; rows of events
    num_files: int
    contexts: pa.Table = field(default_factory=CONTEXTS.empty_table)  # CONTEXTS, in any order, one row per impression
    rejected_items: pa.Table = field(default_factory=REJECTED.empty_table)  # rows of a file of items, not of events
    truth: Mapping[str, pa.Table] = field(default_factory=dict)  # file name -> ground truth; only of the simulator
    notes: Mapping[str, int | Mapping[str, int]] = field(default_factory=dict)  # figures of the reading for the report
