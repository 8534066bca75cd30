"""Validated interactions -> every user's events once, in time order, and the requests that point into them.

Works through the users in ranges of at most RANGE_ROWS rows, so that memory does not grow with the log.
"""
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from ibis.backends.duckdb import Backend

from contracts import schema
from contracts.errors import InputError
from contracts.publish import publish
from contracts.stage import Report, main
from features import engine
from features.convention import CLICKED, micros
from features.history_reader import HistoryWriter
from features.ledger import assemble
from features.params import HistoryParams, RequestParams
from features.requests import group_requests, name_blocks, with_end_offset

log = logging.getLogger("leitmotif")

RANGE_ROWS = 4_000_000
IN_ORDER = ["occurred_at", "item_index", "event_id"]
"""A user's events; a tie goes by item: an event_id made of the event's time would order it otherwise on another day."""
OUTS = ("user_histories", "impressions", "sessions", "ledger")


def run(data: Path, request: RequestParams, history: HistoryParams) -> Report:
    """Raises InputError where the log has one user, no click or no request."""
    with publish(data, *OUTS) as staging:
        scratch = staging / "scratch"
        scratch.mkdir()
        with engine.duckdb(scratch) as connection:
            log_rows = engine.read(connection, data / "validated_interactions")
            users = _count_users(log_rows, history)
            vocabulary = _number_items(connection, data / "items", staging / "user_histories")
            engine.write(users, schema.USERS, staging / "user_histories" / "users.parquet")
            engine.keep(connection, "users", users.select(["user_index", "user_id", "num_rows"]))
            fates, num_sessions = _store(connection, log_rows, users, request, history, staging)
            contexts = engine.read(connection, data / "contexts")
            num_requests = _write_requests(connection, scratch, contexts, staging / "impressions")
        if not num_requests:
            raise InputError(
                f"No request can be made of the log: no row has an impression_id, and none of {len(users):,} users has "
                f"request.min_user_events ({request.min_user_events}) events. Lower it, or map columns.impression_id."
            )
        lengths = users["num_events"].to_numpy()
        engine.write(assemble(data, fates), schema.LEDGER, staging / "ledger" / "ledger.parquet")
    return {
        "num_users": len(users),
        "num_items": len(vocabulary),
        "num_events": int(lengths.sum()),
        "num_impressions": fates["in a request"],
        "num_requests": num_requests,
        "num_sessions": num_sessions,
        "history_length": {
            "median": float(np.median(lengths)),
            "p95": float(np.percentile(lengths, 95)),
            "max": int(lengths.max()),
        },
    }


def _count_users(rows: ir.Table, history: HistoryParams) -> pa.Table:
    """(user_index, user_id, num_rows, num_events), users in order of their id."""
    clicked = rows.label >= CLICKED
    counted = rows.group_by("user_id").agg(
        num_rows=rows.count(), num_events=_is_event(rows, history).sum(), num_clicks=clicked.sum()
    )
    users = counted.order_by("user_id").to_pyarrow()
    if len(users) < 2:
        raise InputError(f"The log has {len(users)} user with a valid row; at least 2 are needed. See its quarantine.")
    if not pc.sum(users["num_clicks"]).as_py():
        raise InputError(
            f"None of {pc.sum(users['num_rows']).as_py():,} valid rows is a click (label >= {CLICKED}). "
            "Check source.columns.label and source.label_threshold."
        )
    return users.append_column("user_index", pa.array(np.arange(len(users), dtype=np.int32)))


def _number_items(connection: Backend, items: Path, folder: Path) -> pa.Table:
    listed = engine.read(connection, items).select("item_id", "categories").order_by("item_id").to_pyarrow()
    index = pa.array(np.arange(len(listed), dtype=np.int32) + schema.FIRST_INDEX)
    vocabulary = listed.append_column("item_index", index)
    engine.write(vocabulary, schema.VOCABULARY, folder / "vocabulary.parquet")
    engine.keep(connection, "vocabulary", vocabulary.select(["item_index", "item_id"]))
    return vocabulary


