"""Validated interactions -> every user's events once, in time order, and the requests that point into them.

A partition of the log is sorted once for its content (features/history/pieces.py), so that a day more costs a day's
sorting; what follows is made of the pieces, a range of users at a time, so that memory does not grow with the log.
"""
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from ibis.backends.duckdb import Backend

from contracts import schema
from contracts.errors import InputError
from contracts.publish import publish
from contracts.stage import Report, main
from features.history.blocks import end_offsets
from features.history.pieces import HistoryPiece, pieces_of
from features.history.queries import HISTORY_ONLY, IN_REQUEST
from features.history.request_rows import Moved, find_blocks, write_end_offsets
from features.history.request_writer import write_requests
from features.history.users import UserLog, UserRows, of_pieces
from features.tables import duck
from features.tables.cache import PartitionCache
from features.tables.histories import HistoryWriter
from features.tables.ledger import assemble
from features.tables.partitions import check_times, partitions_of
from features.terms.convention import CLICKED, micros
from features.terms.params import HistoryParams, RequestParams
from features.terms.sessions import SessionRule, number_sessions

log = logging.getLogger("leitmotif")

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

RANGE_ROWS = 2_000_000
OUTS = ("user_histories", "impressions", "sessions", "ledger")


def run(data: Path, request: RequestParams, history: HistoryParams) -> Report:
    """Raises InputError where the log has one user, no click or no request."""
    files = partitions_of(data / "validated_interactions")
    check_times(files)
    kept = data.parent.parent / ".cache" / "histories" / data.name
    with PartitionCache.open(kept) as cache, publish(data, *OUTS) as staging:
        scratch = staging / "scratch"
        scratch.mkdir()
        with duck.duckdb(scratch) as connection:
            pieces = pieces_of(connection, cache, files)
            cache.keep_only({piece.key for piece in pieces})
            user_ids, num_rows = _number_users(connection, pieces, staging / "user_histories")
            num_items = _number_items(connection, data / "items", staging / "user_histories")
            users = UserLog.open(connection, pieces, num_rows, RANGE_ROWS, scratch)
            made = _make_histories(users, request, history, _log_end(pieces), staging)
            contexts = duck.read(connection, data / "contexts")
            num_requests = write_requests(connection, users, user_ids, made.moved, contexts, staging / "impressions")
        if not num_requests:
            raise InputError(
                f"No request can be made of the log: no row has an impression_id, and none of {len(num_rows):,} users "
                f"has request.min_user_events ({request.min_user_events}) events. Lower it, or map "
                "columns.impression_id."
            )
        duck.write(assemble(data, made.fates), schema.LEDGER, staging / "ledger" / "ledger.parquet")
    return {
        "num_users": len(num_rows),
        "num_items": num_items,
        "num_events": int(made.lengths.sum()),
        "num_impressions": made.fates[ASKED],
        "num_requests": num_requests,
        "num_sessions": made.num_sessions,
        "history_length": {
            "median": float(np.median(made.lengths)),
            "p95": float(np.percentile(made.lengths, 95)),
            "max": int(made.lengths.max()),
        },
    }


def _number_users(connection: Backend, pieces: Sequence[HistoryPiece], folder: Path) -> tuple[pa.ChunkedArray, Int64]:
    """(user_id, rows of the log), each [num_users], in order of the ids; the engine keeps `users`."""
    held = of_pieces(connection, pieces, "users")
    counted = held.group_by("user_id").agg(num_rows=held.num_rows.sum(), num_clicks=held.num_clicks.sum())
    users = connection.to_pyarrow(counted.order_by("user_id"))
    if len(users) < 2:
        raise InputError(f"The log has {len(users)} user with a valid row; at least 2 are needed. See its quarantine.")
    if not pc.sum(users["num_clicks"]).as_py():
        raise InputError(
            f"None of {pc.sum(users['num_rows']).as_py():,} valid rows is a click (label >= {CLICKED}). "
            "Check source.columns.label and source.label_threshold."
        )
    index = pa.array(np.arange(len(users), dtype=np.int32))
    numbered = pa.table({"user_index": index, "user_id": users["user_id"]})
    duck.write(numbered, schema.USERS, folder / "users.parquet")
    duck.keep(connection, "users", numbered)
    return users["user_id"], users["num_rows"].cast(pa.int64()).to_numpy()


def _number_items(connection: Backend, items: Path, folder: Path) -> int:
    listed = duck.read(connection, items).select("item_id", "categories").order_by("item_id").to_pyarrow()
    index = pa.array(np.arange(len(listed), dtype=np.int32) + schema.FIRST_INDEX)
    vocabulary = listed.append_column("item_index", index)
    duck.write(vocabulary, schema.VOCABULARY, folder / "vocabulary.parquet")
    duck.keep(connection, "vocabulary", vocabulary.select(["item_index", "item_id"]))
    return len(vocabulary)


def _log_end(pieces: Sequence[HistoryPiece]) -> int:
    """The newest valid row's time, us."""
    last = next(piece for piece in reversed(pieces) if piece.num_rows["rows.arrow"])
    return pc.max(last.table("rows")["occurred_at"]).as_py()


@dataclass(frozen=True)
class _Made:
    """What has been found over all ranges of users."""

    lengths: Int64  # [num_users] events of each history
    fates: Counter[str]
    num_sessions: int
    moved: Moved


