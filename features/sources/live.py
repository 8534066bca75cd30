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

    events: pa.Table  # EVENTS: one row an event_id
    contexts: pa.Table  # CONTEXTS: one row an impression that said something of itself
    rejected: pa.Table  # REJECTED: part of another's event, of a user forgotten, or in the log
    num_files: int
    newest_seq: Mapping[str, int]  # of each engine, of all that was ever sealed; 0 without


def read_live(folder: Path, forgotten: Forgotten) -> Live:
    """Read live/<source> whole. Every row is an event or is rejected. Raises InputError for a file that is damaged.

    Of rows with one event_id (a show and its outcome, in whichever files) one event is made: the first acknowledged
    row, a show before an outcome, with the largest label, which was known when the first row that tells it was. An
    outcome whose show is nowhere is an event of its own.
    """
    files = sealed_files(folder)
    tables = [read_sealed(path) for path in files]
    rows = pa.concat_tables(
        [_placed(table, f"live/{folder.name}/{path.name}") for table, path in zip(tables, files, strict=True)]
        or [pa.schema([*LIVE, *PLACE]).empty_table()]
    )
    gone = are_forgotten(rows["user_id"], forgotten)
    buried, rows = tombstones(rows.filter(pa.array(gone))), rows.filter(pa.array(~gone))
    events, left_over = _join(rows)
    rejected = pa.concat_tables([buried, left_over])
    newest = {
        engine: newest_seq([table for table, path in zip(tables, files, strict=True) if engine_of(path) == engine])
        for engine in ENGINES
    }
    return Live(events, _contexts(rows), rejected, len(files), newest)


def without_logged(live: Live, logged: pa.ChunkedArray) -> Live:
    """The live events without those whose event_id the log has, and without the contexts that only these bring.

    logged: the log's event_ids. The log's row takes precedence over a live row with the same event_id.
    """
    if not len(live.events):
        return live
    known = logged.filter(pc.is_in(logged, value_set=live.events["event_id"].combine_chunks())).combine_chunks()
    theirs = pc.is_in(live.events["event_id"], value_set=known)
    left, kept = live.events.filter(theirs), live.events.filter(pc.invert(theirs))
    only_theirs = left["impression_id"].filter(
        pc.invert(pc.is_in(left["impression_id"], value_set=kept["impression_id"].combine_chunks()))
    )
    said = pc.is_in(live.contexts["impression_id"], value_set=only_theirs.combine_chunks())
    return replace(
        live,
        events=kept,
        contexts=live.contexts.filter(pc.invert(said)),
        rejected=pa.concat_tables([live.rejected, tombstones(left, LOGGED)]),
    )


def _placed(table: pa.Table, name: str) -> pa.Table:
    """The file's rows with their place: its name, and their number from 1."""
    columns = (pa.repeat(name, len(table)), pa.array(np.arange(1, len(table) + 1), pa.int64()))
    return pa.table([*table.columns, *columns], schema=pa.schema([*LIVE, *PLACE]))


def _join(rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    """One event (EVENTS) for each event_id, and the rows left over (REJECTED)."""
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
    telling = own & (rows["label"].to_numpy() == labels[np.cumsum(first) - 1])
    known = _first_known(rows["known_at"], telling, starts).cast(TIME)
    events = events.set_column(events.column_names.index("known_at"), "known_at", known)
    return events.select(EVENTS.names).cast(EVENTS), _left_over(rows, np.flatnonzero(~first), own)


def _first_known(known_at: pa.ChunkedArray, telling: np.ndarray, starts: np.ndarray) -> pa.Array:
    """[events] us: the earliest time at which a row with the event's label was known; null if no row says."""
    never = np.iinfo(np.int64).max
    known = known_at.cast(pa.int64()).fill_null(never).to_numpy()
    first = np.minimum.reduceat(np.where(telling, known, never), starts)
    return pa.array(first, mask=first == never)


def _left_over(rows: pa.Table, at: np.ndarray, own: np.ndarray) -> pa.Table:
    """Reject the rows (at) that are no event of their own: a repeated row, or the outcome of a show.

    own: [rows] whether a row is of the user whose event it would be; of another it says nothing.
    """
    revision = rows["revision"].to_numpy()
    repeated = (revision[at] == revision[at - 1]) | ~own[at]
    left = rows.take(pa.array(at))
    return pa.table(
        {
            "file": left["file"],
            "line": left["line"],
            "reason": np.where(repeated, REPEATED, OUTCOME_JOINED).tolist(),
            "raw": _texts(left.select(LIVE.names).to_pylist()),
        },
        schema=REJECTED,
    )


def _texts(rows: Sequence[dict]) -> list[str]:
    return [json.dumps(row, default=str, ensure_ascii=False) for row in rows]


def _contexts(rows: pa.Table) -> pa.Table:
    """What the first acknowledged row of an impression says of its request, where it says anything."""
    said = [pc.is_valid(rows[name]) for name in CONTEXTS.names[1:]]
    anything = pc.and_(pc.is_valid(rows["impression_id"]), pc.or_(pc.or_(said[0], said[1]), said[2]))
    shows = pc.equal(rows["revision"], EVENT)
    told = rows.filter(pc.and_(anything, shows)).sort_by([("impression_id", "ascending"), ("seq", "ascending")])
    if not len(told):
        return CONTEXTS.empty_table()
    names = told["impression_id"].combine_chunks()
    first = np.r_[True, pc.not_equal(names[1:], names[:-1]).to_numpy(zero_copy_only=False)]
    return told.filter(pa.array(first)).select(CONTEXTS.names).cast(CONTEXTS)
