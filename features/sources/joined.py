"""A log's events -> one row per item of a request: a show and a click logged as separate rows become one event.

The rule is that of live outcomes (features/sources/live.py): the show's row is kept, with the largest label.
"""
# pyright: reportAttributeAccessIssue=false

import logging

import numpy as np
import pyarrow as pa

from contracts.schema import REJECTED, ROLE_IMPRESSION
from features.sources.log import EVENTS
from features.tables.connection import connect
from features.tables.ledger import JOINED
from features.terms.convention import CLICKED

log = logging.getLogger("leitmotif")

APART = "item again in its request, later than source.join_s"

CANDIDATES = f"""
    SELECT CASE WHEN role = '{ROLE_IMPRESSION}' AND label IS NOT NULL AND NOT isnan(label) AND impression_id IS NOT NULL
        AND user_id IS NOT NULL AND item_id IS NOT NULL THEN hash(impression_id, user_id, item_id) ELSE 0 END AS key
    FROM events
"""
"""A key for each (request, user, item); 0 if one of them is missing: such a row stays as it is."""

JUDGED = """
    CREATE TEMP TABLE judged AS
    WITH placed AS (
        SELECT *, row_number() OVER (PARTITION BY impression_id, user_id, item_id
            ORDER BY label, occurred_at, event_id, file, line) AS place FROM rows
    ), shows AS (
        SELECT impression_id, user_id, item_id, occurred_at AS shown_at, label AS shown_label, event_id AS shown_id
        FROM placed WHERE place = 1
    )
    SELECT placed.*, shown_at, shown_id, shown_label,
        abs(epoch_us(occurred_at) - epoch_us(shown_at)) > $apart_us AS is_apart,
        event_id = shown_id AND occurred_at = shown_at AND label = shown_label AS is_kept
    FROM placed JOIN shows USING (impression_id, user_id, item_id)
"""
"""Each row with the show of its item in its request: the row with the smallest label, the earliest of those."""

COMBINED = ("occurred_at", "label", "position", "session_id", "known_at")
KEPT_ROWS = f"""
    SELECT {", ".join(f"kept.{name}" for name in EVENTS.names if name not in COMBINED)},
        CASE WHEN others.clicked_at > others.first_at THEN others.clicked_at ELSE kept.known_at END AS known_at,
        least(kept.occurred_at, others.first_at) AS occurred_at, greatest(kept.label, others.label) AS label,
        coalesce(kept.position, others.position) AS position, coalesce(kept.session_id, others.session_id) AS session_id
    FROM judged AS kept JOIN (
        SELECT impression_id, user_id, item_id, min(occurred_at) AS first_at, max(label) AS label,
            min(greatest(occurred_at, known_at)) FILTER (label >= {CLICKED}) AS clicked_at,
            arg_min(position, place) FILTER (position IS NOT NULL) AS position,
            arg_min(session_id, place) FILTER (session_id IS NOT NULL) AS session_id
        FROM judged WHERE NOT is_apart GROUP BY ALL
    ) AS others USING (impression_id, user_id, item_id) WHERE is_kept
"""
"""The show, and exact copies of it, which validate removes."""

REJECTED_ROWS = f"""
    SELECT file, line, CASE WHEN is_apart THEN '{APART}' ELSE '{JOINED}' END AS reason,
        to_json({{event_id: event_id, user_id: user_id, item_id: item_id, occurred_at: occurred_at::VARCHAR,
            label: label, impression_id: impression_id, position: position, session_id: session_id}})::VARCHAR AS raw
    FROM judged WHERE NOT is_kept
"""


def say(num_renamed: int, num_repeats: int) -> None:
    """Log how many requests got a new impression_id (reused.py), and how many rows repeat an item of their request."""
    if num_renamed:
        log.warning("%s requests reuse an impression_id of their user; each got a new one", f"{num_renamed:,}")
    if num_repeats:
        log.warning("%s rows repeat an item of their request", f"{num_repeats:,}")


def join_repeats(events: pa.Table, join_s: float) -> tuple[pa.Table, pa.Table]:
    """Join the rows of one item in one user's request into one event; the other rows are rejected (REJECTED).

    events: EVENTS, each with its event_id. The event has the event_id, position and session of the show (the row with
    the smallest label, the earliest of those), the largest label and the earliest time; its click counts as known when
    the first row that states it was. A row further than join_s from the show is not joined: it is rejected with a
    reason of its own, because a request may hold an item only once.
    """
    with connect() as connection:
        connection.register("events", events.select(["role", "label", "impression_id", "user_id", "item_id"]))
        key = connection.execute(CANDIDATES).fetchnumpy()["key"]
        connection.unregister("events")
        ordered = np.sort(key)
        shared = np.unique(ordered[1:][(ordered[1:] == ordered[:-1]) & (ordered[1:] != 0)])
        if not len(shared):
            return events, REJECTED.empty_table()
        is_shared = np.isin(key, shared)
        connection.register("rows", events.filter(pa.array(is_shared)))
        connection.execute(JUDGED, {"apart_us": round(join_s * 1_000_000)})
        kept = connection.sql(KEPT_ROWS).to_arrow_table().select(EVENTS.names).cast(EVENTS)
        rejected = connection.sql(REJECTED_ROWS).to_arrow_table().cast(REJECTED)
    return pa.concat_tables([events.filter(pa.array(~is_shared)), kept]), rejected
