"""Files of the users' counters -> pieces by user (counters_by_user.py): neighbouring files are a unit of an engine."""

import tempfile
from bisect import bisect_left
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from contracts.errors import InputError
from features.engine.engine import Engine
from features.online.counters_by_user import (
    AGAIN,
    BLOCKS,
    OWN,
    PAIRS,
    ROWS,
    USERS,
    USERS_AT_ONCE,
    UserCounters,
    places_among,
)
from features.tables.arrow_file import read_arrow, store_arrow
from features.tables.cache import rename_first
from features.tables.histories import MAPPED_ITEMS, MAPPED_USERS, UserHistories

Int64 = npt.NDArray[np.int64]

ROWS_OF_PIECE = 2_000_000
"""Rows of a piece, or those of one partition with more."""


class Partitions(NamedTuple):
    """A unit: neighbouring files of a table."""

    table: str
    number: int
    files: tuple[Path, ...]

    @property
    def piece(self) -> str:
        """The name of its folder."""
        return f"{self.table}-{self.number:06}"


def split_by_user(engine: Engine, data: Path, histories: UserHistories, folder: Path) -> UserCounters:
    """Make a folder with the pieces of both tables, each a unit.

    Raises InputError where a table has a user or an item that user_histories lacks.
    """
    folder.mkdir()
    histories.store_ids(folder)
    units = [
        Partitions(table, number, files)
        for table in (OWN, PAIRS)
        for number, files in enumerate(_neighbours(sorted((data / table).glob("*.parquet"))))
    ]
    num_users = len(histories.user_ids)
    num_rows = np.zeros(-(-num_users // USERS_AT_ONCE), np.int64)
    for held in engine.map(partial(make_piece, folder), units, "counters by user"):
        num_rows += held
    return UserCounters(folder, tuple(unit.piece for unit in units), num_rows, num_users)


def make_piece(folder: Path, unit: Partitions) -> Int64:
    """Write a piece, at once or not at all; returns how many rows each block of users has in it."""
    with tempfile.TemporaryDirectory(prefix=".piece-", dir=folder, ignore_cleanup_errors=True) as scratch:
        made = Path(scratch, "piece")
        made.mkdir()
        num_rows = _write_piece(folder, unit, made)
        rename_first(made, folder / unit.piece)
    return num_rows


def _write_piece(folder: Path, unit: Partitions, made: Path) -> Int64:
    keys = ["user_id", "item_id"] if unit.table == PAIRS else ["user_id"]
    rows = pa.concat_tables([pq.ParquetFile(path, read_dictionary=keys).read() for path in unit.files])
    names, user = _in_order(rows["user_id"])
    order = np.argsort(user, kind="stable")  # of runs that are in order already, one a partition
    columns = {name: rows[name].cast(pa.int64()).to_numpy()[order] for name in ("occurred_at", "shows", "clicks")}
    if unit.table == PAIRS:
        columns["item"] = _items(folder, rows["item_id"])[order]
    end = np.cumsum(np.bincount(user, minlength=len(names)))
    start = np.r_[0, end[:-1]][: len(end)]
    store_arrow(pa.table(columns), made / ROWS)
    store_arrow(pa.table({"user_id": names, "start": start, "end": end}), made / USERS)
    blocks = _blocks(read_arrow(folder / MAPPED_USERS)["user_id"], names)
    np.save(made / BLOCKS, blocks)
    return np.diff(np.r_[0, end][blocks])


def _in_order(column: pa.ChunkedArray) -> tuple[pa.Array, Int64]:
    """A dictionary-encoded column -> (the ids that it has, in order, each row's position in them)."""
    encoded = column.unify_dictionaries().combine_chunks()
    order = pc.call_function("sort_indices", [encoded.dictionary]).to_numpy()
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return encoded.dictionary.take(pa.array(order)), rank[encoded.indices.to_numpy()]


def _items(folder: Path, column: pa.ChunkedArray) -> npt.NDArray[np.int32]:
    """Each row's item, as its position in the vocabulary."""
    encoded = column.unify_dictionaries().combine_chunks()
    known = read_arrow(folder / MAPPED_ITEMS)["item_id"]
    place = places_among(encoded.dictionary, known)
    if place.null_count:
        stray = encoded.dictionary.filter(place.is_null())[0].as_py()
        raise InputError(f"The counters name item {stray!r}, which the vocabulary lacks. {AGAIN}")
    return place.to_numpy()[encoded.indices.to_numpy()].astype(np.int32)


def _blocks(users: pa.ChunkedArray, names: pa.Array) -> Int64:
    """[num_blocks + 1] the first of the names in each block of users; the first block has those before it too."""
    firsts = [users[first].as_py() for first in range(USERS_AT_ONCE, len(users), USERS_AT_ONCE)]
    inner = [bisect_left(range(len(names)), first, key=lambda place: names[place].as_py()) for first in firsts]
    return np.array([0, *inner, len(names)][: -(-len(users) // USERS_AT_ONCE) + 1], np.int64)


def _neighbours(files: list[Path]) -> Iterator[tuple[Path, ...]]:
    """Files in turn, of at most ROWS_OF_PIECE rows together, or one with more."""
    upto = np.cumsum([0, *(pq.read_metadata(path).num_rows for path in files)])
    starts = [0] if files else []
    for place in range(len(files)):
        if upto[place + 1] - upto[starts[-1]] > ROWS_OF_PIECE and place > starts[-1]:
            starts.append(place)
    yield from (tuple(files[start:end]) for start, end in pairwise([*starts, len(files)]))
