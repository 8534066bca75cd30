"""Ranges of users -> parts of the snapshot's files by user: units of work of an engine, joined into the files.

A part holds the row groups that its users have in the file; no unit reads histories or counters of others.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.schema import USER_HISTORY_SNAPSHOT
from features.engine.engine import Engine
from features.online.counters_by_user import USERS_AT_ONCE, USERS_OF_UNIT, UserCounters
from features.online.user_history import user_history_rows, users_at_once
from features.online.user_state import USER_STATE, user_state_of
from features.tables import event_counts
from features.tables.event_counts import USER_EVENTS, event_count_rows
from features.tables.histories import UserHistories
from features.tables.parquet_parts import joining

Int64 = npt.NDArray[np.int64]

USER_HISTORY, USER_STATES = "user_history.parquet", "user_state.parquet"
ROWS_OF_UNIT = 2_000_000
"""Events, or rows of counters, of a unit's users, or one row group with more: seconds of work."""


class Part(NamedTuple):
    """A unit: users [first, last) of a file, by whole row groups."""

    file: str
    first: int
    last: int


@dataclass(frozen=True)
class Parts:
    """What all units share. folder: for the parts; every executor sees it."""

    histories: Path
    counters: UserCounters
    max_length: int
    folder: Path


def write_parts(engine: Engine, parts: Parts, histories: UserHistories, folder: Path) -> dict[str, int]:
    """Write user_history, user_state and user_events (.parquet) into the folder; returns the rows of each."""
    units = _units(histories, parts.counters.num_rows)
    with ExitStack() as stack:
        files = {name: stack.enter_context(joining(folder / name)) for name in (USER_HISTORY, USER_STATES, USER_EVENTS)}
        made = engine.map(partial(make_part, parts), units, "snapshot of ranges of users")
        for unit, part in zip(units, made, strict=True):
            files[unit.file].append(part)
            part.unlink()  # the disk holds it once
    return {name: file.num_rows for name, file in files.items()}


def make_part(parts: Parts, part: Part) -> Path:
    """Write a part under its name by rename; another attempt writes the same bytes."""
    schema, tables = _tables(parts, part)
    path = parts.folder / f"{part.first:012}-{part.file}"
    with tempfile.TemporaryDirectory(prefix=".making-", dir=parts.folder, ignore_cleanup_errors=True) as scratch:
        making = Path(scratch, path.name)
        with pq.ParquetWriter(making, schema, compression="zstd") as writer:
            for rows in tables:
                writer.write_table(rows)
        os.replace(making, path)
    return path


def _tables(parts: Parts, part: Part) -> tuple[pa.Schema, Iterator[pa.Table]]:
    """The schema and the row groups of a part."""
    if part.file == USER_STATES:
        return USER_STATE, user_state_of(parts.counters, part.first, part.last)
    histories = UserHistories.open(parts.histories, parts.counters.folder)
    if part.file == USER_EVENTS:
        return event_counts.SCHEMA, event_count_rows(histories, part.first, part.last)
    rows = user_history_rows(histories, parts.max_length, first=part.first, last=part.last)
    return USER_HISTORY_SNAPSHOT, rows


def _units(histories: UserHistories, counted: Int64) -> list[Part]:
    """Of each file neighbouring row groups; at least one unit, which writes a file of no users.

    counted: rows of counters of each block of users.
    """
    offsets, num_users = histories.offsets, len(histories.user_ids)
    blocks = [min(first, num_users) for first in range(0, num_users + USERS_AT_ONCE, USERS_AT_ONCE)]
    starts = {
        USER_HISTORY: [*(first for first, _ in users_at_once(offsets)), num_users],
        USER_STATES: blocks[: len(counted) + 1],
        USER_EVENTS: [*(first for first, _ in event_counts.users_at_once(offsets)), num_users],
    }
    weights = {name: offsets[firsts] for name, firsts in starts.items()}
    weights[USER_STATES] = np.r_[0, np.cumsum(counted)]
    return [Part(name, *users) for name in starts for users in _grouped(starts[name], weights[name])]


def _grouped(starts: Sequence[int], upto: npt.NDArray[np.integer]) -> Iterator[tuple[int, int]]:
    """Neighbouring row groups, of at most ROWS_OF_UNIT rows and USERS_OF_UNIT users together, or one with more.

    starts: each row group's first user, and the last one's end. upto: rows before each of them.
    """
    place, end = 0, len(starts) - 1
    while place < end:
        by_rows = int(np.searchsorted(upto, upto[place] + ROWS_OF_UNIT, side="right")) - 1
        by_users = int(np.searchsorted(starts, starts[place] + USERS_OF_UNIT, side="right")) - 1
        last = min(end, max(place + 1, min(by_rows, by_users)))
        yield starts[place], starts[last]
        place = last
    if not end:
        yield starts[0], starts[0]