def _make_histories(
    users: UserLog, request: RequestParams, history: HistoryParams, log_end: int, staging: Path
) -> _Made:
    """Fill user_histories and sessions, and leave each range's requests in scratch."""
    keep_from = None if history.retention_s is None else log_end - micros(history.retention_s)
    writer = HistoryWriter(staging / "user_histories")
    fates: Counter[str] = Counter()
    num_sessions, moved, newest = 0, [], log_end
    with duck.row_groups(staging / "sessions" / "sessions.parquet", schema.SESSIONS) as append_sessions:
        for number in range(len(users.starts) - 1):
            rows = users.rows(number)
            newest = max(newest, int(rows.click_at.max()))
            event, kept = _events(rows, history, keep_from)
            user = rows.user_index[kept.row]
            lengths = np.bincount(user - rows.first, minlength=rows.last - rows.first + 1)
            events = _arrays(rows, kept, user, history)
            writer.append(lengths, events)
            found = _sessions(user, events)
            append_sessions(found)
            num_sessions += len(found)
            offsets = np.r_[0, np.cumsum(lengths)]
            asked, parts = _ask(users, number, rows, request, history, events["occurred_at"], offsets)
            moved.append(parts)
            fates.update(_fates(asked, event, np.isin(np.arange(len(event)), kept.row)))
            log.info("histories of %s of %s users", f"{rows.last + 1:,}", f"{len(users.num_rows):,}")
    lengths = writer.close({"log_end_us": newest, "keep_from_us": keep_from})
    return _Made(lengths, fates, num_sessions, Moved.all_of(moved))


@dataclass(frozen=True)
class _Facts:
    """What rows tell, each at the time from which on it counts (features/terms/known.py)."""

    row: Int64
    at: Int64
    label: npt.NDArray[np.float32]

    @classmethod
    def of(cls, rows: UserRows) -> "_Facts":
        """By (user, time, item, event_key)."""
        row, late = np.arange(len(rows.label)), np.flatnonzero(rows.click_at > rows.row_at)
        if not len(late) and (rows.row_at == rows.occurred_at).all():
            return cls(row, rows.occurred_at, rows.label)
        shown = rows.label.copy()
        shown[late] = 0  # a click that was not known yet
        row, at = np.r_[row, late], np.r_[rows.row_at, rows.click_at[late]]
        label = np.r_[shown, rows.label[late]]
        order = np.lexsort((rows.event_key[row], rows.item_index[row], at, rows.user_index[row]))
        return cls(row[order], at[order], label[order])

    def take(self, chosen: Bool) -> "_Facts":
        """Some of them."""
        return _Facts(self.row[chosen], self.at[chosen], self.label[chosen])


def _events(rows: UserRows, history: HistoryParams, keep_from: int | None) -> tuple[Bool, _Facts]:
    """[N] which rows are events of a history; and what of them is young enough to be kept."""
    facts = _Facts.of(rows)
    event = (facts.label >= CLICKED) | (rows.kind[facts.row] == HISTORY_ONLY)
    event = np.ones_like(event) if history.labels == "all" else event
    is_event = np.zeros(len(rows.label), bool)
    is_event[facts.row[event]] = True
    return is_event, facts.take(event if keep_from is None else event & (facts.at >= keep_from))


def _arrays(
    rows: UserRows, kept: _Facts, user: npt.NDArray[np.int32], history: HistoryParams
) -> dict[str, npt.NDArray[Any]]:
    """What user_histories holds of the facts that are kept (features.tables.histories.ARRAYS)."""
    names = ("item_index", "event_key", "session_key")
    arrays: dict[str, npt.NDArray[Any]] = {name: getattr(rows, name)[kept.row] for name in names}
    arrays |= {"occurred_at": kept.at, "label": kept.label}
    first = np.r_[True, user[1:] != user[:-1]][: len(user)]
    rule = SessionRule.of(history.session_gap_s, history.session_max_s)
    return arrays | {"session": number_sessions(rule, first, arrays["occurred_at"], arrays["session_key"])}


def _sessions(user: npt.NDArray[np.int32], events: dict[str, npt.NDArray[Any]]) -> pa.Table:
    """One row a session (contracts.schema.SESSIONS) of events in order of (user, time)."""
    session, at = events["session"], events["occurred_at"]
    opens = np.r_[True, (user[1:] != user[:-1]) | (session[1:] != session[:-1])][: len(user)]
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


def _ask(
    users: UserLog,
    number: int,
    rows: UserRows,
    request: RequestParams,
    history: HistoryParams,
    at: Int64,
    offsets: Int64,
) -> tuple[Bool, Moved]:
    """Leave the range's requests in scratch; returns which rows [N] are in one, and requests that go on later.

    at, offsets: times of the range's events and where each user's begin.
    """
    lag_us = micros(history.lag_s)
    named = users.requests(number)
    write_end_offsets(users, number, end_offsets(at, offsets, named.user_index - rows.first, named.request_at - lag_us))
    num_rows = users.num_rows[rows.first : rows.last + 1]
    blocks, in_block = find_blocks(rows, num_rows, request, lag_us, at, offsets)
    blocks.write(users.scratch, number)
    return (rows.kind == IN_REQUEST) | in_block, Moved.of(named)


ASKED = "in a request"


def _fates(asked: Bool, event: Bool, kept: Bool) -> dict[str, int]:
    """How many rows are in a request, in a history only, too old for one, in neither."""
    return {
        ASKED: int(asked.sum()),
        "in a history only": int((~asked & kept).sum()),
        "older than history.retention_s": int((~asked & event & ~kept).sum()),
        "neither: unclicked, in no request": int((~asked & ~event).sum()),
    }


if __name__ == "__main__":
    main(run)
