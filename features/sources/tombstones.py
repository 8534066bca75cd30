"""A log without the users to be forgotten, and a tombstone (file and line, no content) for each removed row."""
# pyright: reportAttributeAccessIssue=false

import logging
from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from contracts.schema import REJECTED
from features.sealed.forgotten import Forgotten, are_forgotten, fields_of, hash_of
from features.sources.log import Log

log = logging.getLogger("leitmotif")

REASON = "user forgotten"


def leave_out(read: Log, forgotten: Forgotten) -> Log:
    """The log without the events of these users and without the contexts, truth and raw texts that only they have.

    A removed row is rejected with its file and line but without its text. A row that could not be parsed has no user;
    its text is removed too if one of its fields is the id of a forgotten user.
    """
    if not forgotten:
        return read
    gone = are_forgotten(read.events["user_id"], forgotten)
    removed, kept = read.events.filter(pa.array(gone)), read.events.filter(pa.array(~gone))
    if len(removed):
        log.info("removed %s events of forgotten users", f"{len(removed):,}")
    rejected = pa.concat_tables([_without_texts(read.rejected, forgotten), tombstones(removed)])
    impressions = pc.drop_null(pc.unique(removed["impression_id"]))
    only_theirs = impressions.filter(pc.invert(pc.is_in(impressions, value_set=pc.unique(kept["impression_id"]))))
    contexts = read.contexts.filter(pc.invert(pc.is_in(read.contexts["impression_id"], value_set=only_theirs)))
    truth = _truth_of_others(read.truth, removed, only_theirs, forgotten)
    return replace(read, events=kept, rejected=rejected, contexts=contexts, truth=truth)


def tombstones(removed: pa.Table, reason: str = REASON) -> pa.Table:
    """A row of REJECTED for each removed row: its file and line, and nothing of its content."""
    columns = {"file": removed["file"], "line": removed["line"], "reason": pa.repeat(reason, len(removed))}
    return pa.table(columns | {"raw": pa.repeat("", len(removed))}, schema=REJECTED)


def _without_texts(rejected: pa.Table, forgotten: Forgotten) -> pa.Table:
    texts = [
        "" if any(hash_of(field) in forgotten for field in fields_of(text)) else text
        for text in rejected["raw"].to_pylist()
    ]
    return rejected.set_column(
        rejected.column_names.index("raw"), REJECTED.field("raw"), [pa.array(texts, pa.string())]
    )


def _truth_of_others(
    truth: Mapping[str, pa.Table], removed: pa.Table, impressions: pa.Array, forgotten: Forgotten
) -> dict[str, pa.Table]:
    """The simulator's truth without these users, their requests and their events."""
    kept = {}
    for name, table in truth.items():
        mask = None
        if "user_id" in table.column_names:
            mask = pa.array(are_forgotten(table["user_id"], forgotten))
        elif "impression_id" in table.column_names:
            mask = pc.is_in(table["impression_id"], value_set=impressions)
        elif "event_id" in table.column_names:
            mask = pc.is_in(table["event_id"], value_set=removed["event_id"].combine_chunks())
        kept[name] = table if mask is None else table.filter(pc.invert(mask))
    return kept
