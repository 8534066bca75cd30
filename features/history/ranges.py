"""A range of users -> its part of the histories, sessions and requests, as files in its folder in scratch."""

import logging
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from contracts import schema
from features.history.blocks import end_offsets
from features.history.queries import HISTORY_ONLY, IN_REQUEST
from features.history.request_rows import END_OFFSETS, Moved, find_blocks
from features.history.users import UserLog, UserRows
from features.tables.arrow_file import store_arrow
from features.tables.cache import rename_first
from features.tables.histories import write_part
from features.terms.convention import CLICKED, micros
from features.terms.params import HistoryParams, RequestParams
from features.terms.sessions import SessionRule, number_sessions

log = logging.getLogger("leitmotif")

Int64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

SESSIONS = "sessions.arrow"
"""File in a range's folder: its sessions (contracts.schema.SESSIONS)."""


@dataclass(frozen=True)
class Ranges:
    """What every range is made of."""

    users: UserLog
    request: RequestParams
    history: HistoryParams
    keep_from: int | None  # us; earlier events are dropped


@dataclass(frozen=True)
class RangeMade:
    """What is said of a range's files."""

    newest_us: int  # the latest time at which one of its rows or clicks counts
    num_sessions: int
    fates: Counter[str]
    moved: Moved


def make_range(ranges: Ranges, number: int) -> RangeMade:
    """Fill the folder of the range `number`, at once or not at all."""
    users = ranges.users
    with tempfile.TemporaryDirectory(prefix=".range-", dir=users.scratch, ignore_cleanup_errors=True) as made:
        told = _fill(ranges, number, Path(made, "range"))
        rename_first(Path(made, "range"), users.range_folder(number))
    return told


def _fill(ranges: Ranges, number: int, folder: Path) -> RangeMade:
    folder.mkdir()
    rows = ranges.users.rows(number)
    event, kept = _events(rows, ranges.history, ranges.keep_from)
    user = rows.user_index[kept.row]
    lengths = np.bincount(user - rows.first, minlength=rows.last - rows.first + 1)
    events = _arrays(rows, kept, user, ranges.history)
    write_part(folder, lengths, events)
    sessions = _sessions(user, events)
    store_arrow(sessions, folder / SESSIONS)
    asked, moved = _ask(ranges, number, rows, events["occurred_at"], np.r_[0, np.cumsum(lengths)], folder)
    fates = _fates(asked, event, np.isin(np.arange(len(event)), kept.row))
    log.info("histories of %s of %s users", f"{rows.last + 1:,}", f"{len(ranges.users.num_rows):,}")
    return RangeMade(int(rows.click_at.max()), len(sessions), Counter(fates), moved)


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


def _ask(ranges: Ranges, number: int, rows: UserRows, at: Int64, offsets: Int64, folder: Path) -> tuple[Bool, Moved]:
    """Leave the range's requests in its folder; returns which rows [N] are in one, and requests that go on later.

    at, offsets: times of the range's events and where each user's begin.
    """
    users, lag_us = ranges.users, micros(ranges.history.lag_s)
    named = users.requests(number)
    ends = end_offsets(at, offsets, named.user_index - rows.first, named.request_at - lag_us)
    np.save(folder / END_OFFSETS, ends.astype(np.int32))
    num_rows = users.num_rows[rows.first : rows.last + 1]
    blocks, in_block = find_blocks(rows, num_rows, ranges.request, lag_us, at, offsets)
    blocks.write(folder)
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
