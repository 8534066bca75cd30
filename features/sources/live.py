"""The sealed files of live/<source>/ -> events like those of a log, with outcomes joined to their shows."""
# pyright: reportAttributeAccessIssue=false

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contracts.schema import CONTEXTS, LIVE, REJECTED, TIME
from features.sealed.event import ENGINES, EVENT
from features.sealed.files import engine_of, newest_seq, read_sealed, sealed_files
from features.sealed.forgotten import Forgotten, are_forgotten
from features.sources.log import EVENTS
from features.sources.tombstones import tombstones
from features.tables.ledger import OUTCOME_JOINED

REPEATED = "live event repeated"
LOGGED = "live event that the log has"
PLACE = (EVENTS.field("file"), EVENTS.field("line"))


@dataclass(frozen=True)
class Live:
    """All sealed live events of a source."""

    events: pa.Table  # EVENTS: one row per event_id
    contexts: pa.Table  # CONTEXTS: one row per impression that states a context
    rejected: pa.Table  # REJECTED: joined to another row, of a forgotten user, or already in the log
    num_files: int
    newest_seq: Mapping[str, int]  # engine -> the newest sequence number that was ever sealed, 0 if none


def read_live(folder: Path, forgotten: Forgotten) -> Live:
    """Read all of live/<source>. Every row becomes an event or is rejected. Raises InputError for a damaged file.

    Rows with the same event_id (a show and its outcome, in any of the files) become one event: the row acknowledged
    first, a show before an outcome, with the largest label, and the session of the first row that states it. The label
    counts as known when that row was. An outcome without a show is an event of its own.
    """
    files = sealed_files(folder)
    tables = [read_sealed(path) for path in files]
    rows = pa.concat_tables(
        [_placed(table, f"live/{folder.name}/{path.name}") for table, path in zip(tables, files, strict=True)]
        or [pa.schema([*LIVE, *PLACE]).empty_table()]
    )
    gone = are_forgotten(rows["user_id"], forgotten)
    removed, rows = tombstones(rows.filter(pa.array(gone))), rows.filter(pa.array(~gone))
    events, joined = _join(rows)
    rejected = pa.concat_tables([removed, joined])
    newest = {
        engine: newest_seq([table for table, path in zip(tables, files, strict=True) if engine_of(path) == engine])
        for engine in ENGINES
    }
    return Live(events, _contexts(rows), rejected, len(files), newest)


def without_logged(live: Live, logged: pa.ChunkedArray) -> Live:
    """The live events without those whose event_id is in the log, and without contexts that only these have.

    logged: the log's event_ids. The log's row takes precedence over a live row with the same event_id.
    """
    if not len(live.events):
        return live
    known = logged.filter(pc.is_in(logged, value_set=live.events["event_id"].combine_chunks())).combine_chunks()
    theirs = pc.is_in(live.events["event_id"], value_set=known)
    removed, kept = live.events.filter(theirs), live.events.filter(pc.invert(theirs))
    only_theirs = removed["impression_id"].filter(
        pc.invert(pc.is_in(removed["impression_id"], value_set=kept["impression_id"].combine_chunks()))
    )
    is_removed = pc.is_in(live.contexts["impression_id"], value_set=only_theirs.combine_chunks())
    return replace(
        live,
        events=kept,
        contexts=live.contexts.filter(pc.invert(is_removed)),
        rejected=pa.concat_tables([live.rejected, tombstones(removed, LOGGED)]),
    )


def _placed(table: pa.Table, name: str) -> pa.Table:
    """The rows with where they stand: the file's name, and their number from 1."""
    columns = (pa.repeat(name, len(table)), pa.array(np.arange(1, len(table) + 1), pa.int64()))
    return pa.table([*table.columns, *columns], schema=pa.schema([*LIVE, *PLACE]))


def _join(rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    """(one event (EVENTS) per event_id, the rows joined to them (REJECTED))."""
    rows = rows.sort_by([("event_id", "ascending"), ("revision", "ascending"), ("seq", "ascending")])
    if not len(rows):
        return EVENTS.empty_table(), REJECTED.empty_table()
    names = rows["event_id"].combine_chunks()
    first = np.r_[True, pc.not_equal(names[1:], names[:-1]).to_numpy(zero_copy_only=False)]
    starts = np.flatnonzero(first)
    users = rows["user_id"].combine_chunks()
    own = pc.equal(users, users.take(pa.array(starts[np.cumsum(first) - 1]))).to_numpy(zero_copy_only=False)
    labels = np.maximum.reduceat(np.where(own, rows["label"].to_numpy(), -np.inf), starts)
    events = rows.filter(pa.array(first))
    events = events.set_column(events.column_names.index("label"), "label", pa.array(labels, pa.float32()))
    events = events.append_column("arrived_at", events["known_at"])
    has_label = own & (rows["label"].to_numpy() == labels[np.cumsum(first) - 1])
    states_it = np.minimum.reduceat(np.where(has_label, np.arange(len(rows)), len(rows)), starts)
    sessions = rows["session_id"].take(pa.array(states_it))  # as online
    events = events.set_column(events.column_names.index("session_id"), "session_id", sessions)
    known = _first_known(rows["known_at"], has_label, starts).cast(TIME)
    events = events.set_column(events.column_names.index("known_at"), "known_at", known)
    return events.select(EVENTS.names).cast(EVENTS), _joined(rows, np.flatnonzero(~first), own)


def _first_known(known_at: pa.ChunkedArray, has_label: np.ndarray, starts: np.ndarray) -> pa.Array:
    """[events] us: the earliest time at which a row with the event's label was known; null if none has a time."""
    never = np.iinfo(np.int64).max
    known = known_at.cast(pa.int64()).fill_null(never).to_numpy()
    first = np.minimum.reduceat(np.where(has_label, known, never), starts)
    return pa.array(first, mask=first == never)


def _joined(rows: pa.Table, at: np.ndarray, own: np.ndarray) -> pa.Table:
    """REJECTED: the rows (at) that are not an event of their own: repeated rows, and outcomes of a show.

    own: [rows] whether the row's user is that of the event it would join; a row of another user is ignored.
    """
    revision = rows["revision"].to_numpy()
    repeated = (revision[at] == revision[at - 1]) | ~own[at]
    rejected = rows.take(pa.array(at))
    return pa.table(
        {
            "file": rejected["file"],
            "line": rejected["line"],
            "reason": np.where(repeated, REPEATED, OUTCOME_JOINED).tolist(),
            "raw": _texts(rejected.select(LIVE.names).to_pylist()),
        },
        schema=REJECTED,
    )


def _texts(rows: Sequence[dict]) -> list[str]:
    return [json.dumps(row, default=str, ensure_ascii=False) for row in rows]


def _contexts(rows: pa.Table) -> pa.Table:
    """CONTEXTS: of each impression, the first acknowledged row that states a context."""
    given = [pc.is_valid(rows[name]) for name in CONTEXTS.names[1:]]
    has_context = pc.and_(pc.is_valid(rows["impression_id"]), pc.or_(pc.or_(given[0], given[1]), given[2]))
    shows = pc.equal(rows["revision"], EVENT)
    contexts = rows.filter(pc.and_(has_context, shows)).sort_by([("impression_id", "ascending"), ("seq", "ascending")])
    if not len(contexts):
        return CONTEXTS.empty_table()
    names = contexts["impression_id"].combine_chunks()
    first = np.r_[True, pc.not_equal(names[1:], names[:-1]).to_numpy(zero_copy_only=False)]
    return contexts.filter(pa.array(first)).select(CONTEXTS.names).cast(CONTEXTS)