def _store(
    connection: Backend,
    log_rows: ir.Table,
    users: pa.Table,
    request: RequestParams,
    history: HistoryParams,
    staging: Path,
) -> tuple[Counter[str], int]:
    """Fill user_histories and sessions, and leave each range's request rows in scratch. Returns fates and sessions."""
    writer = HistoryWriter(staging / "user_histories", users["num_events"].to_numpy())
    fates: Counter[str] = Counter()
    num_sessions = 0
    with engine.row_groups(staging / "sessions" / "sessions.parquet", schema.SESSIONS) as append_sessions:
        for first, last in _ranges(users["num_rows"].to_numpy()):
            rows = _number_rows(connection, log_rows, users["user_id"][first].as_py(), users["user_id"][last].as_py())
            rows = _with_blocks(connection, rows, users, request)
            events = engine.keep(connection, "events", _events(rows, history))
            arrays = _arrays(events)
            writer.append(arrays)
            found = _sessions(arrays)
            append_sessions(found)
            num_sessions += len(found)
            _request_rows(rows, events, history).to_parquet(staging / "scratch" / f"requests-{first:09}.parquet")
            fates.update(_fates(rows, history))
            log.info("histories of %s of %s users", f"{last + 1:,}", f"{len(users):,}")
    writer.close()
    return fates, num_sessions


