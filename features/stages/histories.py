"""Validated interactions -> every user's events once, in order of time, and the requests that point into them.

A partition of the log is sorted once for its content (features/history/pieces.py), so that a new day costs one day's
sorting. Histories are built from the pieces by ranges of users, so that memory does not grow with the log.
"""
# pyright: reportAttributeAccessIssue=false, reportOperatorIssue=false

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from ibis.backends.duckdb import Backend

from contracts import schema
from contracts.errors import InputError
from contracts.publish import publish
from contracts.stage import Report, main
from features.engine.engine import HERE, Engine, running
from features.history.pieces import HistoryPiece, pieces_of
from features.history.ranges import ASKED, SESSIONS, Ranges, make_range
from features.history.request_rows import Moved
from features.history.request_writer import write_requests
from features.history.users import UserLog, of_pieces
from features.tables import duck
from features.tables.arrow_file import read_arrow
from features.tables.cache import PartitionCache
from features.tables.histories import HistoryWriter
from features.tables.ledger import assemble
from features.tables.partitions import check_times, partitions_of
from features.tables.row_groups import row_groups
from features.terms.convention import CLICKED, micros
from features.terms.params import EngineParams, HistoryParams, RequestParams

Int64 = npt.NDArray[np.int64]

RANGE_ROWS = 2_000_000
FEW_ROWS = 1.5
"""Rows of a request on average, below which most requests have one."""
log = logging.getLogger("leitmotif")

OUTS = ("user_histories", "impressions", "sessions", "ledger")


def run(data: Path, request: RequestParams, history: HistoryParams, engine: EngineParams = HERE) -> Report:
    """Write histories, requests, sessions and the ledger. Raises InputError for a log of one user, or without any
    click or request.

    engine: sorts the partitions and builds the ranges of users; this process numbers ids and writes requests.
    """
    files = partitions_of(data / "validated_interactions")
    check_times(files)
    folder = data.parent.parent / ".cache" / "histories" / data.name
    with PartitionCache.open(folder) as cache, running(engine, folder) as runner, publish(data, *OUTS) as staging:
        scratch = staging / "scratch"
        scratch.mkdir()
        with duck.duckdb(scratch) as connection:
            pieces = pieces_of(runner, cache, files)
            cache.keep_only({piece.key for piece in pieces})
            user_ids, num_rows = _number_users(connection, pieces, staging / "user_histories")
            num_items = _number_items(connection, data / "items", staging / "user_histories")
            users = UserLog.open(connection, pieces, num_rows, RANGE_ROWS, scratch)
            totals = _make_histories(runner, users, request, history, _log_end(pieces), staging)
            contexts = duck.read(connection, data / "contexts")
            num_requests = write_requests(connection, users, user_ids, totals.moved, contexts, staging / "impressions")
        if not num_requests:
            raise InputError(
                f"No request can be made of the log: no row has an impression_id, and none of {len(num_rows):,} users "
                f"has request.min_user_events ({request.min_user_events}) events. Lower it, or map "
                "columns.impression_id."
            )
        if totals.fates[ASKED] < FEW_ROWS * num_requests:
            log.warning(
                "The %s requests hold %.2f items on average: a request of one item cannot be ranked or judged. Map "
                "source.columns.impression_id, or let more consecutive rows of a user be one request "
                "(request.block_s, now %g s).",
                f"{num_requests:,}",
                totals.fates[ASKED] / num_requests,
                request.block_s,
            )
        duck.write(assemble(data, totals.fates), schema.LEDGER, staging / "ledger" / "ledger.parquet")
    return {
        "num_users": len(num_rows),
        "num_items": num_items,
        "num_events": int(totals.lengths.sum()),
        "num_impressions": totals.fates[ASKED],
        "num_requests": num_requests,
        "num_sessions": totals.num_sessions,
        "history_length": {
            "median": float(np.median(totals.lengths)),
            "p95": float(np.percentile(totals.lengths, 95)),
            "max": int(totals.lengths.max()),
        },
    }


def _number_users(connection: Backend, pieces: Sequence[HistoryPiece], folder: Path) -> tuple[pa.ChunkedArray, Int64]:
    """(user_id, rows in the log), each [num_users], in order of the ids. Creates the table `users` in DuckDB."""
    listed = of_pieces(connection, pieces, "users")
    counted = listed.group_by("user_id").agg(num_rows=listed.num_rows.sum(), num_clicks=listed.num_clicks.sum())
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
    """The time of the newest valid row, us."""
    last = next(piece for piece in reversed(pieces) if piece.num_rows["rows.arrow"])
    return pc.max(last.table("rows")["occurred_at"]).as_py()


@dataclass(frozen=True)
class _Totals:
    """The totals over all ranges of users."""

    lengths: Int64  # [num_users] events of each history
    fates: Counter[str]
    num_sessions: int
    moved: Moved


def _make_histories(
    engine: Engine, users: UserLog, request: RequestParams, history: HistoryParams, log_end: int, staging: Path
) -> _Totals:
    """Write user_histories and sessions; the requests of each range stay in its scratch folder."""
    keep_from = None if history.retention_s is None else log_end - micros(history.retention_s)
    make = partial(make_range, Ranges(users, request, history, keep_from))
    writer = HistoryWriter(staging / "user_histories")
    fates: Counter[str] = Counter()
    num_sessions, moved, newest = 0, [], log_end
    with row_groups(staging / "sessions" / "sessions.parquet", schema.SESSIONS) as append_sessions:
        numbers = range(len(users.starts) - 1)
        for number, part in zip(numbers, engine.map(make, numbers, "histories of ranges of users"), strict=True):
            writer.append(users.range_folder(number))
            append_sessions(read_arrow(users.range_folder(number) / SESSIONS))
            num_sessions += part.num_sessions
            moved.append(part.moved)
            fates.update(part.fates)
            newest = max(newest, part.newest_us)
    lengths = writer.close({"log_end_us": newest, "keep_from_us": keep_from})
    return _Totals(lengths, fates, num_sessions, Moved.all_of(moved))


if __name__ == "__main__":
    main(run)
