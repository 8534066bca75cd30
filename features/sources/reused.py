"""A log's events -> the same events, in which an impression_id that a user reuses hours later names a new request.

Some logs number a user's requests from 1 every day. All items of a request are shown together but may be clicked much
later. So an unclicked row begins a new request if it is much later than the rows before it; a click belongs to the
newest request before it.
"""
# pyright: reportAttributeAccessIssue=false

import json

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from contracts.schema import INTERACTIONS, REJECTED, ROLE_IMPRESSION
from features.sources.joined import APART
from features.sources.log import EVENTS
from features.tables.connection import connect
from features.terms.convention import CLICKED

WIDE = f"""
    CREATE TEMP TABLE wide AS SELECT hash(impression_id, user_id) AS key FROM events
    WHERE role = '{ROLE_IMPRESSION}' AND impression_id IS NOT NULL AND user_id IS NOT NULL
    GROUP BY key HAVING max(us) - min(us) > least($shown_us, $join_us)
"""
"""Keys of requests whose rows are far apart in time; most logs have none."""

NUMBERED = f"""
    WITH rows AS (
        SELECT * FROM numbered WHERE role = '{ROLE_IMPRESSION}' AND impression_id IS NOT NULL AND user_id IS NOT NULL
            AND hash(impression_id, user_id) IN (SELECT key FROM wide)
    ), times AS (
        SELECT impression_id, user_id, us, bool_or(coalesce(label < {CLICKED}, false)) AS is_show
        FROM rows GROUP BY impression_id, user_id, us
    ), seen AS (
        SELECT *, lag(us) OVER named AS before_at, max(us) FILTER (is_show) OVER earlier AS shown_at FROM times
        WINDOW named AS (PARTITION BY impression_id, user_id ORDER BY us),
            earlier AS (named ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
    ), parts AS (
        SELECT *, sum((us - before_at > $join_us OR (is_show AND us - coalesce(shown_at, before_at) > $shown_us))::INT)
            OVER (PARTITION BY impression_id, user_id ORDER BY us) AS part FROM seen
    ), requests AS (
        SELECT impression_id, user_id, coalesce(part, 0) AS part, min(us) AS begins_at, bool_or(is_show) AS is_shown
        FROM parts GROUP BY ALL
    )
    SELECT row, requests.part, begins_at, label >= {CLICKED} AND NOT is_shown AND requests.part >
            min(requests.part) OVER (PARTITION BY rows.impression_id, rows.user_id, item_id) AS is_late
    FROM rows JOIN parts USING (impression_id, user_id, us)
    JOIN requests ON requests.impression_id = rows.impression_id AND requests.user_id = rows.user_id
        AND requests.part = coalesce(parts.part, 0)
"""
"""Of each row: which request with its impression_id it belongs to, and whether it is a late click of an earlier one."""


def split_reused(events: pa.Table, shown_s: float, join_s: float) -> tuple[pa.Table, pa.Table, int]:
    """(events, late clicks (REJECTED), number of requests that got a new impression_id).

    events: EVENTS. shown_s: an unclicked row more than this after the rows before it begins a new request, named
    <impression_id>@<its first microsecond>. A click after join_s without any row begins one too, unless an earlier
    request with the same impression_id has its item: such a click is too late to be joined, and is rejected.
    """
    at = events["occurred_at"].cast(pa.int64())
    named = events.select(["role", "impression_id", "user_id", "item_id", "label"]).append_column("us", at)
    limits = {"shown_us": round(shown_s * 1_000_000), "join_us": round(join_s * 1_000_000)}
    with connect() as connection:
        connection.register("events", named)
        connection.execute(WIDE, limits)
        if not connection.execute("SELECT count(*) FROM wide").fetchall()[0][0]:
            return events, REJECTED.empty_table(), 0
        connection.register("numbered", named.append_column("row", pa.array(np.arange(len(events)))))
        found = connection.execute(NUMBERED, limits).fetchnumpy()
    row, part = found["row"], np.asarray(found["part"], np.int64)
    is_late = np.ma.filled(found["is_late"], False).astype(bool)  # null where there is no label
    moved = (part > 0) & ~is_late
    begins = np.zeros(len(events), np.int64)
    begins[row[moved]] = found["begins_at"][moved]
    names = _names(events["impression_id"], begins)
    num = len(pc.unique(names.filter(pa.array(begins != 0))))
    late = np.zeros(len(events), bool)
    late[row[is_late]] = True
    place = events.column_names.index("impression_id")
    renamed = events.set_column(place, EVENTS.field("impression_id"), names)
    return renamed.filter(pa.array(~late)), _rejected(events.filter(pa.array(late))), num


def _names(names: pa.ChunkedArray, begins: npt.NDArray[np.int64]) -> pa.ChunkedArray:
    """<impression_id>@<us> for rows whose request begins at us; unchanged if begins is 0."""
    marked = pc.binary_join_element_wise(names, pa.array(begins).cast(pa.string()), "@")
    return pc.if_else(pa.array(begins != 0), marked, names)


def _rejected(rows: pa.Table) -> pa.Table:
    content = rows.select([name for name in INTERACTIONS.names if name in rows.column_names]).to_pylist()
    columns = {"file": rows["file"], "line": rows["line"], "reason": pa.repeat(APART, len(rows))}
    return pa.table(columns | {"raw": [json.dumps(row, default=str, ensure_ascii=False) for row in content]}, REJECTED)