def _ranges(num_rows: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """First and last user of each range of about RANGE_ROWS rows."""
    number = (np.cumsum(num_rows) - 1) // RANGE_ROWS
    starts = np.flatnonzero(np.r_[True, number[1:] != number[:-1]]).tolist()
    yield from zip(starts, [start - 1 for start in [*starts[1:], len(num_rows)]], strict=True)


def _is_event(rows: ir.Table, history: HistoryParams) -> ir.BooleanValue:
    if history.labels == "all":
        return rows.event_id.notnull()
    return (rows.label >= CLICKED) | (rows.role == schema.ROLE_HISTORY)


def _number_rows(connection: Backend, log_rows: ir.Table, first_id: str, last_id: str) -> ir.Table:
    """The rows of users first_id to last_id with user_index, item_index and the user's num_rows."""
    mine = log_rows.filter(log_rows.user_id.between(ibis.literal(first_id), ibis.literal(last_id)))
    joined = mine.inner_join(engine.kept(connection, "users"), "user_id")
    joined = joined.inner_join(engine.kept(connection, "vocabulary"), "item_id")
    stated = ibis.ifelse(joined.role == schema.ROLE_IMPRESSION, joined.impression_id, ibis.null(str))
    numbered = joined.mutate(impression_id=stated).drop("user_id", "item_id")
    return engine.keep(connection, "rows", numbered)


def _with_blocks(connection: Backend, rows: ir.Table, users: pa.Table, request: RequestParams) -> ir.Table:
    """Name a block for each row that may be in a request and has none, of users with enough events."""
    nameless = rows.filter((rows.role == schema.ROLE_IMPRESSION) & rows.impression_id.isnull())
    nameless = nameless.filter(nameless.num_rows >= request.min_user_events)
    events = nameless.order_by(["user_index", *IN_ORDER]).select("user_index", "occurred_at", "event_id").to_pyarrow()
    if not len(events):
        return rows
    blocks = name_blocks(events, users["user_id"], request.block_size, micros(request.block_s))
    named = rows.left_join(engine.keep(connection, "blocks", blocks), "event_id")
    named = named.mutate(impression_id=ibis.coalesce(named.impression_id, named.block)).select(rows.columns)
    return engine.keep(connection, "named_rows", named)


def _events(rows: ir.Table, history: HistoryParams) -> ir.Table:
    """The rows that a history holds, each with the number of its session: a new one after a gap, or as the log says."""
    kept = rows.filter(_is_event(rows, history))
    in_order = ibis.window(group_by="user_index", order_by=IN_ORDER)
    kept = kept.mutate(
        previous_at=kept.occurred_at.lag().over(in_order), previous_id=kept.session_id.lag().over(in_order)
    )
    gap = kept.occurred_at > kept.previous_at + ibis.interval(microseconds=micros(history.session_gap_s))
    stated = kept.session_id.notnull() & kept.previous_id.notnull()
    opens = ibis.ifelse(stated, kept.session_id != kept.previous_id, gap)
    kept = kept.mutate(opens=opens.fill_null(ibis.literal(False)).cast("int64"))
    upto = ibis.cumulative_window(group_by="user_index", order_by=IN_ORDER)
    return kept.mutate(session=kept.opens.sum().over(upto)).select(
        "user_index", "item_index", "occurred_at", "label", "session", "event_id"
    )


def _arrays(events: ir.Table) -> dict[str, npt.NDArray[Any]]:
    table = events.order_by(["user_index", *IN_ORDER]).drop("event_id").to_pyarrow()
    arrays: dict[str, npt.NDArray[Any]] = {name: table[name].to_numpy() for name in table.column_names}
    return arrays | {"occurred_at": pc.cast(table["occurred_at"], pa.int64()).to_numpy()}


def _sessions(events: dict[str, npt.NDArray[Any]]) -> pa.Table:
    """One row a session (contracts.schema.SESSIONS) of events in order of (user, time)."""
    user, session, at = events["user_index"], events["session"], events["occurred_at"]
    opens = np.r_[True, (user[1:] != user[:-1]) | (session[1:] != session[:-1])] if len(user) else np.zeros(0, bool)
    starts = np.flatnonzero(opens)
    ends = np.r_[starts[1:], len(user)][: len(starts)]
    columns = [
        user[starts].astype(np.int32),
        session[starts].astype(np.int32),
        at[starts].astype("datetime64[us]"),
        at[ends - 1].astype("datetime64[us]"),
        (ends - starts).astype(np.int32),
    ]
    kinds = [field.type for field in schema.SESSIONS]
    return pa.table(
        [pa.array(column).cast(kind) for column, kind in zip(columns, kinds, strict=True)], schema=schema.SESSIONS
    )


def _request_rows(rows: ir.Table, events: ir.Table, history: HistoryParams) -> ir.Table:
    """The rows of requests, each with its request's time and end_offset."""
    asked = rows.filter(rows.impression_id.notnull())
    requests = with_end_offset(group_requests(asked), events, micros(history.lag_s))
    joined = asked.inner_join(requests, ["user_index", "impression_id"])
    return joined.select(*requests.columns, "item_index", "label", "position", "event_id")


def _fates(rows: ir.Table, history: HistoryParams) -> dict[str, int]:
    """How many rows are in a request, in a history only, in neither."""
    asked, event = rows.impression_id.notnull(), _is_event(rows, history)
    counted = rows.aggregate(
        asked=asked.sum(), history_only=(~asked & event).sum(), neither=(~asked & ~event).sum()
    ).to_pyarrow()
    asked, history_only, neither = (int(counted[name][0].as_py() or 0) for name in counted.column_names)
    return {"in a request": asked, "in a history only": history_only, "neither: unclicked, in no request": neither}


def _write_requests(connection: Backend, scratch: Path, contexts: ir.Table, folder: Path) -> int:
    """Number all requests by (time, user, name) and write requests.parquet and impressions.parquet."""
    rows = connection.read_parquet(str(scratch / "requests-*.parquet"))
    key = ["request_at", "user_index", "impression_id"]
    requests = rows.select(key).distinct()
    numbered = requests.mutate(request_index=ibis.row_number().over(ibis.window(order_by=key)))
    numbered = engine.keep(connection, "requests", numbered)
    num_requests = engine.write_sorted(
        connection,
        _with_contexts(numbered, contexts),
        ["request_index"],
        schema.REQUESTS,
        folder / "requests.parquet",
    )
    joined = rows.inner_join(numbered, key).rename(occurred_at="request_at")
    order = ["request_index", ibis.asc("position", nulls_first=False), "item_index", "event_id"]
    engine.write_sorted(connection, joined, order, schema.IMPRESSIONS, folder / "impressions.parquet")
    return num_requests


def _with_contexts(requests: ir.Table, contexts: ir.Table) -> ir.Table:
    """Requests with what the log says of each besides its user and candidates."""
    return requests.left_join(contexts, "impression_id")


if __name__ == "__main__":
    main(run)
